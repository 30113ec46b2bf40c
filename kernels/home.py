"""Where npnet keeps what it makes for a user. Loads neither NumPy nor the compiler."""

import os
from pathlib import Path


def home() -> Path:
    """~/.cache/npnet; $XDG_CACHE_HOME counts where it is absolute, as its specification says."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    return Path(chosen if os.path.isabs(chosen) else os.path.expanduser("~/.cache"), "npnet")


def chosen_home() -> Path | None:
    """$NPNET_CACHE, where that is set."""
    chosen = os.environ.get("NPNET_CACHE")
    return Path(os.path.expanduser(chosen)) if chosen else None
