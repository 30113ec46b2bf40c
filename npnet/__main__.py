"""`python -m npnet`: the command line, where the `npnet` command is not on the path."""

from npnet.cli.main import main

if __name__ == "__main__":
    main()
