"""`collapse`: why more ranks learned nothing in the paper, as a table that any cluster can make.

The paper's Table 3 falls from 48.43 % test accuracy at 2 processes to 10.00 %, chance, from 16 on.
For each number of workers the study trains its protocol, tests the same weights twice, with batch
norm's moving statistics as they came about and with recalibrated ones, and trains `modern` beside
it. Workers that outnumber the ranks take turns, so two cores can show what 48 processes learn.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from npnet.data.dataset import Dataset
from npnet.errors import NpnetError
from npnet.files import write_atomically
from npnet.model.config import ModelConfig
from npnet.parallel.communicator import Communicator, together
from npnet.study.paper import TABLE_3
from npnet.training.checkpoint import Checkpoint, load
from npnet.training.recipe import RECIPES
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings
from npnet.training.trainer import Reporter, Trainer

BATCH = 12  # images a worker and step, as in the paper

PAPER_TEST_ACC = {row.np: row.test_acc_pct / 100 for row in TABLE_3}
COLUMNS = ("np", "published", "train", "moving", "recalibrated", "modern")
# Of a run's settings, those that tell where it takes place, or what it reports on the way.
INCIDENTAL = ("workers_per_rank", "ranks_per_node", "evaluate", "evaluate_each_epoch")  # old name


@dataclass(frozen=True)
class Case:
    """One run of the study: a recipe and a number of workers."""

    recipe: str
    workers: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-np{self.workers:02d}"


@dataclass(frozen=True)
class Row:
    """Accuracies (fractions) for one number of workers; None where nothing was run or published.

    `published`: the paper's Table 3. `train`, `moving`, `recalibrated`: the recipe `paper`, its
    last epoch's training accuracy, and the test accuracy of its weights with either statistics.
    `modern`: the test accuracy of that recipe.
    """

    np: int
    published: float | None
    train: float | None
    moving: float | None
    recalibrated: float | None
    modern: float | None


def cases(
    counts: Sequence[int], recipes: Sequence[str], images: int, comm: Communicator
) -> list[Case]:
    """The runs to make on `images` training images.

    Raises NpnetError if a count cannot be spread evenly over the ranks, or leaves a worker less
    than a batch.
    """
    for count in counts:
        if count > images // BATCH:
            raise NpnetError(
                f"{count} workers have less than a batch of {BATCH} each of {images} training "
                f"images: give at most {images // BATCH} to `np`"
            )
        if count < 1 or count % comm.size:
            raise NpnetError(
                f"{count} workers cannot be spread over {comm.size} ranks: give multiples of "
                f"{comm.size} to `np`, or start another number of ranks"
            )
    return [Case(recipe, count) for count in counts for recipe in recipes]


def collapse(
    todo: Sequence[Case],
    dataset: Dataset,
    models: Mapping[str, ModelConfig],
    settings: Settings,
    comm: Communicator,
    folder: Path,
    reporter: Callable[[Case], Reporter],
) -> list[Row]:
    """Train every case that has no result in `folder` yet; a row for each number of workers.

    `models`: the model of each recipe. `settings` are those of all runs but for the workers. A run
    that was interrupted goes on after its last whole epoch; under `paper`, where momenta are the
    workers' own and not saved, these start from zero. Writes collapse.csv, of all that lies in
    `folder`, and a run folder for each case. Raises NpnetError, on every rank and before any run,
    if `folder` holds another study.
    """
    with together(comm):
        if comm.rank == 0:
            for case in (*todo, *_cases_in(folder)):
                check = _settings_of(case, settings, comm)
                found = RunFolder(folder / case.name)
                _check_same(found, case, dataset, models[case.recipe], check)
    for case in todo:
        run, here = RunFolder(folder / case.name), _settings_of(case, settings, comm)
        finished, checkpoint = False, None
        with together(comm):
            if comm.rank == 0:
                finished = run.summary.exists()
                checkpoint = None if finished else _last_checkpoint(run, here.epochs)
        finished, checkpoint = comm.broadcast((finished, checkpoint))
        if not finished:
            recipe = RECIPES[case.recipe]
            what = (dataset, models[case.recipe], recipe, here)
            Trainer(*what, comm, reporter(case), run, checkpoint).run()
    rows = []
    with together(comm):
        if comm.rank == 0:
            rows = table(folder, dataset.name)
            write_atomically(folder / "collapse.csv", as_csv(rows).encode())
    return comm.broadcast(rows)


def _settings_of(case: Case, settings: Settings, comm: Communicator) -> Settings:
    """As in the paper, a run is tested once, at its end; but with both kinds of statistics."""
    return replace(
        settings,
        workers_per_rank=max(1, case.workers // comm.size),
        bn_eval="both",
        evaluate="at-end",
    )


def _cases_in(folder: Path) -> list[Case]:
    """What lies in the folder of a study."""
    names = [path.parent.name.split("-np") for path in folder.glob("*-np*/config.json")]
    return [Case(recipe, int(count)) for recipe, count in names if recipe in RECIPES]


def table(folder: Path, dataset: str) -> list[Row]:
    """The results that lie in `folder`, beside the paper's if they are of CIFAR-10."""
    rows = []
    for count in sorted({case.workers for case in _cases_in(folder)}):
        paper = _summary(folder / Case("paper", count).name)
        rows.append(
            Row(
                np=count,
                published=PAPER_TEST_ACC.get(count) if dataset == "cifar10" else None,
                train=paper.get("train_acc"),
                moving=paper.get("test_acc"),
                recalibrated=paper.get("recalibrated_test_acc"),
                modern=_summary(folder / Case("modern", count).name).get("test_acc"),
            )
        )
    return rows


def as_csv(rows: Sequence[Row]) -> str:
    """The table, accuracies in percent."""
    lines = [",".join(COLUMNS)]
    for row in rows:
        accuracies = [getattr(row, name) for name in COLUMNS[1:]]
        percents = ["" if value is None else f"{100 * value:.2f}" for value in accuracies]
        lines.append(",".join([str(row.np), *percents]))
    return "\n".join(lines) + "\n"


def _summary(folder: Path) -> dict[str, Any]:
    path = RunFolder(folder).summary
    return _read_json(path) if path.exists() else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NpnetError(f"cannot read {path}: {error}; remove its folder to run again") from error
    return content


def _check_same(
    run: RunFolder, case: Case, dataset: Dataset, model: ModelConfig, settings: Settings
) -> None:
    """What lies in a run's folder must be of this very study."""
    if not run.config.exists():
        return
    found, recipe = _read_json(run.config), RECIPES[case.recipe].as_dict()
    names = ("model", "settings", "recipe")
    theirs = (found.get("dataset", {}).get("name"), *(found.get(name) for name in names))
    mine = json.loads(json.dumps((dataset.name, model.as_dict(), asdict(settings), recipe)))
    for name, *both in zip(("dataset", *names), theirs, mine, strict=True):
        one, other = map(_what_counts, both)
        if one != other:
            raise NpnetError(
                f"{run.path} holds a run of another study, {name} {_difference(one, other)}: "
                "choose another `out`, or remove that folder to run it again"
            )


def _what_counts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: each for key, each in value.items() if key not in INCIDENTAL}
    return value


def _difference(one: Any, other: Any) -> str:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return f"{one} instead of {other}"
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return ", ".join(f"{key} {one.get(key)} instead of {other.get(key)}" for key in keys)


def _last_checkpoint(run: RunFolder, epochs: int) -> Checkpoint | None:
    """Where an interrupted run goes on."""
    paths = [run.epoch(number) for number in range(1, epochs)]
    existing = [path for path in paths if path.exists()]
    return load(existing[-1]) if existing else None
