"""The one exception that carries a message for the user."""


class NpnetError(Exception):
    """Bad input. The message is one line: what was wrong, where, and what to do about it."""


class Stopped(Exception):
    """A run was asked to leave, and has saved itself. The message says where it stands."""
