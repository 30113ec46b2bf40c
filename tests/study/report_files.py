"""Folders of runs and studies as npnet leaves them, with invented but consistent numbers."""

import csv
import json
import math
from pathlib import Path

import numpy as np

from npnet.study import forecast
from npnet.study.figures import PHASES
from npnet.study.paper import TABLE_1, TABLE_3

MACHINE = {
    "host": "pi-01", "system": "Linux aarch64", "processor": "Raspberry Pi 4 Model B Rev 1.4",
    "cores": 4, "memory_bytes": 8_189_296_640, "python": "3.11.2", "numpy": "2.4.6",
    "numba": "0.68.1", "mpi4py": "4.1.2", "npnet": "0.1.0", "commit": "0123456789ab",
}  # fmt: skip
RECIPES = {
    "modern": {"name": "modern", "sync": "gradients", "lr": None, "momentum": 0.95, "freeze": []},
    "paper": {"name": "paper", "sync": "gather-bcast", "lr": 5e-4, "momentum": 0.9, "freeze": []},
}
SLOWEST = (
    "rank 3 (pi-02) kept the others waiting for 94.1 s: it computes slowly, 1.35 times the "
    "processor time of the others; its host is throttled: frequency capped"
)
# Seconds of an epoch of one rank, but for waiting.
SECONDS = {
    "input": 2.1, "forward": 21.0, "backward": 48.0, "transfer": 6.5, "update": 3.2, "test": 7.5,
    "checkpoint": 0.6, "other": 1.1,
}  # fmt: skip


