"""What the report says in sentences: results, and what to notice."""

from collections.abc import Iterator, Sequence

from npnet.study.figures import PHASES
from npnet.study.report.groups import Group, Named
from npnet.study.report.log import phases_of, throttling
from npnet.study.report.page import number
from npnet.study.report.reading import Run, Study
from npnet.study.report.values import Row, known, plain

# From where on something is worth a sentence.
POINTS = 0.05  # accuracy that recalibration brings back
OVERFIT = 0.10  # training accuracy above test accuracy
WAITING = 0.10  # part of the ranks' time
HOT = 80.0  # degrees Celsius: a Raspberry Pi 4 slows down
SWAP = 1e6  # bytes
STALL = 1.0  # seconds
CHANCE = 1.2  # times chance
EFFICIENT = 80  # % of ideal speed-up

SENTENCE = 300  # characters of one from a file

TITLES = {
    "np": "processes (np)",
    "batch_per_node": "batch a node",
    "batch_per_rank": "batch a rank",
    "avg_epoch_s": "an epoch, s",
    "mean_step_s": "a step, s",
    "throughput_img_s": "images/s",
    "peak_rss_mb": "peak memory, MB",
    "process_cpu_pct": "processor, process, %",
    "ranks_per_node": "ranks a node",
    "world": "ranks",
    "system_cpu_pct": "processor, host, %",
    "process_cpu_max_pct": "largest, process, %",
    "system_cpu_max_pct": "largest, host, %",
    "node_memory_pct": "ranks' part of the host's memory, %",
    "swap_mb": "swap, MB",
    "temperature_max_c": "highest temperature, °C",
    "clock_min_mhz": "lowest clock, MHz",
    "throttled": "throttled",
    "wait_pct": "waiting, %",
    "nodes": "nodes",
    "epochs": "epochs",
    "test_acc_pct": "test accuracy, %",
    "test_loss": "test loss",
    "mean_train_loss": "train loss",
    "mean_train_acc_pct": "train accuracy, %",
    "wall_s": "time, s",
    "speedup": "speed-up",
    "efficiency_pct": "efficiency, %",
    "scaling": "scaling",
    "repeats": "repeats",
    "images_per_second": "images/s",
    "images_per_joule": "images/J",
    "train_s": "training, s",
    "test_s": "testing, s",
    "transfer_pct": "transfer, %",
    "target_acc_pct": "target accuracy, %",
    "time_to_target_s": "time to target, s",
    "recipe": "recipe",
    "sync": "sync",
    "steps": "steps an epoch",
    "published": "published",
    "train": "train",
    "moving": "moving",
    "recalibrated": "recalibrated",
    "modern": "modern",
}


def percent(fraction: float | None) -> str:
    return "not known" if fraction is None else f"{100 * fraction:.1f} %"


