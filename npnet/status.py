"""The statuses with which npnet's commands leave, beside 0."""

import signal

FAILURE = 1  # a fault of ours, or of the machine
BAD_INPUT = 2  # refused, and would be once more
STOPPED = 75  # a run has saved itself, to be gone on with
INTERRUPTED = 128 + signal.SIGINT
