"""The deep check: two steps of the run itself, on a cut of its model, with its own data, on this machine's CPU.

What would fail when the first checkpoint is saved, the first evaluation is scored or the run is resumed fails here, in
about a minute. docs/deep-check.md has what a rehearsal shows, and what it cannot show.
"""