def write_run(
    folder: Path, ranks: int = 4, epochs: int = 6, recipe: str = "modern", planned: int = 0
) -> Path:
    """A run whose rank 3 is throttled and slower than the others, from the middle on.

    Under `paper` the moving statistics test at chance. `planned`: epochs, if not as many as done.
    """
    folder.mkdir(parents=True)
    rows: list[dict] = []
    for epoch in range(1, epochs + 1):
        elapsed = rows[-1]["elapsed_seconds"] if rows else 0.0
        rows += log_rows(ranks, epoch, epochs, recipe, elapsed)
    write_log(folder, rows)
    last = rows[-1]
    config = {
        "command": "train",
        "dataset": {"name": "cifar10", "location": "data/cifar-10-batches-py"},
        "model": {"architecture": "mobilenet_v2", "classes": 10, "width": 0.5, "input_size": 128},
        "settings": {"epochs": planned or epochs, "batch_per_rank": 12, "seed": 42},
        "recipe": RECIPES[recipe],
        "peak_lr": 0.6 * 12 * ranks / 576 if recipe == "modern" else 5e-4,
        "world": ranks,
        "hosts": [host(rank) for rank in range(ranks)],
        "machine": MACHINE,
        "resumed_from": None,
    }
    (folder / "config.json").write_text(json.dumps(config))
    if planned > epochs:
        return folder
    summary = {
        "world": ranks,
        "epochs": epochs,
        "train_loss": last["loss"],
        "train_acc": last["acc"],
        **{name: last[name] for name in last if name.startswith(("test_l", "test_a", "recal"))},
        "bn_eval": "both",
        "wall_seconds": last["elapsed_seconds"],
        "images_per_second": ranks * 4.8,
        "peak_rss_bytes": 268_000_000,
        "dataset": "cifar10",
        "model": "mobilenet_v2",
        "recipe": recipe,
        "sync": RECIPES[recipe]["sync"],
        "train_seconds": 0.9 * last["elapsed_seconds"],
        "test_seconds": 0.08 * last["elapsed_seconds"],
        "slowest": SLOWEST if ranks > 3 else None,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_log(folder: Path, rows: list[dict]) -> None:
    with (folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def host(rank: int) -> str:
    return f"pi-{rank // 2 + 1:02d}"


def log_rows(ranks: int, epoch: int, epochs: int, recipe: str, elapsed: float) -> list[dict]:
    rng = np.random.default_rng([ranks, epoch])
    learned = 1 - math.exp(-2.2 * epoch / epochs)
    test = 0.1 + 0.7 * learned
    moving = 0.1 if recipe == "paper" and ranks > 8 else test
    slow = [1.35 if rank == 3 and epoch > epochs // 2 else 1.0 for rank in range(ranks)]
    own = [
        {phase: seconds * factor * rng.uniform(0.97, 1.03) for phase, seconds in SECONDS.items()}
        for factor in slow
    ]
    longest = max(sum(phases.values()) for phases in own) + 0.4
    rows = []
    for rank, phases in enumerate(own):
        phases = phases | {"wait": longest - sum(phases.values())}
        work = sum(phases[phase] for phase in ("input", "forward", "backward", "update"))
        rows.append(
            {
                "epoch": epoch, "worker": rank, "rank": rank, "host": host(rank),
                "loss": 2.4 - 1.5 * learned + 0.01 * rank, "acc": 0.12 + 0.6 * learned,
                "lr": 0.05 * (1 - epoch / (epochs + 1)), "seconds": longest - 8,
                "images_per_second": 4.8, "cpu_percent": 96.0 - rank,
                "peak_rss_bytes": 268_000_000 - 1_000_000 * rank,
                "elapsed_seconds": elapsed + longest,
                **{f"{phase}_seconds": phases[phase] for phase in PHASES},
                "work_cpu_seconds": 0.98 * work,
                "longest_stall_seconds": 1.7 if rank == 1 and epoch == 2 else 0.03,
                "longest_stall_step": 57, "longest_stall_phase": "transfer",
                "rss_bytes": 255_000_000, "swap_bytes": 0, "system_cpu_percent": 51.0,
                "temperature_celsius": 58 + 4 * math.log(epoch) + 12 * (slow[rank] > 1),
                "clock_mhz": 1000 if slow[rank] > 1 else 1500,
                "throttled": "frequency capped" if slow[rank] > 1 else "no",
                "test_loss": 2.3 if moving == 0.1 else 2.4 - 1.6 * learned, "test_acc": moving,
                "recalibrated_test_loss": 2.38 - 1.6 * learned,
                "recalibrated_test_acc": min(1.0, test + 0.004),
            }
        )  # fmt: skip
    return rows


def write_study(folder: Path, kind: str, **options: object) -> Path:
    """A study of `sweep`, `scale`, `collapse` or `forecast`: study.json alone."""
    folder.mkdir(parents=True)
    makers = {
        "sweep": sweep_rows,
        "scale": scale_rows,
        "collapse": collapse_rows,
        "forecast": forecast_rows,
    }
    rows = makers[kind]()
    settings = {"np": [2, 4, 8], "epochs": 10, "repeats": 3, "train": ["--lr", "0.04"]}
    content = {"kind": kind, "npnet": "0.1.0", "machine": MACHINE, "settings": settings}
    (folder / "study.json").write_text(json.dumps(content | {"rows": rows} | options))
    return folder


def sweep_rows() -> list[dict]:
    """About as fast as the paper's framework, with a third of the memory."""
    return [
        row._asdict()
        | {
            "throughput_img_s": 1.9 * row.throughput_img_s, "peak_rss_mb": 0.37 * row.peak_rss_mb,
            "mean_step_s": row.mean_step_s / 1.9, "avg_epoch_s": row.avg_epoch_s / 1.9,
            "ranks_per_node": 2, "world": 2, "system_cpu_pct": 50.3, "process_cpu_max_pct": 99.9,
            "system_cpu_max_pct": 53.0, "node_memory_pct": 11.5, "swap_mb": 0.0,
            "temperature_max_c": 61.3, "clock_min_mhz": 1500.0,
            "throttled": "frequency capped" if row.batch_per_node == 32 else "no", "wait_pct": 1.4,
        }
        for row in TABLE_1
    ]  # fmt: skip


def scale_rows() -> list[dict]:
    rows = []
    for row in TABLE_3:
        share = 1.5 * math.log2(row.np)  # percent of the time that is not one's own
        speedup = row.np / 2 * (100 - 2 * share) / 97
        rows.append(
            row._asdict()
            | {
                "test_acc_pct": 83.4 - 0.002 * row.np, "test_loss": 0.52, "mean_train_loss": 0.93,
                "mean_train_acc_pct": 80.1, "wall_s": 2210.0 / speedup, "speedup": speedup,
                "efficiency_pct": 200 * speedup / row.np, "scaling": "strong", "repeats": 3,
                "images_per_second": 226 * speedup, "train_s": 2050.0 / speedup,
                "test_s": 160.0 / speedup, "wait_pct": share, "transfer_pct": share / 2,
                "target_acc_pct": 80.0,
                "time_to_target_s": 1300.0 / speedup if row.np < 40 else None,
                "recipe": "modern", "sync": "gradients", "steps": 50_000 // (12 * row.np),
            }
        )  # fmt: skip
    return rows


def forecast_rows() -> list[dict]:
    work = forecast.Work(50_000, 10_000, 12, 10, 2_900_000, 0.9, 0.02, 0.02)
    network = forecast.Network(1e-4, 117e6)
    return forecast.table((2, 16, 48), 2, work, network, watts_per_node=6.0)


def collapse_rows() -> list[dict]:
    columns = ("moving", "recalibrated", "modern")
    measured = {2: (66.0, 69.1, 83.4), 16: (10.0, 38.0, 83.4), 48: (10.0, 31.0, 83.3)}
    return [
        {
            "np": row.np, "published": row.test_acc_pct,
            "train": None if row.np not in measured else row.mean_train_acc_pct,
            **dict(zip(columns, measured.get(row.np, (None,) * 3), strict=True)),
        }
        for row in TABLE_3
    ]  # fmt: skip
