"""`collapse`: why more ranks learned nothing in the paper, as a table that any cluster can make.

The paper's Table 3 falls from 48.43 % test accuracy at 2 processes to 10.00 %, chance, from 16 on.
For each number of workers the study trains its protocol, tests the same weights twice, with batch
norm's moving statistics as they came about and with recalibrated ones, and trains `modern` beside
it. Workers that outnumber the ranks take turns, so two cores can show what 48 processes learn.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from npnet.errors import NpnetError
from npnet.study.cases import Case, Study
from npnet.study.cases import Row as TableRow
from npnet.study.paper import BY_NP

BATCH = 12  # images a worker and step, as in the paper
# What the paper's runs are given besides its recipe: nothing, or what fits its numbers best, see
# docs/paper.md.
READINGS = {"text": (), "inferred": ("--independent-init", "--dropout", "0.3")}
PAPER_TEST_ACC = {np: row.test_acc_pct / 100 for np, row in BY_NP.items()}


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

    def in_percent(self) -> TableRow:
        """As it stands in the table."""
        accuracies = {name: value for name, value in vars(self).items() if name != "np"}
        percents = {k: None if v is None else 100 * v for k, v in accuracies.items()}
        return {"np": self.np, **percents}


def name_of(recipe: str, workers: int) -> str:
    return f"{recipe}-np{workers:02d}"


def cases(
    counts: Sequence[int],
    recipes: Sequence[str],
    arguments: Sequence[str],
    *,
    images: int,
    epochs: int,
    ranks: int,
    reading: str = "text",
) -> list[Case]:
    """The runs to make on `images` training images, the workers spread over `ranks`.

    `reading`: of the paper's protocol, one of READINGS.

    As in the paper a run is tested once, at its end, but with both kinds of statistics. Raises
    NpnetError if a count cannot be spread evenly, or leaves a worker less than a batch.
    """
    for count in counts:
        if count > images // BATCH:
            raise NpnetError(
                f"{count} workers have less than a batch of {BATCH} each of {images} training "
                f"images: give at most {images // BATCH} to `np`"
            )
        if count % ranks:
            raise NpnetError(
                f"{count} workers cannot be spread over {ranks} ranks: give multiples of {ranks} "
                "to `np`, or another number to `ranks`"
            )
    return [
        Case(
            name=name_of(recipe, count),
            group=name_of(recipe, count),
            ranks=ranks,
            arguments=(
                *("--recipe", recipe, "--epochs", str(epochs), "--batch-per-rank", str(BATCH)),
                *("--workers-per-rank", str(count // ranks)),
                *("--ranks-per-node", str(1 + (count % 2 == 0))),
                *("--evaluate", "at-end", "--bn-eval", "both", *arguments),
                *(READINGS[reading] if recipe == "paper" else ()),
            ),
            epochs=epochs,
            work=epochs,
        )
        for count in counts
        for recipe in recipes
    ]


def table(study: Study) -> list[Row]:
    """All results that lie in the study's folder, beside the paper's if they are of CIFAR-10."""
    rows = []
    counts = (re.search(r"-np([0-9]{1,9})$", name) for name in study.known)
    for count in sorted({int(found[1]) for found in counts if found}):
        paper, modern = (study.finished(name_of(recipe, count)) for recipe in ("paper", "modern"))
        found = [run.summary for run in (*paper, *modern)]
        if found:
            trained = paper[0].summary if paper else None
            rows.append(
                Row(
                    np=count,
                    published=PAPER_TEST_ACC.get(count) if found[0].dataset == "cifar10" else None,
                    train=trained.train_acc if trained else None,
                    moving=trained.test_acc if trained else None,
                    recalibrated=trained.recalibrated_test_acc if trained else None,
                    modern=modern[0].summary.test_acc if modern else None,
                )
            )
    return rows
