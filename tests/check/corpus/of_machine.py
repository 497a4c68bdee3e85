"""Broken setups: packages, GPUs, the Hub, W&B, limits, the scheduler, ports, variables."""

from __future__ import annotations

from tests.check.corpus import (
    of_gpus,
    of_kernels,
    of_limits,
    of_packages,
    of_services,
    of_slurm,
    of_variables,
)
from tests.check.corpus.bench import Broken

BROKEN: tuple[Broken, ...] = (
    *of_packages.BROKEN,
    *of_gpus.BROKEN,
    *of_kernels.BROKEN,
    *of_variables.BROKEN,
    *of_limits.BROKEN,
    *of_services.BROKEN,
    *of_slurm.BROKEN,
)
