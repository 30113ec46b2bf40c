"""Opening the dataset that the options name, and telling of it while a folder is packed."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.bar import Progress
from npnet.cli.streams import say
from npnet.cli.words import one_line

if TYPE_CHECKING:
    from npnet.data.dataset import Dataset
    from npnet.data.source import Source
    from npnet.parallel.communicator import Communicator


def chosen(values: Mapping[str, Any], input_size: int | None = None) -> "Source":
    """The dataset that the values of options name.

    `input_size`: of the network that its images are for. Raises NpnetError where options
    contradict each other.
    """
    from npnet.data import stored_for
    from npnet.data.source import Source
    from npnet.errors import NpnetError

    data, stored_size = values.get("data"), values.get("stored_size")
    context = click.get_current_context()
    if data is not None and context.get_parameter_source("dataset") in options.GIVEN:
        raise NpnetError("`dataset` and `data` name two datasets: give one of them")
    if data is None and (stored_size is not None or values.get("skip_damaged")):
        raise NpnetError("`stored_size` and `skip_damaged` are for a folder of images, in `data`")
    if data is not None and data.is_dir() and stored_size is None and input_size is not None:
        stored_size = stored_for(input_size)
    return Source(
        str(data.absolute()) if data is not None else values["dataset"],
        stored_size,
        values.get("val_split"),
        values.get("seed", 42),
        bool(values.get("skip_damaged")),
    )


def check_outside(out: Path, source: "Source | None") -> None:
    """Raise NpnetError where what is written would count among the images of a folder."""
    if source is not None and source.is_path and Path(source.name).is_dir():
        check_not_in(Path(source.name), out)


def check_not_in(folder: Path, out: Path) -> None:
    """Raise NpnetError where `out` would count among the images of `folder`."""
    from npnet.errors import NpnetError

    if out.resolve().is_relative_to(folder.resolve()):
        raise NpnetError(
            f"{out} lies in the folder of the images, {folder}, and would be taken for one of "
            "them, or for a class: choose another `out`"
        )


def changed(source: "Source", given: Mapping[str, Any]) -> "Source":
    """The dataset of an earlier run, where it lies by now."""
    data = given.get("data")
    return replace(source, name=str(data.absolute())) if data is not None else source


def opened(
    source: "Source",
    data_dir: Path | None = None,
    comm: "Communicator | None" = None,
    progress: bool = True,
) -> "Dataset":
    """Open a dataset, on all ranks; of a node's, the first one packs and the others wait."""
    from npnet.data import open_dataset
    from npnet.parallel.communicator import SerialCommunicator, together

    comm = comm or SerialCommunicator()
    told = Told(comm, progress)
    packs = source.is_path and Path(source.name).is_dir()
    for turn in (True, False) if comm.broadcast(packs) else (comm.first_of_node,):
        with together(comm):
            if comm.first_of_node is turn:
                try:
                    found = open_dataset(
                        source.name,
                        data_dir,
                        stored_size=source.stored_size,
                        val_split=source.val_split,
                        split_seed=source.split_seed,
                        skip_damaged=source.skip_damaged,
                        packing=told,
                    )
                finally:
                    told.finish()
    return found


class Told:
    """A `Packing` whose rank 0 draws a bar, or a line at times; other nodes tell what matters."""

    def __init__(self, comm: "Communicator", progress: bool = True) -> None:
        self.comm, self.where = comm, f"{comm.hosts[comm.rank]}: " if comm.rank else ""
        stream = sys.stdout if sys.stdout.isatty() else None
        self.bar = Progress(stream) if progress and comm.rank == 0 else None
        self.begun = False

    def said(self, line: str) -> None:
        self.finish()
        say(f"[INFO] {self.where}{one_line(line)}")

    def progress(self, done: int, total: int) -> None:
        clock = self.comm.clock
        clock.enter(clock.phase)  # by which the watchdog sees that something moves
        if self.bar is None:
            return
        label = "Packing the images:"
        if not self.begun:
            self.begun = True
            self.bar.say(f"{label} {total:,}")
        self.bar.show(label, done, total, f"{done:,} of {total:,}")

    def finish(self) -> None:
        if self.bar is not None:
            self.bar.finish()
