"""Options that several commands share."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from npnet.threads import limit_threads

Function = TypeVar("Function", bound=Callable[..., Any])

# Named here again because the engine's modules that define them load NumPy; a test compares.
DATASETS = ("shapes", "cifar10", "cifar100")
RECIPES = ("modern", "paper")
STRATEGIES = ("gradients", "weights", "gather-bcast")
BACKENDS = ("numba", "reference")


def _set_threads(context: click.Context, parameter: click.Parameter, value: int | None) -> int:
    return limit_threads(value)


def threads(function: Function) -> Function:
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        callback=_set_threads,
        is_eager=True,
        help="Threads of BLAS and Numba for each rank.  [default: $OMP_NUM_THREADS, else 1]",
    )(function)


def dataset(function: Function) -> Function:
    function = click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="Folder with the dataset's files.  [default: $NPNET_DATA, ./data, ~/.keras/datasets]",
    )(function)
    return click.option(
        "--dataset",
        type=click.Choice(DATASETS),
        default="cifar10",
        show_default=True,
        help="`shapes` is drawn on the spot and needs no files.",
    )(function)


def backend(function: Function) -> Function:
    return click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        default="numba",
        show_default=True,
        help="Compiled kernels, or the plain NumPy ones to learn from.",
    )(function)


def config_file(function: Function) -> Function:
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        callback=_read_config,
        is_eager=True,
        expose_value=False,
        help="TOML file of option values, such as  batch-per-rank = 12;  the command line wins.",
    )(function)


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Make the file's values the defaults of the command's options."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not TOML: {error}") from error
    known = {option.name for option in context.command.params if option.name}
    defaults = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = sorted(set(defaults) - known)
    if unknown:
        raise click.BadParameter(f"{path} sets {unknown[0]!r}, which is no option of this command")
    context.default_map = {**(context.default_map or {}), **defaults}
