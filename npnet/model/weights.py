"""A network's numbers apart from any run: what a training starts from, what files exchange."""

from dataclasses import dataclass

from npnet.kernels.arrays import Floats
from npnet.model.config import ModelConfig
from npnet.model.parameters import Parameters
from npnet.model.zoo import build


@dataclass(frozen=True)
class Weights:
    """The parameters and running statistics of one network.

    `values` (P,) and `statistics` (2C,) are in the order of `Parameters` of the model `config`.
    `classes`: their names, None where nothing tells them. `source`: what they were read from, for
    people, such as "mobilenet.pth, a state dict of torchvision".
    """

    config: ModelConfig
    values: Floats
    statistics: Floats
    classes: tuple[str, ...] | None
    source: str

    def parameters(self) -> Parameters:
        """The same numbers with a view on each by its name."""
        parameters = Parameters(build(self.config))
        parameters.values[:] = self.values
        parameters.statistics[:] = self.statistics
        return parameters
