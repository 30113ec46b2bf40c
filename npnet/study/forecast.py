"""`forecast`: how long training would take on more ranks than there are, by a formula.

P ranks, R on each of N = ceil(P/R) nodes; a network port of latency α and β bytes/s each way; a
message of m bytes, all parameters and the loss.

    epoch    = steps(P) * (step + wait) + exchanges(P) + test / P
    steps(P) = ceil(images / (P * batch))
    wait     = σ * sqrt(2 ln P) a step     the latest of P ranks whose steps vary by σ

    exchange, Allreduce = 2 ceil(log2 N) α + 2 R (N-1)/N m/β + local
    exchange, by root   = 2 ceil(log2 N) α + (P-R) m/β + 2 (N-1)/N m/β + local

Allreduce is a reduce-scatter and an allgather: each rank sends 2 (N-1)/N of its numbers to other
nodes, and the R ranks of a node share a port. By root: all vectors arrive through the root's port,
one mean goes out to all. `local` is what the same takes on one node, measured.

`gradients` has an exchange each step, `weights` one each k steps or each epoch, `gather-bcast` one
by root each epoch; where ranks meet after k steps, the latest is late by σ sqrt(k) sqrt(2 ln P).

Assumed: nodes are alike, nothing else uses them or the network, the switch is not the bottleneck,
nothing of an exchange is hidden behind computing, and `step` is that of a rank whose node computes
with all its ranks. Sources: Thakur, Rabenseifner, Gropp 2005, section 4.5 (Allreduce); Gumbel's
law for the largest of P normal numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log, log2, sqrt

from npnet.study.cases import Row

BASELINE = 2  # processes, as in the paper
STRATEGIES = ("gradients", "weights", "gather-bcast")


@dataclass(frozen=True)
class Network:
    """A node's port. `local_seconds`: an exchange among the ranks of one node."""

    latency_seconds: float
    bytes_per_second: float
    local_seconds: float = 0.0


@dataclass(frozen=True)
class Work:
    """What is to be done, and how long one rank takes for its parts, seconds."""

    images: int
    test_images: int
    batch_per_rank: int
    epochs: int
    message_bytes: int
    step_seconds: float
    step_deviation: float
    test_seconds_per_image: float


def allreduce_seconds(np: int, ranks_per_node: int, size: int, network: Network) -> float:
    """An exchange of `size` bytes a rank, the sum on all."""
    nodes = ceil(np / ranks_per_node)
    sharing = min(np, ranks_per_node)
    over_network = 2 * sharing * (nodes - 1) / nodes * size / network.bytes_per_second
    local = network.local_seconds if sharing > 1 else 0.0
    return 2 * ceil(log2(nodes)) * network.latency_seconds + over_network + local


def by_root_seconds(np: int, ranks_per_node: int, size: int, network: Network) -> float:
    """An exchange of `size` bytes a rank: gathered by the root, the mean broadcast."""
    nodes = ceil(np / ranks_per_node)
    sharing = min(np, ranks_per_node)
    arriving = (np - sharing) * size / network.bytes_per_second
    leaving = 2 * (nodes - 1) / nodes * size / network.bytes_per_second
    local = network.local_seconds if sharing > 1 else 0.0
    return 2 * ceil(log2(nodes)) * network.latency_seconds + arriving + leaving + local


def run_seconds(
    strategy: str,
    np: int,
    ranks_per_node: int,
    work: Work,
    network: Network,
    sync_steps: int | None = None,
) -> float:
    """A whole run, tested after each epoch."""
    steps = ceil(work.images / (np * work.batch_per_rank))
    rounds = {"gradients": steps, "gather-bcast": 1}.get(
        strategy, ceil(steps / (sync_steps or steps))
    )
    exchange = by_root_seconds if strategy == "gather-bcast" else allreduce_seconds
    late = work.step_deviation * sqrt(steps / rounds) * sqrt(2 * log(np)) if np > 1 else 0.0
    each = exchange(np, ranks_per_node, work.message_bytes, network) + late if np > 1 else 0.0
    test = work.test_seconds_per_image * work.test_images / np
    return work.epochs * (steps * work.step_seconds + rounds * each + test)


def table(
    counts: Sequence[int],
    ranks_per_node: int,
    work: Work,
    network: Network,
    sync_steps: int | None = None,
    watts_per_node: float | None = None,
) -> list[Row]:
    """A row for each strategy and number of processes. `images_per_joule`: training images."""
    rows = []
    for strategy in STRATEGIES:

        def seconds(np: int, strategy: str = strategy) -> float:
            return run_seconds(strategy, np, ranks_per_node, work, network, sync_steps)

        for np in counts:
            time = seconds(np)
            nodes = ceil(np / ranks_per_node)
            speedup = seconds(BASELINE) / time
            images = work.epochs * work.images
            rows.append(
                {
                    "sync": strategy,
                    "np": np,
                    "nodes": nodes,
                    "wall_s": time,
                    "images_per_second": images / time,
                    "speedup": speedup,
                    "efficiency_pct": 100 * speedup * BASELINE / np,
                    "images_per_joule": images / (time * nodes * watts_per_node)
                    if watts_per_node
                    else None,
                }
            )
    return rows
