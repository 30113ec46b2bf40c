"""`python -m npnet`: the command line, where the `npnet` command is not on the path."""

import os
import sys

import npnet

if __name__ == "__main__":
    # Python puts the current folder first on its path: files there must not stand in for modules.
    # In npnet's own sources it stays, for npnet may be found there alone.
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(npnet.__path__[0]):
        del sys.path[0]
    from npnet.cli.main import main

    main()
