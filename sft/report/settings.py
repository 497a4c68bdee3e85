"""Where a run is reported: `report_to` as transformers means it, and the names that make it one run.

The settings are written into the run's first `start` event (field `report`), because a run that is
synced later, on another machine, must reach the same W&B run, project and entity.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sft.errors import UserError
from sft.events import read_events
from sft.rundir import RunDirectory

VIEWS = ("wandb", "tensorboard", "trackio")
# The keys of transformers.integrations.integration_utils.INTEGRATION_TO_CALLBACK; a test compares them.
INTEGRATIONS = frozenset(
    {*VIEWS, "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte"}
    | {"kubeflow", "mlflow", "neptune", "swanlab"}
)
_WANDB_VARIABLES = {
    "base_url": "WANDB_BASE_URL",
    "entity": "WANDB_ENTITY",
    "project": "WANDB_PROJECT",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "tags": "WANDB_TAGS",
    "notes": "WANDB_NOTES",
}


def installed(view: str) -> bool:
    """Say whether the library behind a view can be imported."""
    return importlib.util.find_spec(view) is not None


def split_report_to(report_to: str | Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split `report_to` into the views that the kit feeds and the integrations left to transformers.

    `"all"` means every view whose library is installed; what else transformers would find under it is
    known once its TrainingArguments have replaced the word by a list.

    Raises:
        UserError: a name that transformers does not know, or a view whose library is missing.
    """
    names = [report_to] if isinstance(report_to, str) else list(report_to or ())
    if names in (["none"], []):
        return (), ()
    if names == ["all"]:
        return tuple(view for view in VIEWS if installed(view)), ()
    for name in names:
        if name not in INTEGRATIONS:
            known = ", ".join(sorted(INTEGRATIONS))
            raise UserError(
                f"report_to {name!r} is not an integration that transformers knows",
                "report_to",
                f"use none, all, or some of: {known}",
            )
    views = tuple(view for view in VIEWS if view in names)
    for view in views:
        require(view)
    return views, tuple(name for name in names if name not in VIEWS)


def require(view: str) -> None:
    """Raise the error that names the missing extra, where the library of a view is not installed."""
    if not installed(view):
        from sft.extras import missing_extra

        raise missing_extra(view)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """Names and places of the views. Nothing secret: these are written into the events."""

    views: tuple[str, ...]
    run_name: str | None
    wandb: Mapping[str, str]
    tensorboard_directory: str | None
    trackio_project: str
    trackio_space_id: str | None
    trackio_bucket_id: str | None
    trackio_static_space_id: str | None
    trackio_private: bool | None

    @classmethod
    def of(
        cls,
        *,
        views: Sequence[str],
        run_name: str | None,
        project: str,
        trackio_space_id: str | None,
        trackio_bucket_id: str | None,
        hub_private_repo: bool | None,
        trackio_static_space_id: str | bool | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ReportSettings:
        """Gather the settings of a launch from its training arguments and the environment.

        A static Space is made where `trackio_static_space_id` names one; unlike transformers' callback, a
        push to the Hub alone makes none.
        """
        environment = os.environ if environment is None else environment
        directory = environment.get("TENSORBOARD_LOGGING_DIR")
        return cls(
            views=tuple(views),
            run_name=run_name,
            wandb={
                key: environment[variable]
                for key, variable in _WANDB_VARIABLES.items()
                if environment.get(variable)
            },
            tensorboard_directory=str(Path(directory).expanduser().absolute()) if directory else None,
            trackio_project=project,
            trackio_space_id=trackio_space_id,
            trackio_bucket_id=trackio_bucket_id,
            trackio_static_space_id=(
                trackio_static_space_id if isinstance(trackio_static_space_id, str) else None
            ),
            trackio_private=hub_private_repo,
        )

    def as_event(self) -> dict[str, Any]:
        """Return the `report` field of a start event."""
        return asdict(self)

    @classmethod
    def from_event(cls, report: Mapping[str, Any]) -> ReportSettings:
        """Read what `as_event` wrote."""
        return cls(**{**report, "views": tuple(report["views"])})

    def wandb_names(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return what names the W&B run: as recorded at the first start, else as set here and now."""
        here = {key: environment[name] for key, name in _WANDB_VARIABLES.items() if environment.get(name)}
        # transformers' default project; its run_name beats WANDB_NAME.
        names = {"project": "huggingface", **here, **self.wandb}
        return {**names, "name": self.run_name} if self.run_name else names


def run_id(run: RunDirectory, continued: str | None = None) -> str:
    """Return the id that the run directory's events carry, or make one for its first start.

    Args:
        continued: of the run that this one continues, where it has no events yet.

    The id is drawn as W&B draws its own (8 lower-case letters and digits); WANDB_RUN_ID is used as it is.
    """
    for event in read_events(run.events_jsonl):
        if event["event"] == "start":
            return str(event["run_id"])
    given = continued or os.environ.get("WANDB_RUN_ID")
    return given or "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
