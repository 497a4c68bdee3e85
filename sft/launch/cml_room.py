"""Whether the workspace can give the workers that a run asks for: GPU type, limits, quota. Asked before any is started.

The Workers API says nothing of it; Cloudera's other client, `cmlapi`, does where a session has it and its user may ask. What
is not answered is told and left to the platform: it refuses a worker, or leaves it waiting.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sft.errors import ExitCode, Problem, UserError
from sft.launch.cml_api import Shape

CLIENT = "cmlapi"
USERS = ("CDSW_CREATOR", "HADOOP_USER_NAME", "PROJECT_OWNER")
"""Variables that hold the name of who runs a session; which of them are set depends on the version."""
RESOURCES = {"cpu": "vCPUs", "memory": "GiB of memory", "nvidia_gpu": "GPUs"}

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Room:
    """What was found.

    Attributes:
        accelerator_id: the number of the label that the run file names; None where it names none.
        notes: what could not be found out.
    """

    accelerator_id: int | None = None
    notes: tuple[str, ...] = ()


def look(shape: Shape, workers: int, accelerator: str | None, where: str) -> Room:
    """Hold what the workers need against what the workspace has and what its user may take.

    Args:
        where: the accelerator is named in the run file.

    Raises:
        UserError: the workspace cannot give it, or has no such GPU type.
    """
    client, notes = _client()
    number = int(accelerator) if accelerator is not None and accelerator.isdecimal() else None
    problems: list[Problem] = []
    if shape.gpus and client is not None:
        labels = _asked(client, "list_all_accelerator_node_labels", "GPU types", notes)
        label = _named(labels, accelerator)
        if accelerator is not None and label is None and labels:
            known = ", ".join(str(row.get("label_value")) for row in labels)
            problems.append(
                Problem(f"the workspace has no GPUs of the type {accelerator}", where, f"one of: {known}")
            )
        if label is not None:
            number = int(label["id"])
            problems += _limits(label, shape, workers, where)
    if accelerator is not None and number is None and not problems:
        raise UserError(
            f"the number of the GPU type {accelerator} cannot be looked up: {'; '.join(notes)}",
            where,
            "write its number instead: GET /api/v2/nodelabels of the workspace lists them",
            exit_code=ExitCode.ENVIRONMENT,
        )
    if client is not None:
        problems += _quota(client, shape, workers, notes)
    if problems:
        raise UserError.of(problems, exit_code=ExitCode.ENVIRONMENT)
    return Room(number, tuple(notes))


def _client() -> tuple[Any, list[str]]:
    """Return the client of this session, or why there is none."""
    try:
        return importlib.import_module(CLIENT).default_client(), []
    except ImportError:
        return None, [f"there is no {CLIENT} here: quota and GPU types are left to the platform"]
    except Exception as failure:  # of the client: no address, no key
        return None, [f"{CLIENT} does not answer ({failure}): quota and GPU types are left to the platform"]


def _asked(client: Any, call: str, what: str, notes: list[str], **words: Any) -> list[Row]:
    """Return the rows of an answer; none where it was not given, which is noted."""
    try:
        answer = getattr(client, call)(**words).to_dict()
    except Exception as failure:  # not every version has every call, and some are for administrators
        line = str(failure).strip().splitlines() or [type(failure).__name__]
        notes.append(f"{what} cannot be asked for here ({line[0]}): the platform decides")
        return []
    rows = next((value for value in answer.values() if isinstance(value, list)), [])
    return [row for row in rows if isinstance(row, Mapping)]


def _named(labels: list[Row], accelerator: str | None) -> Row | None:
    wanted = (accelerator or "").casefold()
    for row in labels:
        if wanted and wanted in (str(row.get("label_value", "")).casefold(), str(row.get("id"))):
            return row
    return None


def _limits(label: Row, shape: Shape, workers: int, where: str) -> Iterator[Problem]:
    name = label.get("label_value")
    if label.get("availability") is False:
        yield Problem(f"no node of the type {name} is there now", where, "choose another type, or wait")
    most = _number(label.get("max_gpu_per_workload"))
    if most and shape.gpus > most:
        yield Problem(
            f"a worker may have {most:g} GPUs of the type {name}, and the run asks for {shape.gpus}",
            "launch.gpus_per_node",
            f"set launch.gpus_per_node: {most:g} and more nodes",
        )
    most = _number(label.get("max_gpu_count"))
    if most and shape.gpus * workers > most:
        yield Problem(
            f"the workspace has at most {most:g} GPUs of the type {name}, and the workers need"
            f" {shape.gpus * workers}",
            "launch.nodes",
            "ask for fewer nodes, or another type: launch.cml.accelerator",
        )


def _quota(client: Any, shape: Shape, workers: int, notes: list[str]) -> Iterator[Problem]:
    user = next((os.environ[name] for name in USERS if os.environ.get(name)), None)
    if user is None:
        notes.append("nobody says whose session this is: the quota is left to the platform")
        return
    words = {"search_filter": json.dumps({"username": user})}
    for row in _asked(client, "list_users_quota", "the quota", notes, **words):
        person = row.get("user") or {}
        if user not in (person.get("user_name"), person.get("name")):
            continue
        given, used = row.get("quota_configured") or {}, row.get("quota_usage") or {}
        need = {"cpu": shape.cpus, "memory": shape.memory_gib, "nvidia_gpu": shape.gpus}
        for name, unit in RESOURCES.items():
            most, taken = _number(given.get(name)), _number(used.get(name)) or 0.0
            if most is not None and need[name] * workers > most - taken:
                yield Problem(
                    f"the {workers} worker{'s' if workers > 1 else ''} need {need[name] * workers:g} {unit}, and your"
                    f" quota leaves {max(0.0, most - taken):g} of {most:g}",
                    f"quota of {user}",
                    "stop other sessions and jobs, ask for more quota, or for less with launch.nodes,"
                    " launch.gpus_per_node and launch.cml",
                )


def _number(value: Any) -> float | None:
    """Read a number as the API writes it, a string; a quota that is not limited is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number >= 0 else None
