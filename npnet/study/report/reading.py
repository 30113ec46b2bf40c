"""What lies in the folders of runs and studies, read as files of a stranger.

Unknown columns and keys are left aside, and what is missing is None: older runs lack some. A value
of another type is an error that names its file. Numbers that are not finite, or absurd, count as
not known, and every text comes out short and printable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from npnet.errors import NpnetError
from npnet.schema import checked_fields
from npnet.study.report.log import Log, read_log
from npnet.study.report.records import ROWS, Config, Results, StudyFields
from npnet.study.report.values import Row, known, plain, read_json
from npnet.training.run_folder import SCORES, RunFolder


@dataclass(frozen=True)
class Run:
    """A run folder. `planned` epochs are None where nothing tells them."""

    folder: Path
    name: str
    config: Config
    log: Log
    results: Results

    @property
    def planned(self) -> int | None:
        epochs = self.config.settings.get("epochs")
        if isinstance(epochs, int) and not isinstance(epochs, bool):
            return epochs
        return self.results.epochs

    @property
    def classes(self) -> int | None:
        found = self.config.model.get("classes")
        return found if isinstance(found, int) and found > 1 else None

    @property
    def recipe(self) -> str | None:
        return _word(self.results.recipe, self.config.recipe.get("name"))

    @property
    def model(self) -> str | None:
        return _word(self.results.model, self.config.model.get("architecture"))

    @property
    def dataset(self) -> str | None:
        return _word(self.results.dataset, self.config.dataset.get("name"))

    @cached_property
    def world(self) -> int | None:
        """Workers."""
        first = next(iter(self.log.epochs.values()), [])
        return self.results.world or self.config.world or len(first) or None

    @cached_property
    def scores(self) -> dict[str, float | None]:
        """Test and training scores at the end: the summary's, or the log's last."""
        names = {**{name: name for name in SCORES}, "train_loss": "loss", "train_acc": "acc"}
        scores = {}
        for name, column in names.items():
            value = getattr(self.results, name, None)
            if value is None:
                means = known(self.log.mean(column).values())
                value = means[-1] if means else None
            scores[name] = value
        return scores

    @cached_property
    def hosts(self) -> list[str]:
        names = self.config.hosts or tuple(host for host in self.log.hosts if host != "?")
        return list(dict.fromkeys(plain(name) for name in names))


@dataclass(frozen=True)
class Study:
    """A study folder; the keys of `rows` are the columns of its kind."""

    folder: Path
    name: str
    kind: str
    npnet: str | None
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    runs: tuple[Run, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(each.name for each in fields(ROWS[self.kind]))


@dataclass(frozen=True)
class Contents:
    """Everything that the given paths hold, in their order."""

    runs: tuple[Run, ...]
    studies: tuple[Study, ...]

    @property
    def all_runs(self) -> tuple[Run, ...]:
        return (*self.runs, *(run for study in self.studies for run in study.runs))


def read(paths: Sequence[Path]) -> Contents:
    """Read runs and studies. Raises NpnetError if a path holds neither, or a file is damaged."""
    folders = [folder for path in paths for folder in _folders_in(path)]
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    studies = [read_study(folder) for folder in distinct if _is_study(folder)]
    theirs = {run.folder.resolve() for study in studies for run in study.runs}
    own = [each for each in distinct if not _is_study(each) and each.resolve() not in theirs]
    names = [folder.resolve().name for folder in own]
    runs = [
        read_run(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(own, names, strict=True)
    ]
    return Contents(tuple(runs), tuple(studies))


def _folders_in(path: Path) -> list[Path]:
    """The path itself if it is a run or a study, else those that lie in it."""
    try:
        if _is_study(path) or _is_run(path):
            return [path]
        inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
        found = [child for child in inside if _is_study(child) or _is_run(child)]
    except OSError as error:
        raise NpnetError(
            f"cannot read {path}: {error.strerror}; give folders of runs or studies"
        ) from error
    if not found:
        raise NpnetError(
            f"{path} holds neither a run nor a study: give a folder with a log.csv or a study.json,"
            " or one that holds such folders"
        )
    return found


def _is_study(folder: Path) -> bool:
    return (folder / "study.json").is_file()


def _is_run(folder: Path) -> bool:
    files = RunFolder(folder)
    return any(file.is_file() for file in (files.log, files.config, files.summary))


def read_run(folder: Path, name: str) -> Run:
    """A run folder, which may lack some of its files. Raises NpnetError if one is damaged."""
    files = RunFolder(folder)
    log = read_log(files.log) if files.log.is_file() else ()
    newest = files.newest_config
    config = _read_record(Config, newest) if newest.is_file() else Config()
    results = _read_record(Results, files.summary) if files.summary.is_file() else Results()
    return Run(folder, plain(name), config, Log(log), results)


def read_study(folder: Path) -> Study:
    """A study folder and the runs in it. Raises NpnetError if a file is damaged."""
    path = folder / "study.json"
    found = _read_record(StudyFields, path)
    record = ROWS[found.kind]
    rows = [
        _checked_row(record, row, f"{path}: row {number}")
        for number, row in enumerate(found.rows, 1)
    ]
    inside = sorted(child for child in folder.iterdir() if _is_run(child))
    return Study(
        folder=folder,
        name=plain(folder.resolve().name),
        kind=found.kind,
        npnet=found.npnet,
        machine=found.machine,
        settings=found.settings,
        rows=tuple(rows),
        runs=tuple(read_run(child, child.name) for child in inside),
    )


def _checked_row(record: type, found: Mapping[str, Any], where: str) -> Row:
    """A row with all columns of its kind. The first column is a count, by which rows are drawn."""
    row = checked_fields(record, _known_keys(record, found), where)
    names = [each.name for each in fields(record)]
    if not row[names[0]] >= 1:
        raise NpnetError(f"{where}: {names[0]} is {row[names[0]]}, where 1 or more was expected")
    texts = {key: plain(value) for key, value in row.items() if isinstance(value, str)}
    return dict.fromkeys(names) | _possible(row) | texts


def _possible(found: Mapping[str, Any]) -> dict[str, Any]:
    """The values, None for numbers that no measurement yields."""
    return {
        name: None
        if isinstance(value, int | float)
        and ((value < 0 and name != "temperature_max_c") or (value > 1 and name.endswith("_acc")))
        else value
        for name, value in found.items()
    }


def _read_record(record: type, path: Path) -> Any:
    found = checked_fields(record, _known_keys(record, read_json(path)), str(path))
    return record(**_possible(found))


def _known_keys(record: type, found: Any) -> Any:
    if not isinstance(found, Mapping):
        return found
    known_keys = {each.name for each in fields(record)}
    return {key: value for key, value in found.items() if key in known_keys}


def _word(*found: Any) -> str | None:
    """The first text, short and printable."""
    return next((plain(each) for each in found if isinstance(each, str) and each), None)
