"""Studies: many runs, one table, one picture."""
