"""The parts of config.json, summary.json and study.json that are shown.

All but the key of a row can be missing: older runs lack some.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Config:
    """The parts of config.json that are shown."""

    world: int | None = None
    hosts: tuple[str, ...] = ()
    peak_lr: float | None = None
    resumed_from: str | None = None
    dataset: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """The parts of summary.json that are shown."""

    world: int | None = None
    epochs: int | None = None
    train_loss: float | None = None
    train_acc: float | None = None
    test_loss: float | None = None
    test_acc: float | None = None
    bn_eval: str | None = None
    recalibrated_test_loss: float | None = None
    recalibrated_test_acc: float | None = None
    val_loss: float | None = None
    val_acc: float | None = None
    best_epoch: int | None = None
    stopped_early: bool | None = None
    wall_seconds: float | None = None
    train_seconds: float | None = None
    test_seconds: float | None = None
    images_per_second: float | None = None
    peak_rss_bytes: float | None = None
    dataset: str | None = None
    model: str | None = None
    recipe: str | None = None
    sync: str | None = None
    slowest: str | None = None


@dataclass(frozen=True)
class SweepRow:
    """A batch size: the paper's Table 1, then what ranks and hosts measured."""

    batch_per_node: float
    batch_per_rank: float | None = None
    avg_epoch_s: float | None = None
    mean_step_s: float | None = None
    throughput_img_s: float | None = None
    peak_rss_mb: float | None = None
    process_cpu_pct: float | None = None
    ranks_per_node: float | None = None
    world: float | None = None
    system_cpu_pct: float | None = None
    process_cpu_max_pct: float | None = None
    system_cpu_max_pct: float | None = None
    node_memory_pct: float | None = None
    swap_mb: float | None = None
    temperature_max_c: float | None = None
    clock_min_mhz: float | None = None
    throttled: str | None = None
    wait_pct: float | None = None


@dataclass(frozen=True)
class ScaleRow:
    """A number of processes: the paper's Table 3, then what else was measured."""

    np: float
    nodes: float | None = None
    epochs: float | None = None
    test_acc_pct: float | None = None
    test_loss: float | None = None
    mean_train_loss: float | None = None
    mean_train_acc_pct: float | None = None
    wall_s: float | None = None
    speedup: float | None = None
    efficiency_pct: float | None = None
    scaling: str | None = None
    repeats: float | None = None
    images_per_second: float | None = None
    train_s: float | None = None
    test_s: float | None = None
    wait_pct: float | None = None
    transfer_pct: float | None = None
    target_acc_pct: float | None = None
    time_to_target_s: float | None = None
    recipe: str | None = None
    sync: str | None = None
    steps: float | None = None


@dataclass(frozen=True)
class ForecastRow:
    """A number of processes under one strategy, foretold."""

    np: float
    sync: str | None = None
    nodes: float | None = None
    wall_s: float | None = None
    images_per_second: float | None = None
    speedup: float | None = None
    efficiency_pct: float | None = None
    images_per_joule: float | None = None


@dataclass(frozen=True)
class CollapseRow:
    """A number of workers: accuracies in percent."""

    np: float
    published: float | None = None
    train: float | None = None
    moving: float | None = None
    recalibrated: float | None = None
    modern: float | None = None


ROWS = {
    "sweep": SweepRow,
    "scale": ScaleRow,
    "collapse": CollapseRow,
    "forecast": ForecastRow,
}


@dataclass(frozen=True)
class StudyFields:
    """The parts of study.json that are shown."""

    kind: Literal["sweep", "scale", "collapse", "forecast"]
    rows: tuple[dict[str, Any], ...]
    npnet: str | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
