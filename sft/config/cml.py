"""The workers of a run on Cloudera's platform (CML, CDSW, Cloudera AI)."""

from __future__ import annotations

from pydantic import Field

from sft.config.section import Section
from sft.config.slurm import Word


class CmlConfig(Section):
    """What each worker gets that `sft launch --on cml` asks for; GPUs are launch.gpus_per_node."""

    cpus: float | None = Field(default=None, gt=0)
    """vCPUs of each worker. Default: as many as this session has."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory of each worker, in GiB. Default: as much as this session has."""
    accelerator: Word | None = None
    """Which GPUs the workers get, by the label that the workspace gives them, as NVIDIA-A100, or by its number. Default:
    the workspace's own choice."""
    schedule_seconds: float = Field(default=600.0, gt=0)
    """How long the platform may take to start all workers before the launch gives up."""
