"""Cloudera's Workers API, as a session has it: workers are asked for, looked at and stopped.

Only calls that Cloudera documents: `launch_workers`, `list_workers` and `stop_workers` of `cml.workers_v1`, or of `cdsw`, as
the module was called before. It is nowhere but on the platform, so it is found when it is needed.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sft.config.kit import LaunchConfig
from sft.errors import ExitCode, UserError

MODULES = ("cml.workers_v1", "cdsw")
CALLS = ("launch_workers", "list_workers", "stop_workers")
ADDRESS, MILLICORES, MEGABYTES = "CDSW_IP_ADDRESS", "CDSW_CPU_MILLICORES", "CDSW_MEMORY_MB"
"""What the platform tells a session of itself, by variables."""
OVER = frozenset(("succeeded", "failed", "stopped", "stopping", "timedout", "skipped", "gone"))
"""The words that the API has for a worker that does not come back (unknown, scheduling, starting and running are others),
and one of ours: that it lists it no more."""

WorkerId = str | int


@dataclass(frozen=True, slots=True)
class Shape:
    """What one worker is to have."""

    cpus: float
    memory_gib: float
    gpus: int

    def describe(self) -> str:
        """Say it in words."""
        gpus = f" and {self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else ""
        return f"{self.cpus:g} vCPUs, {self.memory_gib:g} GiB{gpus}"


class WorkersApi:
    """One of the modules, behind errors that a person can use.

    Attributes:
        name: of the module.
    """

    def __init__(self, module: ModuleType) -> None:
        self.name = module.__name__
        self._module = module

    def launch(
        self,
        code: str,
        shape: Shape,
        *,
        name: str,
        accelerator_id: int | None,
        environment: Mapping[str, str],
    ) -> WorkerId:
        """Ask for one worker that runs some Python, and return its id.

        Raises:
            UserError: the platform refuses it, in its own words.
        """
        words: dict[str, Any] = {
            "n": 1,
            "cpu": shape.cpus,
            "memory": shape.memory_gib,
            "nvidia_gpu": shape.gpus,
            "code": code,
            "env": dict(environment),
        }
        taken = inspect.signature(self._module.launch_workers).parameters
        if "name" in taken:
            words["name"] = name
        if accelerator_id is not None:
            if "accelerator_label_id" not in taken:
                raise UserError(
                    f"the Workers API here ({self.name}) cannot choose a GPU type",
                    "launch.cml.accelerator",
                    "leave it out: this workspace has one kind of GPU, or chooses itself",
                    exit_code=ExitCode.ENVIRONMENT,
                )
            words["accelerator_label_id"] = accelerator_id
        try:
            told = self._module.launch_workers(**words)
        except Exception as failure:  # the platform's own kinds, which are nowhere else
            raise self._refused(name, f"{type(failure).__name__}: {failure}") from failure
        if isinstance(told, Sequence) and told and isinstance(told[0], Mapping) and told[0].get("id"):
            worker: WorkerId = told[0]["id"]
            return worker
        raise self._refused(name, f"it answers {told!r}")

    def statuses(self) -> dict[str, str]:
        """Ask how every worker of this session is: by id, in the platform's words (running, succeeded, ...).

        Raises:
            Exception: whatever the platform's module raises when it is not answered.
        """
        return {
            str(worker["id"]): str(worker.get("status", "unknown")).lower().removeprefix("engine_")
            for worker in self._module.list_workers() or []
        }

    def stop(self, ids: Sequence[WorkerId]) -> None:
        """Stop these workers. Without ids the platform would stop every worker of the session.

        Raises:
            Exception: whatever the platform's module raises when it is not answered.
        """
        if ids:
            self._module.stop_workers(*ids)

    def _refused(self, name: str, why: str) -> UserError:
        return UserError(
            f"the platform does not start {name}: {why}",
            self.name,
            "look at your quota and at what the workspace offers (Site Administration, or its owner); ask for less with"
            " launch.gpus_per_node, launch.cml.cpus and launch.cml.memory_gib",
            exit_code=ExitCode.ENVIRONMENT,
        )


def find_api() -> WorkersApi:
    """Find the Workers API of this session.

    Raises:
        UserError: there is none here, or it cannot be used from the kit's environment.
    """
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as missing:
            if missing.name in (name, name.partition(".")[0]):
                continue
            raise UserError(
                f"{name} needs {missing.name}, which the kit's environment does not have",
                name,
                f"install it there: pip install {missing.name}",
                exit_code=ExitCode.ENVIRONMENT,
            ) from None
        if lacking := [call for call in CALLS if not hasattr(module, call)]:
            raise UserError(
                f"{name} has no {', '.join(lacking)}",
                str(module.__file__ or name),
                "this is another module of that name, or a version that the kit does not know",
                exit_code=ExitCode.ENVIRONMENT,
            )
        return WorkersApi(module)
    raise UserError(
        f"there is no Workers API here: neither {' nor '.join(MODULES)} can be imported",
        "--on cml",
        "run this in a session or a job of Cloudera AI (CML, CDSW), with its Python path; elsewhere choose --on slurm, ssh"
        " or background",
        exit_code=ExitCode.ENVIRONMENT,
    )


def own_address(launch: LaunchConfig, environment: Mapping[str, str] = os.environ) -> str:
    """Return the address at which the workers reach this session.

    Raises:
        UserError: the platform does not say, and the run file does not either.
    """
    if address := launch.main_process_ip or environment.get(ADDRESS):
        return address
    raise UserError(
        f"nobody says at which address the workers reach this session: {ADDRESS} is not set",
        "launch.main_process_ip",
        "set it to this session's address: hostname -i",
        exit_code=ExitCode.ENVIRONMENT,
    )


def worker_shape(launch: LaunchConfig, gpus: int, environment: Mapping[str, str] = os.environ) -> Shape:
    """Return what each worker gets: what the run file says, else what this session has.

    Args:
        gpus: of each machine.

    Raises:
        UserError: neither says it.
    """
    cpus, memory_gib = launch.cml.cpus, launch.cml.memory_gib
    try:
        cpus = cpus or int(environment.get(MILLICORES, "0")) / 1000
        memory_gib = memory_gib or int(environment.get(MEGABYTES, "0")) / 1024
    except ValueError:
        cpus = cpus or 0.0
        memory_gib = memory_gib or 0.0
    if not cpus or not memory_gib:
        raise UserError(
            f"nobody says how large a worker is to be: {MILLICORES} and {MEGABYTES} do not tell what this session has",
            "launch.cml",
            "set launch.cml.cpus and launch.cml.memory_gib",
            exit_code=ExitCode.ENVIRONMENT,
        )
    return Shape(cpus, memory_gib, gpus)
