"""Options that several commands share."""

import math
import os
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from npnet.machine.threads import MOST as MOST_THREADS
from npnet.machine.threads import limit_threads
from npnet.untrusted import read_file

if TYPE_CHECKING:
    from npnet.model.config import ModelConfig

Function = TypeVar("Function", bound=Callable[..., Any])

# Where an option's value comes from, if it is no default: DEFAULT_MAP is a file of options.
GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)

# Named here again because the engine's modules that define them load NumPy; a test compares.
DATASETS = ("shapes", "cifar10", "cifar100")
RECIPES = ("modern", "paper", "finetune")
STRATEGIES = ("gradients", "weights", "gather-bcast")
BACKENDS = ("numba", "reference")
BN_EVALUATIONS = ("moving", "recalibrated", "both")
EVALUATIONS = ("each-epoch", "at-end", "never")
DTYPES = ("float32", "float64")
PADDINGS = ("symmetric", "tf_same")
WIRES = ("float32", "bfloat16")

LONGEST_CONFIG = 2**16  # bytes


def _set_threads(context: click.Context, parameter: click.Parameter, value: int | None) -> int:
    return limit_threads(value)


def threads(function: Function) -> Function:
    return click.option(
        "--threads",
        type=click.IntRange(min=1, max=MOST_THREADS),
        callback=_set_threads,
        is_eager=True,
        help="Threads of BLAS and Numba for each rank.  [default: $OMP_NUM_THREADS, else 1]",
    )(function)


def data_dir(function: Function) -> Function:
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="Folder with the dataset's files.  [default: $NPNET_DATA, ./data, ~/.keras/datasets]",
    )(function)


def dataset_name(function: Function) -> Function:
    return click.option(
        "--dataset",
        type=click.Choice(DATASETS),
        default="cifar10",
        show_default=True,
        help="`shapes` is drawn on the spot and needs no files.",
    )(function)


def dataset(function: Function) -> Function:
    """Which dataset, and where it lies."""
    return dataset_name(data_dir(function))


def data(function: Function) -> Function:
    """A dataset of one's own."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Instead of --dataset: a folder of images, PATH/train/CLASS/* and PATH/val|test/"
        "CLASS/* or PATH/CLASS/*; an .npz; or a file of npnet data pack.",
    )(function)


def taken(function: Function) -> Function:
    """How the images of a dataset are taken."""
    for option in (
        click.option(
            "--skip-damaged",
            is_flag=True,
            help="Of --data: leave out files that are no usable images.",
        ),
        click.option(
            "--stored-size",
            type=click.IntRange(min=1),
            metavar="PIXELS",
            help="Of --data: images are packed so large.  [default: input size / 0.875]",
        ),
        click.option(
            "--val-split",
            type=Finite(0, 1, min_open=True, max_open=True),
            metavar="FRACTION",
            help="Hold out this part of each class's training images to validate on.",
        ),
    ):
        function = option(function)
    return function


class ModelName(click.ParamType):  # type: ignore[type-arg]
    """The name of a model of npnet.model.zoo, which loads NumPy and is therefore asked late."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from npnet.errors import NpnetError
        from npnet.model.zoo import entry

        try:
            entry(value)
        except NpnetError as error:
            self.fail(str(error), param, ctx)
        return str(value)


MODEL_FIELDS = (
    "width",
    "input_size",
    "batch_norm",
    "padding",
    "dropout",
    "bn_epsilon",
    "crop_fraction",
)


def model_name(function: Function) -> Function:
    return click.option(
        "--model",
        "model_name",
        type=ModelName(),
        default="mobilenet_v2",
        show_default=True,
        help="As `npnet info` lists them, such as squeezenet1_1.",
    )(function)


def model_sizes(function: Function) -> Function:
    """A model's own unless told otherwise."""
    for option in (
        click.option(
            "--batch-norm/--no-batch-norm",
            default=None,
            help="Behind each convolution, where a model leaves the choice.  [default: model's]",
        ),
        click.option(
            "--input-size",
            type=click.IntRange(min=1),
            help="Images are resized to this.  [default: model's]",
        ),
        click.option(
            "--width",
            type=click.FloatRange(min=0, min_open=True),
            help="Multiplier of all channel counts.  [default: model's]",
        ),
    ):
        function = option(function)
    return function


def model(function: Function) -> Function:
    """Which model, at its own sizes unless told otherwise."""
    return model_name(model_sizes(function))


def model_config(
    values: dict[str, Any], classes: int, recipe: str = "modern", stored_size: int | None = None
) -> "ModelConfig":
    """The model that the options of `model` name; a recipe may choose some of its fields."""
    from npnet.model.zoo import configure
    from npnet.training.recipe import MODEL_FIELDS as OF_RECIPE

    given = {name: values[name] for name in MODEL_FIELDS if values.get(name) is not None}
    fields = {**OF_RECIPE[recipe], **given}
    return configure(values["model_name"], classes, stored_size=stored_size, **fields)


