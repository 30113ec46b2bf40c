"""What all contestants are given: a network with its numbers, images, labels."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npnet.kernels.arrays import Floats, Ints
from npnet.model import zoo
from npnet.model.architecture import Architecture
from npnet.model.config import ModelConfig
from npnet.model.network import BatchNorm, Network
from npnet.model.parameters import Parameters, initialise
from npnet.training.parts import Parts, parts_of
from npnet.training.recipe import MODERN

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
CLASSES = 10


class Task(NamedTuple):
    """One step of training (SGD with Nesterov momentum, decay of weights alone), or of inference.

    `train`: which part is trained, see npnet/training/parts.py; batch norms of the rest normalise
    with running statistics. `values`, `statistics` as in Parameters; `images` (n,S,S,3) float32,
    `labels` (n,).
    """

    inference: bool
    train: str
    config: ModelConfig
    values: Floats
    statistics: Floats
    images: Floats
    labels: Ints

    @property
    def architecture(self) -> Architecture:
        return zoo.build(self.config)

    @property
    def parts(self) -> Parts:
        """What is trained of the network."""
        return parts_of(self.architecture, replace(MODERN, train=self.train))

    @property
    def learning_rate(self) -> float:
        """Far smaller without batch norm: one step of 0.01 takes SqueezeNet 1.0 from a loss of 2 to
        one of 17, and soon to logits that are all cut off, where there is no gradient.
        """
        return 0.01 if self.config.batch_norm else 1e-4

    @property
    def parameters(self) -> Parameters:
        """The task's numbers under their names."""
        parameters = Parameters(self.architecture)
        self.fill(parameters)
        return parameters

    def fill(self, parameters: Parameters) -> None:
        parameters.values[:], parameters.statistics[:] = self.values, self.statistics

    def save(self, path: Path) -> None:
        np.savez(path, **self._asdict() | {"config": json.dumps(self.config.as_dict())})

    @classmethod
    def load(cls, path: Path) -> "Task":
        with np.load(path, allow_pickle=False) as file:
            fields = {name: file[name] for name in cls._fields}
        config = ModelConfig.from_dict(json.loads(fields["config"].item()), str(path))
        inference = bool(fields["inference"])
        train = str(fields["train"])
        return cls(**fields | {"inference": inference, "train": train, "config": config})


def configure(
    model: str,
    width: float | None = None,
    input_size: int | None = None,
    batch_norm: bool | None = None,
) -> ModelConfig:
    """A model with the zoo's defaults where nothing is given, but without dropout: programs draw
    other numbers.
    """
    given = {"width": width, "input_size": input_size, "batch_norm": batch_norm}
    return zoo.configure(model, CLASSES, dropout=0.0, **given)


def draw_task(inference: bool, batch: int, config: ModelConfig, train: str = "all") -> Task:
    """All is trained from initial weights; a part, and inference, of a network that has seen
    images.
    """
    rng = np.random.default_rng(0)
    architecture, size = zoo.build(config), config.input_size
    # Each has a colour and a contrast: plain noise looks all alike to a network that averages it.
    noise = rng.standard_normal((batch, size, size, 3))
    contrasts, colours = (
        rng.uniform(0.3, 2, (batch, 1, 1, 1)),
        rng.standard_normal((batch, 1, 1, 3)),
    )
    images = (contrasts * noise + colours).astype(np.float32)
    labels = rng.integers(0, config.classes, batch)
    parameters = Parameters(architecture)
    initialise(parameters, MODERN.initialiser, seed=0)
    if inference or train != "all":
        parameters = _seasoned(architecture, parameters, images, rng)
    numbers = parameters.values, parameters.statistics
    return Task(inference, train, config, *numbers, images, labels)


def _seasoned(
    architecture: Architecture, start: Parameters, images: Floats, rng: np.random.Generator
) -> Parameters:
    """Parameters whose biases and batch norms all do something, so that folding them can go wrong.

    Random gammas, betas and biases, and the running statistics of three forward passes.
    """
    batch = len(images)
    network = Network(architecture, batch, bn=BatchNorm(momentum=0.2))
    parameters = network.parameters
    parameters.values[:] = start.values
    for spec in parameters.specs:
        if spec.role == "gamma":
            parameters.value(spec.name)[...] = rng.uniform(0.5, 1.5, spec.shape)
        elif spec.role in ("beta", "bias"):
            parameters.value(spec.name)[...] = rng.uniform(-0.5, 0.5, spec.shape)
    for _ in range(3):
        network.images[:] = images + 0.5 * rng.standard_normal(images.shape)
        network.forward(batch, training=True)
    return parameters
