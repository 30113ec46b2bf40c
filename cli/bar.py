"""How far something is: a bar that fits its terminal; where there is none, a line now and then."""

import os
import time
from contextlib import suppress
from typing import TextIO

from npnet.cli.streams import say

SECONDS_BETWEEN_LINES = 30
WIDEST, NARROWEST = 30, 5  # characters between the brackets
USUAL_COLUMNS = 80  # where a terminal does not tell, such as one over a serial line


class Bar:
    """One line of a terminal, written over again and again: label, bar, percent, some words.

    `total` is what makes 100 %; where it is None there is neither bar nor percent.
    """

    def __init__(self, stream: TextIO, label: str, total: int | None = None) -> None:
        self.stream, self.label, self.total = stream, label, total
        self._line = ""

    def show(self, done: int, words: str) -> None:
        """Write the line for `done` of `total`, in a terminal as wide as it is now."""
        room = columns(self.stream) - 1  # a terminal may go on below when its last one is filled
        share = done / self.total if self.total else None
        line = fit(self.label, share, words, room)
        if line != self._line:
            rest = min(len(self._line), room) - len(line)  # of a longer line before
            self.stream.write("\r" + line + " " * rest)
            self.stream.flush()
        self._line = line

    def finish(self) -> None:
        """Leave the line as it is, and go to the next."""
        self.stream.write("\n")
        self.stream.flush()


class Progress:
    """A bar on `stream`, a terminal; where that is None, at times a line on standard error.

    `begin` stands before the line, as in `[Root] Epoch 1/10 50% ...`.
    """

    def __init__(self, stream: TextIO | None, begin: str = "[INFO]") -> None:
        self.stream, self.begin = stream, begin
        self._bar: Bar | None = None
        self._last_line = time.monotonic()

    def say(self, line: str) -> None:
        """A line at once, where no bar is drawn."""
        if self.stream is None:
            self._last_line = time.monotonic()
            say(f"{self.begin} {line}", err=True)

    def show(self, label: str, done: int, total: int | None, words: str) -> None:
        """`label` is what is done, `total` what makes 100 % of it, None if that is unknown."""
        if self.stream is not None:
            if self._bar is None:
                self._bar = Bar(self.stream, label)
            self._bar.total = total
            try:
                self._bar.show(done, words)
            except OSError:  # the terminal is gone
                self.stream = self._bar = None
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            percent = f" {100 * done / total:.0f}%" if total else ""
            self.say(f"{label}{percent} {words}")

    def finish(self) -> None:
        """What `label` named is done; another may follow."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.finish()
            self._bar = None


def columns(stream: TextIO) -> int:
    """The width of a stream's terminal, characters; the usual one where it is unknown."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL_COLUMNS
    except OSError:
        return USUAL_COLUMNS


def fit(label: str, share: float | None, words: str, room: int) -> str:
    """A line of at most `room` characters. `share`: a fraction, 1 at the end; None if unknown.

    The bar gives way first, down to nothing; then the words are cut off.
    """
    percent = "" if share is None else f"{100 * share:3.0f}%"
    width = min(WIDEST, room - len(f"{label}  []  {percent}  {words}"))
    if share is None or width < NARROWEST:
        return " ".join(filter(None, (label, percent, words)))[: max(room, 0)]
    full = int(width * share)
    return f"{label}  [{'#' * full}{'-' * (width - full)}]  {percent}  {words}"
