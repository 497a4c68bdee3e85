"""Make FSDP2 real between CPU processes, in the ranks of a rehearsal alone.

accelerate runs FSDP on accelerators only; on a CPU it is DDP, without a word. Python imports this file at its start where
its directory stands on PYTHONPATH. In a rank that a launcher started for FSDP, it joins the ranks over gloo and says that
they are what accelerate's FSDP asks for. What that shows is how a model is cut, saved and read again, not how GPUs do it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


def is_fsdp_rank() -> bool:
    """Whether a launcher started this process as a rank under FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true" and "LOCAL_RANK" in os.environ


def patch(state: ModuleType) -> None:
    """Have accelerate.state find a backend of CPU processes."""
    import torch
    import torch.distributed

    def prepare_backend(self: Any, cpu: bool = False, *_: Any) -> tuple[str, Any]:
        # Where it is told of a CPU, accelerate would join the ranks in a branch that leads away from FSDP.
        if cpu and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        return "gloo", state.DistributedType.MULTI_GPU

    state.PartialState._prepare_backend = prepare_backend
    if not torch.accelerator.is_available():
        # Offloading pins memory for a device that is not there.
        torch.Tensor.pin_memory = lambda self, *_: self  # type: ignore[method-assign]


class Patching(importlib.abc.Loader):
    """Load a module as its own loader does, and patch it."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave it to the module's own loader."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load, then patch."""
        self.loader.exec_module(module)
        patch(module)


class Finder(importlib.abc.MetaPathFinder):
    """Wait until the program imports accelerate.state: torch is loaded when it asks for it, not before."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find accelerate.state, and nothing else."""
        if fullname != "accelerate.state":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = Patching(spec.loader)
        return spec


if is_fsdp_rank():
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    sys.meta_path.insert(0, Finder())
