"""Which tests stay on one worker of pytest-xdist: those that share a fixture that takes longer than they do.

pytest-xdist's own way, `--dist loadgroup`, distributes tests as if they were not marked since pytest 9.2
(pytest-dev/pytest-xdist#1386).
"""

from __future__ import annotations

import re

from xdist.scheduler import LoadScopeScheduling

SHARED = (
    (r"tests/cli/test_trying\.py", "trying"),
    (r"tests/export/test_(chat|conversation|demo|evaluate|generate)\.py", "taught"),
    (r"tests/flow/test_flow\.py", "flow"),
    (r"tests/slurm/test_survives\.py", "survives"),
    (r"tests/slurm/test_launch\.py::test_two_nodes_train_as_one", "as one"),
    (r"tests/test_recipes\.py::test_(recipe_trains|weights_are|galore)", "recipes"),
    (r"tests/training/test_matrix\.py::(\w*qlora|\w+\[qlora)", "matrix of QLoRA"),
    (r"tests/training/test_matrix\.py::\w+\[lora", "matrix of LoRA"),
    (r"tests/training/test_matrix\.py", "matrix of full fine-tuning"),
)
"""A test's id begins like this -> what it shares; the first that is true counts."""


class BySharedFixtures(LoadScopeScheduling):
    """Give a worker one test after the other, and all that share something together."""

    def _split_scope(self, nodeid: str) -> str:
        return next((shared for pattern, shared in SHARED if re.match(pattern, nodeid)), nodeid)
