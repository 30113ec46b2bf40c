"""A model: its list of operations, its numbers, its memory, and the network that runs it."""
