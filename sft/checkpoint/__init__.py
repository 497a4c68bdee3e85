"""Checkpoints: complete or absent. `manifest` and `find` are above the torch line; `capture` is below it."""
