"""Words for people: those of other frameworks and what does the same here; lines to be printed."""

import re
from collections.abc import Mapping
from typing import TypeVar

import click

T = TypeVar("T")

COMPILING = "Compiling the kernels"  # begins a run's lines on it, by which a study knows them

# Of a message, characters: what was wrong stands at its beginning, what to do at its end.
LONGEST, BEGINNING, END = 1200, 800, 300

# When a rank fails, mpiexec ends all and drops what they wrote but it has not passed on yet.
SECONDS_TO_PASS_ON = 0.5


def one_line(message: object) -> str:
    """A message as it is printed: one line, printable, without the middle of a very long one."""
    line = printable(" ".join(str(message).split()))
    return line if len(line) <= LONGEST else f"{line[:BEGINNING]} ... {line[-END:]}"


def as_options(message: str) -> str:
    """The engine names a field, `batch_per_rank`, where the command line has --batch-per-rank."""
    return re.sub(r"`([a-z_]+)`", lambda field: f"--{field[1].replace('_', '-')}", message)


def printable(text: object) -> str:
    """A text from a stranger's file, or a path: what steers a terminal is escaped, as in Python.

    So are bytes of a path that are no text, which could not be printed.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)
    )


# Options of the same meaning: of several, the one that the command has. `npnet train` has the
# first.
OPTIONS = {
    "--batch --batch-size --train-batch-size --bs -b": ("--batch-per-rank", "--batch"),
    "--learning-rate --base-lr --initial-lr": ("--lr",),
    "--num-epochs --n-epochs --max-epochs --num-train-epochs": ("--epochs",),
    "--arch --architecture --network --net --backbone -a": ("--model",),
    "--data-path --data-root --dataset-dir --root": ("--data", "--data-dir"),
    "--validation-split --val-fraction --val-ratio": ("--val-split",),
    "--image-size --img-size --imgsz --resolution": ("--input-size",),
    "--output --output-dir --out-dir --save-dir --log-dir --logdir -o": ("--out",),
    "--width-mult --width-multiplier --alpha": ("--width",),
    "--wd --l2": ("--weight-decay",),
    "--warmup --lr-warmup-epochs": ("--warmup-epochs",),
    "--smoothing": ("--label-smoothing",),
    "--hflip --horizontal-flip": ("--flip",),
    "--scale": ("--crop-scale",),
    "--ratio": ("--crop-ratio",),
    "--crop-pct": ("--crop-fraction",),
    "--jitter --colour-jitter": ("--color-jitter",),
    "--drop --drop-rate": ("--dropout",),
    "--sync-batchnorm --syncbn": ("--sync-bn",),
    "--cfg --config-file": ("--config",),
    "--num-threads --nthreads": ("--threads",),
}

# What is done in another way here.
REMARKS = {
    "--pretrained": "there are no weights to download; --init begins with those in a file",
    "--weights --checkpoint --ckpt --load": (
        "npnet train begins with weights by --init and continues a checkpoint by --resume; npnet "
        "evaluate and npnet predict take its path alone"
    ),
    "--optimizer --optimiser --opt": "it is SGD here, with --momentum and --weight-decay",
    "--lr-schedule --lr-scheduler --scheduler --sched": (
        "the schedule is a part of --recipe; --lr and --warmup-epochs change its values"
    ),
    "--gpu --gpus --cuda --device --devices": (
        "npnet computes on processors: start more ranks with mpiexec -n, or give them --threads"
    ),
    "--workers --num-workers -j": (
        "each rank prepares its own images: start more ranks with mpiexec -n"
    ),
    "--np --nproc --nproc-per-node --num-processes --world-size -n": (
        "the launcher starts the ranks, as in mpiexec -n 2 npnet train"
    ),
    "--amp --fp16 --bf16 --half --precision": "npnet trains in float32",
    "--eval --test --test-only --validate": "that is a command, npnet evaluate CHECKPOINT",
    "--augment --augmentation --aug": (
        "these are --flip, --crop-padding, --crop-scale and --color-jitter here"
    ),
}

COMMANDS = {
    "fit": "train",
    "eval test val validate": "evaluate",
    "infer inference classify": "predict",
    "download fetch": "data fetch",
    "benchmark profile": "bench",
    "summary": "info",
    "export import": "convert",
}


def hint(error: click.ClickException) -> str | None:
    """The line for an option or a command that is called otherwise here; None if unknown."""
    word = getattr(error, "option_name", None) or getattr(error, "command_name", None)
    if word is None or not isinstance(error, click.UsageError) or error.ctx is None:
        return None
    if command := _look_up(word, COMMANDS):
        return f"No such command {word!r}: it is npnet {command} here"
    if remark := _look_up(word, REMARKS):
        return f"No such option {word!r}: {remark}"
    if options := _look_up(word, OPTIONS):
        known = {name for option in error.ctx.command.params for name in option.opts}
        here = next((name for name in options if name in known), None)
        where = f"{here} here" if here else f"{options[0]}, an option of npnet train"
        return f"No such option {word!r}: it is {where}"
    return None


def _look_up(word: str, table: Mapping[str, T]) -> T | None:
    return next((ours for theirs, ours in table.items() if word in theirs.split()), None)


def several(count: int, what: str) -> str:
    """Such as 1 host, 2 hosts."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