def duration(seconds: float) -> str:
    """Seconds in the words of a clock."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{number(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def megabytes(size: float | None) -> float | None:
    return None if size is None else size / 1e6


def counted(count: float, word: str) -> str:
    several = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{count:g} {word if count == 1 else several}"


def listed(words: list[str], most: int = 6) -> str:
    """a, b and c; or the first of many."""
    distinct = list(dict.fromkeys(words))
    if len(distinct) > most:
        return f"{', '.join(distinct[: most - 1])} and {len(distinct) - most + 1} more"
    return " and ".join(filter(None, [", ".join(distinct[:-1]), *distinct[-1:]]))


def wall_seconds(run: Run) -> float | None:
    """From the start to the last epoch; of a resumed run, all its starts where the log knows."""
    times = [*known(run.log.elapsed.values()), *known([run.results.wall_seconds])]
    return max(times, default=None)


def best(groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
    """The best results, each with its name."""
    runs = [each for group in groups for each in group.runs]
    tested = [each for each in runs if each.run.scores["test_acc"] is not None]
    if tested:
        top = max(tested, key=lambda each: each.run.scores["test_acc"] or 0.0)
        words = f"{percent(top.run.scores['test_acc'])} test accuracy"
        again = top.run.scores["recalibrated_test_acc"]
        if again is not None:
            words += f" ({percent(again)} with recalibrated batch-norm statistics)"
        epochs, seconds = len(top.run.log.epochs), wall_seconds(top.run)
        words += f" after {counted(epochs, 'epoch')}" if epochs else ""
        words += f", {duration(seconds)}" if seconds else ""
        yield "Best result", f"{words}: {top.label}"
    for group in groups:
        if group.study is not None:
            sentence = _of_study(group.study)
            if sentence:
                yield group.title, sentence


def _of_study(study: Study) -> str | None:
    rows = study.rows
    if study.kind == "sweep":
        timed = [row for row in rows if row["throughput_img_s"] is not None]
        if not timed:
            return None
        top = max(timed, key=lambda row: row["throughput_img_s"])
        return (
            f"fastest at {number(top['batch_per_node'])} images a node and step on "
            f"{counted(top['ranks_per_node'], 'rank')}: {number(top['throughput_img_s'])} images/s"
        )
    if study.kind == "scale":
        return "; ".join(_of_most(rows, "scaling")) or None
    if study.kind == "forecast":
        return "; ".join(_of_most(rows, "sync")) or None
    pairs = [row for row in rows if row["moving"] is not None and row["recalibrated"] is not None]
    if not pairs:
        return None
    top = max(pairs, key=lambda row: row["np"])
    words = f"at {number(top['np'])} processes the paper's protocol tests at "
    words += f"{number(top['moving'])} %, the same weights recalibrated at "
    words += f"{number(top['recalibrated'])} %"
    return words + (f", modern at {number(top['modern'])} %" if top["modern"] is not None else "")


def _of_most(rows: Sequence[Row], way: str) -> Iterator[str]:
    """The speed-up of the most processes, for each value of the column `way`."""
    timed = [row for row in rows if row["speedup"] is not None]
    for value in dict.fromkeys(row[way] for row in timed):
        top = max((row for row in timed if row[way] == value), key=lambda row: row["np"])
        words = f"{way} {value}, " if value else ""
        words += f"{number(top['np'])} processes: speed-up {number(top['speedup'])}"
        if top["efficiency_pct"] is not None:
            words += f", efficiency {number(top['efficiency_pct'])} %"
        yield words


def notable(named: Named) -> str:
    """What a reader of this run should not miss: sentences, or nothing."""
    run = named.run
    sentences = [*_of_progress(run), *_of_accuracy(run), *_of_time(run), *_of_hosts(run)]
    name = f"{named.label}: " if named.letter and sentences else ""
    return name + " ".join(sentences)


def _of_progress(run: Run) -> Iterator[str]:
    done = len(run.log.epochs)
    if run.results.stopped_early:
        best = run.results.best_epoch
        yield f"It stopped early, after {counted(done, 'epoch')}: epoch {best} is the best."
    elif run.planned is not None and run.log.rows and done < run.planned:
        yield f"{done} of {counted(run.planned, 'epoch')} were trained."


def _of_accuracy(run: Run) -> Iterator[str]:
    moving, again = run.scores["test_acc"], run.scores["recalibrated_test_acc"]
    train, classes = run.scores["train_acc"], run.classes
    if moving is None:
        return
    if classes is not None and moving < CHANCE / classes:
        yield f"The test accuracy, {percent(moving)}, is that of chance for {classes} classes."
    if again is not None and again - moving > POINTS:
        yield (
            f"With recalibrated batch-norm statistics the same weights reach {percent(again)} "
            f"instead of {percent(moving)}: it is the running statistics that are wrong."
        )
    elif train is not None and train - max(moving, again or 0.0) > OVERFIT:
        yield (
            f"The training accuracy, {percent(train)}, is far above the test accuracy, "
            f"{percent(moving)}: the network overfits."
        )


def slowest(run: Run) -> str:
    """The summary's sentence about the slowest rank, or nothing."""
    sentence = plain(run.results.slowest or "", SENTENCE)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _of_time(run: Run) -> Iterator[str]:
    if run.results.slowest:
        yield slowest(run)
    total = dict.fromkeys(PHASES, 0.0)
    for rank in run.log.ranks.values():
        for row in rank.values():
            for phase, seconds in phases_of(row).items():
                total[phase] += seconds
    everything = sum(total.values())
    if everything and total["wait"] > WAITING * everything:
        yield f"The ranks waited for each other {percent(total['wait'] / everything)} of the time."
    if everything and total["transfer"] > WAITING * everything:
        share = percent(total["transfer"] / everything)
        yield f"The exchange between ranks took {share} of the time."
    rows = [row for row in run.log.rows if (row["longest_stall_seconds"] or 0.0) > STALL]
    if rows:
        row = max(rows, key=lambda row: row["longest_stall_seconds"])
        place = f"epoch {row['epoch']}, rank {row['rank']} ({row['host']})"
        if row["longest_stall_step"] is not None:
            place = f"step {number(row['longest_stall_step'])} of {place}"
        what = f" in {row['longest_stall_phase']}" if row["longest_stall_phase"] else ""
        yield f"The longest stall was {duration(row['longest_stall_seconds'])}{what}: {place}."


def _of_hosts(run: Run) -> Iterator[str]:
    for host, epochs in run.log.hosts.items():
        told = [throttling(rows) for rows in epochs.values()]
        words = [each for each in told if each not in ("", "no")]
        if words:
            yield (
                f"{host} was throttled ({listed(words)}) in {len(words)} of "
                f"{counted(len(told), 'epoch')}."
            )
    hottest = max(
        (row for row in run.log.rows if row["temperature_celsius"] is not None),
        key=lambda row: row["temperature_celsius"],
        default=None,
    )
    if hottest is not None and hottest["temperature_celsius"] >= HOT:
        yield (
            f"{hottest['host']} was at {number(hottest['temperature_celsius'])} °C at the end of "
            f"epoch {hottest['epoch']}."
        )
    swapped = max(run.log.rows, key=lambda row: row["swap_bytes"] or 0.0, default=None)
    if swapped is not None and (swapped["swap_bytes"] or 0.0) > SWAP:
        size = number((megabytes(swapped["swap_bytes"]) or 0.0) // 1)
        yield f"Rank {swapped['rank']} ({swapped['host']}) had {size} MB in swap."


def notable_of_study(study: Study) -> str:
    """The same, of a study's rows."""
    measured = study.rows if study.kind != "forecast" else ()
    sentences = [*_of_scaling(measured), *_of_throttling(measured)]
    return f"Study {study.name}: {' '.join(sentences)}" if sentences else ""


def _of_scaling(rows: Sequence[Row]) -> Iterator[str]:
    slow = [row for row in rows if (row.get("efficiency_pct") or 100.0) < EFFICIENT]
    if slow:
        first = min(slow, key=lambda row: row["np"])
        yield (
            f"The efficiency is below {EFFICIENT} % from {number(first['np'])} processes on "
            f"({number(first['efficiency_pct'])} %)."
        )
    never = [
        number(row["np"])
        for row in rows
        if row.get("target_acc_pct") is not None and row.get("time_to_target_s") is None
    ]
    if never:
        yield f"{listed(never)} processes never reached the target accuracy."


def _of_throttling(rows: Sequence[Row]) -> Iterator[str]:
    throttled = [row for row in rows if (row.get("throttled") or "no") != "no"]
    if throttled:
        batches = listed([number(row["batch_per_node"]) for row in throttled])
        yield f"The host was throttled at {batches} images a node."
