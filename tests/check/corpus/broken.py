"""All broken setups of the corpus."""

from __future__ import annotations

from tests.check.corpus import of_machine, of_run

BROKEN = (*of_run.BROKEN, *of_machine.BROKEN)
