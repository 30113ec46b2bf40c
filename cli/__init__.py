"""The command line: options, text and exit codes. One file a command; `main` is the entry."""
