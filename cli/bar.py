"""A progress bar that fits its terminal, whatever that one's width."""

import os
from typing import TextIO

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