def augmentation(function: Function) -> Function:
    """How training images differ from epoch to epoch: the recipe's unless told otherwise."""
    for option in (
        click.option(
            "--color-jitter",
            type=Finite(0, 1),
            help="Vary brightness, contrast, saturation by up to this.  [default: recipe's]",
        ),
        click.option(
            "--crop-ratio",
            type=Finite(1, 10),
            help="The largest aspect of such a crop, wide or high.  [default: recipe's]",
        ),
        click.option(
            "--crop-scale",
            type=Finite(0.01, 1),
            help="Crop at random, from this share of the area to all.  [default: recipe's]",
        ),
        click.option(
            "--crop-padding",
            type=click.IntRange(0, 16),
            help="Shift by up to ... px.  [default: recipe's]",
        ),
        click.option(
            "--flip/--no-flip", default=None, help="Mirror half of the images.  [default: recipe's]"
        ),
    ):
        function = option(function)
    return function


def train(function: Function) -> Function:
    return click.option(
        "--train",
        metavar="all|head|last:N|norm",
        help="What of the network is trained: all, its classifier, its N last units and that, or "
        "its batch norms and that.  [default: all]",
    )(function)


def batch(function: Function) -> Function:
    return click.option(
        "--batch", type=click.IntRange(min=1), default=12, show_default=True, help="Images a step."
    )(function)


def bn_eval(function: Function) -> Function:
    return click.option(
        "--bn-eval",
        type=click.Choice(BN_EVALUATIONS),
        default="moving",
        show_default=True,
        help="Test with running statistics, with those of some training images, or both.",
    )(function)


def backend(function: Function) -> Function:
    return click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="numba",
        show_default=True,
        help="Compiled kernels, or the plain NumPy ones to learn from.",
    )(function)


class HomePath(click.Path):
    """A path, whose ~ is the home folder also where no shell has seen it: --out=~/runs, a file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = os.path.expanduser(value)
        if str(path).startswith("~"):
            self.fail(f"there is no home {value}; a file of that name is ./{value}", param, ctx)
        return super().convert(path, param, ctx)


def expand_homes(command: click.Command) -> None:
    """Make every path of a command, and of those in it, a HomePath."""
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        expand_homes(inner)
    for parameter in command.params:
        if type(parameter.type) is click.Path:
            home = HomePath()
            vars(home).update(vars(parameter.type))
            parameter.type = home


class Finite(click.FloatRange):
    """A number in a range, and neither nan nor infinite."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def config_file(function: Function) -> Function:
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        callback=_read_config,
        is_eager=True,
        expose_value=False,
        help="TOML file of option values, such as  epochs = 20;  the command line wins.",
    )(function)


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults of the command's options."""
    if path is None:
        return
    try:
        values = tomllib.loads(read_file(path, LONGEST_CONFIG).decode())
        str(values)  # of a number of thousands of digits Python makes no text
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError, too
        raise click.BadParameter(f"{path} is not TOML: {error}") from error
    names = {
        flag.removeprefix("--"): option.name
        for option in context.command.params
        if option.expose_value
        for flag in option.opts
    }
    repeatable = {
        option.name
        for option in context.command.params
        if isinstance(option, click.Option) and option.multiple
    }
    defaults: dict[str, str | list[str]] = {}
    for key, value in values.items():
        name = names.get(key.replace("_", "-"))
        if name is None:
            raise click.BadParameter(f"{path} sets {key!r}, which is no option of this command")
        several = name in repeatable and isinstance(value, list)
        parts = value if several else [value]
        if any(isinstance(each, list | dict) for each in parts):
            raise click.BadParameter(f"{path} sets {key} to several values, it takes one")
        words = [str(each) for each in parts]  # as they would be written on the command line
        defaults[name] = words if name in repeatable else words[0]
    context.default_map = {**(context.default_map or {}), **defaults}


def arguments(context: click.Context, parameters: Sequence[click.Parameter]) -> list[str]:
    """Those options that were given, as another command that has them takes them."""
    words: list[str] = []
    for parameter in parameters:
        name = parameter.name or ""
        if not isinstance(parameter, click.Option) or not parameter.expose_value:
            continue
        if context.get_parameter_source(name) not in GIVEN:
            continue
        value = context.params.get(name)
        if parameter.is_flag:
            flags = parameter.opts if value else parameter.secondary_opts
            words += flags[:1]
        else:
            for each in (value or ()) if parameter.multiple else (value,):
                words += [parameter.opts[0], str(each)]
    return words
