"""Weights of other programs, read and written: their names, layouts and preprocessing."""
