"""Run npnet, kill it before each change that it makes to the disk, go on, and tell what was left.

Started by test_transaction.py as a process of its own, which has loaded all and then forks: so a
start costs nothing but its run.
"""

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import npnet.cli.main
import npnet.cli.options
from npnet.files import read_table
from npnet.training.checkpoint import load
from npnet.training.run_folder import OF_A_RUN, SCORES, RunFolder

# The thread counts are set by who starts this: NumPy is loaded already.
npnet.cli.main.limit_threads = npnet.cli.options.limit_threads = lambda threads=None: 1

TRAIN = (
    *("train", "--data-dir", "data", "--input-size", "32", "--width", "0.25", "--max-steps", "2"),
    *("--batch-per-rank", "3", "--backend", "reference", "--no-progress", "--out", "run"),
    *("--checkpoint-every", "1"),  # in the middle of each epoch
)
BRANCH = (*TRAIN, "--epochs", "3", "--lr", "0.5", "--resume", "run/epoch-001.npz")
CHANGES = ("replace", "link", "unlink", "mkdir")  # of the system's calls
KILLED, UNLINK = 99, os.unlink
OF_THE_LOG = ("epoch", "worker", "rank", "loss", "acc", "lr", *SCORES)
OF_THE_TABLE = ("run", "world", "epochs", "mean_train_loss", "test_loss", "steps")
TIMES = ("seconds", "images_per_second", "cpu_percent", "rss_bytes", "slowest")


def run(arguments: tuple[str, ...], kill_before: int = 0) -> int:
    """The status of npnet in a process of its own, killed before its n-th change, from 1."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            kill_at(kill_before)
            npnet.cli.main.main(arguments)
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(number: int) -> None:
    """Plant a kill before change `number` of this process.

    To remove what is not there is none. A file is written under another name before it is renamed.
    """
    left = [number or -1]  # 0: none

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def count(path: Any, *arguments: Any, **named: Any) -> Any:
            left[0] -= change is not UNLINK or os.path.lexists(path)
            if left[0] == 0:
                os._exit(KILLED)
            return change(path, *arguments, **named)

        return count

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def left(finished: bool = False) -> dict[str, Any]:
    """What a run has left, without times; of one that was `finished`, but for what it hides.

    Such a run is not begun once more, so nobody clears up behind a kill after its summary.
    """
    folder = RunFolder(Path("run"))
    summary = json.loads(folder.summary.read_text())
    hidden = ("config-", ".") if finished else ("config-",)
    names = [path.name for path in (*folder.path.iterdir(), *Path().iterdir())]
    return {
        "names": sorted(name for name in names if not name.startswith(hidden)),
        "log": [{name: row[name] for name in OF_THE_LOG} for row in folder.read_log()],
        "table": [{n: row[n] for n in OF_THE_TABLE} for row in read_table(folder.trial_results)],
        "summary": {n: summary[n] for n in summary if not any(time in n for time in TIMES)},
        "checkpoints": {
            path.name: load(path).digest() for path in sorted(folder.path.glob("*.npz"))
        },
    }


def clear() -> None:
    """Leave nothing but the images."""
    for path in set(Path().iterdir()) - {Path("data")}:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def go_on(first: tuple[str, ...]) -> int:
    """Continue a run that was killed; start it where it has not left anything."""
    names = os.listdir("run") if os.path.isdir("run") else []
    begun = any(OF_A_RUN.fullmatch(name) for name in names)
    return run(("train", "--resume", "run", "--no-progress") if begun else first)


def killed_everywhere(first: tuple[str, ...], before: Path | None) -> Iterator[dict[str, Any]]:
    """What is left of `first`, run after `before`, for each place at which it is killed."""
    number = 0
    while True:
        number += 1
        clear()
        if before is not None:
            shutil.copytree(before, ".", dirs_exist_ok=True)
        if run(first, number) != KILLED:
            return
        finished = os.path.exists("run/summary.json")
        state = left() if finished else {}
        status = go_on(first)
        yield {"finished": finished, "then": state, "status": status, "left": left(finished)}


def main() -> None:
    data = Path("data").absolute()
    with suppress(SystemExit), redirect_stdout(StringIO()):
        npnet.cli.main.main((*TRAIN, "--epochs", "1"))  # which loads all that a run needs
    clear()
    found: dict[str, Any] = {}
    for name, first, epochs in (("run", (*TRAIN, "--epochs", "2"), None), ("branch", BRANCH, "3")):
        before = None
        if epochs is not None:
            assert run((*TRAIN, "--epochs", epochs)) == 0, Path("output.txt").read_text()
            found["run before the branch"] = left()
            before = Path("../before").absolute()
            shutil.copytree(".", before, ignore=shutil.ignore_patterns(data.name))
        assert run(first) == 0, Path("output.txt").read_text()
        found[name] = left()
        found[f"{name}, killed"] = list(killed_everywhere(first, before))
        clear()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
