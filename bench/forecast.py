"""The forecast against runs, over hosts that are network namespaces of this machine.

    python -m bench.forecast            needs root, iproute2 and MPICH; some minutes

For each case: what a step takes where all ranks compute at once and exchange nothing
(`npnet bench step`), the network as it was limited, and from these the seconds of a step that
npnet/study/forecast.py foretells; beside it those of a run, the second of two epochs. Hosts share
this machine's cores, so no more ranks are started than it has.
"""

import sys
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click

from npnet.cli.study.forecast import timed
from npnet.files import read_table
from npnet.machine.telemetry import node_cores
from npnet.model.parameters import Parameters
from npnet.model.zoo import build, configure
from npnet.parallel.buckets import pieces_of
from npnet.study.forecast import Network, Work, run_seconds
from tests.namespaces import Hosts, hosts

LATENCY = 60e-6  # of a message between two namespaces, `npnet bench sync --pairs`
STEPS = 12
HOW = {
    "behind backward": ("--no-overlap",),
    "during backward": ("--overlap",),
    "bfloat16, behind": ("--no-overlap", "--wire", "bfloat16"),
    "bfloat16, during": ("--overlap", "--wire", "bfloat16"),
    "weights, every 4": ("--sync", "weights", "--sync-steps", "4"),
    "gather-bcast": ("--sync", "gather-bcast"),
}


class Case(NamedTuple):
    ranks_per_host: int
    mbits: int
    batch: int


@click.command()
@click.option("--ranks", default=node_cores(), show_default=True, help="Of all hosts together.")
@click.option("--mbits", default="100,1000", show_default=True)
@click.option("--batches", default="12,96", show_default=True, help="Images a rank and step.")
@click.option("--rounds", default=1, show_default=True, help="Of which medians are taken.")
def main(ranks: int, mbits: str, batches: str, rounds: int) -> None:
    sharing = sorted({1, 2 if ranks >= 4 else 1})
    rates, sizes = ([int(each) for each in text.split(",")] for text in (mbits, batches))
    steps = {batch: timed(["--batch", str(batch)], ranks)[0] / 1e3 for batch in sizes}
    click.echo("hosts ranks  Mbit/s  batch  how                 step, ms  foretold  error")
    errors = []
    for case in (Case(*each) for each in product(sharing, rates, sizes)):
        found: dict[str, list[float]] = {how: [] for how in HOW}
        count = ranks // case.ranks_per_host
        names = [f"host-{number}" for number in range(count)]
        with TemporaryDirectory() as folder, hosts(Path(folder), *names) as cluster:
            for name in names:
                cluster.limit(name, case.mbits)
            for _, how in product(range(rounds), HOW):
                found[how].append(measured(cluster, case, how))
        for how, times in found.items():
            told, took = foretold(case, ranks, how, steps[case.batch]), median(times)
            errors.append(abs(told / took - 1))
            click.echo(
                f"{count:5} {ranks:5} {case.mbits:7} {case.batch:6}  {how:18} {1e3 * took:9.1f} "
                f"{1e3 * told:9.1f} {100 * (told / took - 1):+5.0f} %"
            )
    middle, most = 100 * median(errors), 100 * max(errors)
    click.echo(f"error: {middle:.0f} % in the median, {most:.0f} % at most")


def measured(cluster: Hosts, case: Case, how: str) -> float:
    """Seconds of a step in the second epoch, the slowest rank's."""
    out = cluster.folder / f"run-{len(list(cluster.folder.iterdir()))}"
    done = cluster.run(
        *(sys.executable, "-m", "npnet", "train", "--dataset", "shapes", "--input-size", "128"),
        *("--batch-per-rank", str(case.batch), "--max-steps", str(STEPS), "--epochs", "2"),
        *("--evaluate", "never", "--no-progress", "--out", out, *HOW[how]),
        ranks_per_host=case.ranks_per_host,
        environment={"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    if done.returncode:
        raise click.ClickException(done.stdout + done.stderr)
    rows = [row for row in read_table(out / "log.csv") if row["epoch"] == "2"]
    return max(float(row["seconds"]) for row in rows) / STEPS


def foretold(case: Case, ranks: int, how: str, step: float) -> float:
    """Seconds of a step."""
    architecture = build(configure("mobilenet_v2", classes=10, input_size=128))
    parameters = Parameters(architecture)
    work = Work(
        images=STEPS * ranks * case.batch,
        test_images=0,
        batch_per_rank=case.batch,
        epochs=1,
        message_bytes=parameters.gradients_and_loss.nbytes,
        step_seconds=step,
        step_deviation=0.0,
        test_seconds_per_image=0.0,
        pieces=pieces_of(architecture, parameters) if "during" in how else (),
    )
    network = Network(LATENCY, case.mbits * 1e6 / 8, half_width="bfloat16" in how)
    strategy, sync_steps = "gradients", None
    if how.startswith("weights"):
        strategy, sync_steps = "weights", 4
    elif how == "gather-bcast":
        strategy = how
    return run_seconds(strategy, ranks, case.ranks_per_host, work, network, sync_steps) / STEPS


if __name__ == "__main__":
    main()
