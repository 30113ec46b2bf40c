"""The one exception that carries a message for the user."""


class NpnetError(Exception):
    """Bad input. The message is one line: what was wrong, where, and what to do about it."""


class NotWritten(NpnetError):
    """The disk refused a file, which is as it was before. `what`: the file and why, no advice."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what


class Stopped(Exception):
    """A run was asked to leave, and has saved itself. The message says where it stands."""
