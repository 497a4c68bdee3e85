"""Where a run is pushed, and when."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sft.errors import Problem

Strategy = Literal["end", "every_save", "checkpoint", "all_checkpoints"]

_REPO_NAME = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_](?:[\w.-]*\w)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """The `hub_*` settings of a run file. The token is not among them: it stays in the environment."""

    repo: str | None = None
    private: bool | None = None
    strategy: Strategy = "every_save"
    always_push: bool = False
    revision: str | None = None
    endpoint: str | None = None

    def repo_name(self, output_dir: Path) -> str:
        """Name the repository: `hub_model_id`, or as transformers has it, after the output directory."""
        return self.repo or output_dir.absolute().name


def endpoint_from_environment() -> str | None:
    """Read `HF_ENDPOINT`; None means the Hub itself. An address with a password in it is not passed on."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    return endpoint if endpoint and "@" not in urlsplit(endpoint).netloc else None


def without_password(endpoint: str) -> str:
    """Spell an address for people and logs."""
    return re.sub(r"//[^/@]*@", "//", endpoint)


def settings_problems(settings: HubSettings, output_dir: Path) -> list[Problem]:
    """Find what the Hub would refuse; no network, and no library, is asked.

    Source:
        validate_repo_id, huggingface_hub/utils/_validators.py.
    """
    found: list[Problem] = []
    name = settings.repo_name(output_dir)
    last = name.rpartition("/")[2]
    if (
        not _REPO_NAME.fullmatch(name)
        or len(name) > 96
        or "--" in name
        or ".." in name
        or last.endswith(".git")
    ):
        key = "hub_model_id" if settings.repo else "the name of output_dir, used as hub_model_id"
        found.append(
            Problem(
                f"{name!r} cannot name a repository on the Hub ({key})",
                fix="set hub_model_id to NAME or OWNER/NAME: letters, digits, '-', '_' and '.', at most 96,"
                " no '--' or '..', no '-' or '.' at either end, no '.git' at the end",
            )
        )
    if settings.revision and _COMMIT.fullmatch(settings.revision):
        found.append(
            Problem(
                f"hub_revision {settings.revision} is a commit, and a push can only add to a branch",
                fix="set hub_revision to the name of a branch; it is made where it does not exist",
            )
        )
    return found
