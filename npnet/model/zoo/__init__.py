"""The models, one table file an architecture. A file is found by lying here: nothing lists them.

A file's `MODELS` gives each name, spelt as torchvision and timm do, an `Entry`: the function that
appends the operations, and the values that belong to the model unless a user says otherwise.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple

from npnet.errors import NpnetError
from npnet.model.architecture import Architecture, Builder
from npnet.model.config import ModelConfig


class Entry(NamedTuple):
    """A model: its table, the smallest input that makes sense, and its defaults.

    `miniature`: a network of the same blocks, shallow enough to be checked by finite differences.
    `options`: those fields of ModelConfig that the table reads, besides the ones that all do.
    """

    build: Callable[[Builder, ModelConfig], object]
    miniature: Callable[[Builder, ModelConfig], object]
    smallest_input: int
    defaults: Mapping[str, Any]
    options: tuple[str, ...] = ()

    def check(self, config: ModelConfig) -> None:
        """Raise NpnetError where a value does not fit the model."""
        usual = ModelConfig(config.architecture, config.classes, **self.defaults)
        for option in ("width", "batch_norm"):
            if option not in self.options and getattr(config, option) != getattr(usual, option):
                raise NpnetError(f"{config.architecture} comes in one `{option}`: leave it out")
        if config.input_size < self.smallest_input:
            raise NpnetError(
                f"`input_size` {config.input_size} is not in the range >={self.smallest_input} of "
                f"{config.architecture}: give a larger one"
            )


@cache
def models() -> dict[str, Entry]:
    """Every model of the zoo by name."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    return {name: entry for module in modules for name, entry in module.MODELS.items()}


def entry(name: str) -> Entry:
    """The model called `name`. Raises NpnetError if there is none."""
    if name not in models():
        raise NpnetError(f"unknown model {name!r}: choose one of {', '.join(sorted(models()))}")
    return models()[name]


def configure(name: str, classes: int, **given: Any) -> ModelConfig:
    """The config of a model: its defaults, and what is given (None counts as not given)."""
    values = {key: value for key, value in given.items() if value is not None}
    return ModelConfig(name, classes, **{**entry(name).defaults, **values})


def build(config: ModelConfig, miniature: bool = False) -> Architecture:
    """The list of operations that a config stands for, or those of its miniature.

    Raises NpnetError where the architecture is unknown, or a value does not fit it.
    """
    model = entry(config.architecture)
    model.check(config)
    net = Builder(config.input_size)
    (model.miniature if miniature else model.build)(net, config)
    return Architecture(config, tuple(net.operations))
