"""Make FSDP2 real between CPU processes: a test-only patch, activated by this directory on PYTHONPATH.

accelerate runs FSDP on accelerators only: on a CPU it falls back to DDP without a word. In a rank that a
launcher started with FSDP (ACCELERATE_USE_FSDP, LOCAL_RANK), this joins a gloo group and says that the
processes are what accelerate calls MULTI_GPU, which is all that its FSDP path asks for. Everything else that
is started with this directory on PYTHONPATH stays as it is.

What it shows is the sharding logic, not FSDP2 on GPUs.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any


def _is_fsdp_rank() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP") == "true" and "LOCAL_RANK" in os.environ


def _patch(state: ModuleType) -> None:
    """Replace `PartialState._prepare_backend` in accelerate.state."""
    import torch.distributed

    def prepare_backend(self: Any, cpu: bool = False, *_: Any) -> tuple[str, Any]:
        # With cpu=True accelerate leaves the group to its MULTI_CPU branch, which FSDP must not take.
        if cpu and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        return "gloo", state.DistributedType.MULTI_GPU

    state.PartialState._prepare_backend = prepare_backend
    if not torch.accelerator.is_available():
        # fsdp_offload_params pins host memory for copies to a device that is not there.
        torch.Tensor.pin_memory = lambda self, *_: self


class _Patching(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _patch(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Wait for `accelerate.state`, so that torch is imported when the program asks for it and not before."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "accelerate.state":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patching(spec.loader)
        return spec


if _is_fsdp_rank():
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    sys.meta_path.insert(0, _Finder())
