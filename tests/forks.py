"""Processes that are forked from one that has loaded all: a start costs nothing but its run.

Started by launch.py, which sends it one line of JSON for each; see Forks there.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import sys
import threading
import traceback
from typing import Any, NoReturn

ENGINE = (
    *("npnet.kernels.reference", "npnet.kernels.jit", "npnet.data", "npnet.study.cases"),
    *("npnet.model.inference", "npnet.training.resume", "npnet.training.warmup"),
)


def begin(request: dict[str, Any]) -> str:
    """Make this child what a program finds that was just started; returns what it shall run."""
    os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv, sys.path[0] = ["-c", *request["arguments"]], ""
    for number, file in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    script: str = request["script"]
    return script


def run(script: str) -> NoReturn:
    """Run a script and leave as Python does, without taking apart what this process has loaded."""
    status: object = 0
    try:
        exec(script, {"__name__": "__main__"})
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


def main() -> None:
    exec(sys.argv[1], {})  # what launch.py loads first where it plants a fault
    for name in ENGINE:
        importlib.import_module(name)
    gc.freeze()  # or each child would copy what its collector looks at
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    while line := requests.readline():
        child = os.fork()
        if child == 0:
            answers.close()
            requests.close()
            run(begin(json.loads(line)))
        with contextlib.suppress(BrokenPipeError):
            print(child, file=answers, flush=True)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(status, file=answers, flush=True)


if __name__ == "__main__":
    main()
