"""An architecture: a model's list of operations, in topological order, and what derives from it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from npnet.errors import NpnetError
from npnet.model.config import ModelConfig
from npnet.model.operations import Operation
from npnet.model.operations.base import IMAGES
from npnet.model.parameters import Shape


class Builder:
    """Appends operations to a list; each takes its input shapes from those that it names.

    `x = net(Convolution, "stem", IMAGES, channels=32, size=3, stride=2, relu="relu6")`
    """

    def __init__(self, input_size: int) -> None:
        self.operations: list[Operation] = []
        self.shapes: dict[str, Shape] = {IMAGES: (input_size, input_size, 3)}

    def __call__(
        self, kind: Callable[..., Operation], name: str, *inputs: str, **options: Any
    ) -> str:
        """Append an operation of that kind; return its name, for the next one's inputs."""
        if len(set(inputs)) < len(inputs):
            raise ValueError(f"{name} reads an output twice, whose gradient would count once")
        shapes = tuple(self.shapes[each] for each in inputs)
        operation = kind(name, inputs, shapes, **options)
        if min(operation.output_shape) < 1:
            size = self.shapes[IMAGES][0]
            raise NpnetError(
                f"`input_size` {size} is too small: nothing is left of the image at {name}; "
                "give a larger one"
            )
        self.operations.append(operation)
        self.shapes[name] = operation.output_shape
        return name


@dataclass(frozen=True)
class Architecture:
    """A network: what it was built from, and its operations, each after its inputs."""

    config: ModelConfig
    operations: tuple[Operation, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return self.config.architecture

    @property
    def input_size(self) -> int:
        return self.config.input_size

    @property
    def classes(self) -> int:
        return self.config.classes

    @property
    def normalised(self) -> tuple[Operation, ...]:
        """The operations with a batch norm, in order."""
        return tuple(each for each in self.operations if each.statistics_channels)

    @property
    def parameter_count(self) -> int:
        """Trainable parameters; batch norm's running statistics are not among them."""
        return sum(operation.parameter_count for operation in self.operations)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass."""
        return sum(operation.macs for operation in self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)
