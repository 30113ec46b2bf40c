"""Ranks and how they agree: the communicator (serial or MPI) and the synchronisation strategies."""
