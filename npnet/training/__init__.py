"""Training: recipe, optimiser, the loop, tests, checkpoints and the folder of a run."""
