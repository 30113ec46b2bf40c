"""`scale`: how training goes with more ranks, as the paper's section 3.3 and Table 3.

Strong scaling: the same images, shared out among more ranks. Weak scaling: as many steps for each
rank, however many there are, so that all together do more.

    speed-up     S_n = T_b / T_n               strong: wall time of the whole run
                 S_n = images/s_n / images/s_b   weak
    efficiency   E_n = S_n / (n / b)           b: the fewest processes, the paper's 2 or fewer
"""

from collections.abc import Sequence

from npnet.study.cases import Case, Finished, Row, Study, medians
from npnet.study.paper import BY_NP, beside

BESIDE = ("wall_s", "speedup", "efficiency_pct", "test_acc_pct", "mean_train_acc_pct")


def group_of(scaling: str, np: int) -> str:
    """The name of the runs that make a row."""
    return f"{scaling}-np{np:02d}"


def cases(
    scaling: str,
    counts: Sequence[int],
    arguments: Sequence[str],
    *,
    images: int,
    epochs: int,
    batch_per_rank: int,
    ranks_per_node: int,
    max_steps: int | None,
    repeats: int,
) -> list[Case]:
    """The runs. `images`: of the training set; `max_steps`: of an epoch, on the fewest ranks.

    Weak scaling makes as many steps as the most ranks have images for.
    """
    most = max(1, images // (max(counts) * batch_per_rank))

    def steps_of(np: int) -> int | None:
        if scaling == "weak":
            return min(most, max_steps or most)
        return max_steps and max(1, max_steps * min(counts) // np)

    return [
        Case(
            name=f"{group_of(scaling, np)}-{repeat + 1}",
            group=group_of(scaling, np),
            ranks=np,
            arguments=(
                *("--epochs", str(epochs), "--batch-per-rank", str(batch_per_rank)),
                *(("--max-steps", str(steps_of(np))) if steps_of(np) else ()),
                *arguments,
            ),
            epochs=epochs,
            work=epochs * min(images, (steps_of(np) or images) * batch_per_rank * np),
            ranks_per_node=min(ranks_per_node, np),
        )
        for repeat in range(repeats)
        for np in counts
    ]


def table(study: Study, scaling: str, counts: Sequence[int], target: float | None) -> list[Row]:
    """A row for each number of ranks with a finished run: medians over its repeats.

    `target`: a test accuracy, a fraction.
    """
    rows = []
    for np in counts:
        runs = study.finished(group_of(scaling, np))
        if runs:
            row = medians([_row(run, scaling, target) for run in runs])
            rows.append(row | {"repeats": len(runs)})
    return _with_speedup(rows, scaling)


def _row(run: Finished, scaling: str, target: float | None) -> Row:
    summary = run.summary
    nodes = run.config.get("hosts")
    return {
        "nodes": len(set(nodes)) if isinstance(nodes, list) else None,
        "np": summary.world,
        "epochs": summary.epochs,
        "test_acc_pct": None if summary.test_acc is None else 100 * summary.test_acc,
        "test_loss": summary.test_loss,
        "mean_train_loss": summary.train_loss,
        "mean_train_acc_pct": 100 * summary.train_acc,
        "wall_s": summary.wall_seconds,
        "speedup": None,
        "efficiency_pct": None,
        "scaling": scaling,
        "repeats": 1,
        "images_per_second": summary.images_per_second,
        "train_s": summary.train_seconds,
        "test_s": summary.test_seconds,
        "wait_pct": run.share("wait_seconds"),
        "transfer_pct": run.share("transfer_seconds"),
        "target_acc_pct": None if target is None else 100 * target,
        "time_to_target_s": None if target is None else time_to(target, run),
        "recipe": summary.recipe,
        "sync": summary.sync,
        "steps": summary.steps,
    }


def time_to(accuracy: float, run: Finished) -> float | None:
    """Seconds until a test first reached an accuracy (a fraction); None if none did."""
    elapsed = run.by_epoch("elapsed_seconds", max)
    tested = run.by_epoch("test_acc", max).items()
    return next((elapsed.get(epoch) for epoch, reached in tested if reached >= accuracy), None)


def _with_speedup(rows: Sequence[Row], scaling: str) -> list[Row]:
    if not rows:
        return []
    base = rows[0]
    result = []
    for row in rows:
        if scaling == "weak":
            speedup = row["images_per_second"] / base["images_per_second"]
        else:
            speedup = base["wall_s"] / row["wall_s"]
        efficiency = 100 * speedup * base["np"] / row["np"]
        ours = {"speedup": speedup, "efficiency_pct": efficiency}
        result.append(row | ours | beside(BY_NP.get(row["np"]), BESIDE))
    return result
