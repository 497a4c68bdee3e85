"""W&B can be reported to: a key that can be one, a server's address, names that it takes.

A training is not harmed by a W&B that it cannot reach: its events lie in the run directory, and `sft sync` shows them there
later. So nothing here refuses a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sft.check.finding import Finding, note, warning
from sft.check.subject import Subject

NAME = "W&B"
COST = "looks for a key where wandb does, and asks nobody"
NEEDS = "nothing"

SHORTEST_KEY = 40
"""Without the prefix of a server of one's own. Source: wandb/sdk/lib/wbauth/validation.py."""
NOT_IN_PROJECTS = "/\\#?%:"
LONGEST_PROJECT = 128
LONGEST_TAG = 64


def look(subject: Subject) -> Iterator[Finding]:
    """Judge what wandb would refuse when the run begins."""
    environment = subject.environment
    if not is_reported(subject):
        return
    mode = environment.get("WANDB_MODE", "online")
    if mode == "disabled":
        yield note("WANDB_MODE=disabled: report_to wandb shows nothing; `sft sync` can still do so later")
        return
    if subject.config.launch.offline or mode in ("offline", "dryrun"):
        yield note("W&B gets the run later: `sft sync`, where there is a network")
        return
    yield from _address(environment.get("WANDB_BASE_URL"))
    yield from _key(subject)
    project = environment.get("WANDB_PROJECT", "")
    bad = [letter for letter in NOT_IN_PROJECTS if letter in project]
    if bad or len(project) > LONGEST_PROJECT:
        reason = f"it may hold none of {NOT_IN_PROJECTS}" if bad else f"it may have {LONGEST_PROJECT} letters"
        yield warning(
            f"W&B takes no project named {project!r}: {reason}", "WANDB_PROJECT", "choose another name"
        )
    for tag in environment.get("WANDB_TAGS", "").split(","):
        if len(tag) > LONGEST_TAG:
            yield warning(
                f"W&B takes no tag of more than {LONGEST_TAG} letters: {tag!r}", "WANDB_TAGS", "shorten it"
            )


def is_reported(subject: Subject) -> bool:
    """Whether the run is shown in W&B."""
    reports = subject.config.training.report_to
    return "wandb" in ([reports] if isinstance(reports, str) else reports or [])


def _address(url: str | None) -> Iterator[Finding]:
    if not url:
        return
    if not url.startswith(("http://", "https://")):
        fix = f"export WANDB_BASE_URL=https://{url}"
        yield warning(
            f"WANDB_BASE_URL={url} is no address: wandb takes http:// and https://", "WANDB_BASE_URL", fix
        )
    elif re.match(r"https?://(?:www\.|app\.)?wandb\.ai/?$", url):
        yield warning(
            f"WANDB_BASE_URL={url} is W&B's page for people, and wandb refuses it",
            "WANDB_BASE_URL",
            "unset it, or export WANDB_BASE_URL=https://api.wandb.ai",
        )


def _key(subject: Subject) -> Iterator[Finding]:
    environment = subject.environment
    key = environment.get("WANDB_API_KEY")
    if key is None:
        from sft.report.network import wandb_offline

        offline = wandb_offline({**environment, "WANDB_MODE": "online"}, route=False)
        if offline is not None:
            what = f"report_to wandb, and there is {offline.reason}: W&B gets nothing until `sft sync` brings it there"
            yield warning(what, "report_to", f"{offline.fix}; or set report_to: none")
        return
    secret = key.split("-", 1)[-1]
    is_token = re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", key) is not None
    if not is_token and (len(secret) < SHORTEST_KEY or re.fullmatch(r"[\w-]+", secret) is None):
        reason = (
            f"it has {len(secret)} letters of {SHORTEST_KEY} or more"
            if len(secret) < SHORTEST_KEY
            else "it holds others than letters, digits and _"
        )
        yield warning(
            f"the key for W&B is not whole: {reason}; W&B gets nothing until `sft sync` brings it there",
            "WANDB_API_KEY",
            "copy it again from https://wandb.ai/authorize, or unset it and run `wandb login`",
        )
