"""How every script that starts a run begins: what it is, knobs to edit, where it runs, the site's set-up. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sft.launch.platform import Submission


LOGS = 'LOGS="$RUN/_sft/logs"'
"""A knob of the scripts that write logs themselves."""


def head_lines(
    job: Submission, *, options: Sequence[str] = (), knobs: Sequence[str] = (), has_setup: bool = True
) -> list[str]:
    """Return the first lines of a script.

    Args:
        options: lines that a scheduler reads, which have to come first.
        knobs: further variables, which may use those that are always there: SFT, RUN, RUN_FILE, OVERRIDES.
        has_setup: run the lines of `launch.setup` here.
    """
    return [
        "#!/bin/bash",
        *options,
        *([""] if options else []),
        f"# {job.title}: {job.plan.describe()[0]}.",
        f"# Written by: {job.written_by}",
        "set -euo pipefail",
        "",
        "# --- knobs",
        f"SFT={shlex.quote(str(job.sft))}  # the kit",
        f"RUN={shlex.quote(str(job.run.output_dir))}  # output_dir",
        'RUN_FILE="$RUN/_sft/submitted.yaml"  # the run file as it was submitted, overrides included',
        f"OVERRIDES=({shlex.join(job.overrides)})  # of `sft launch`",
        *knobs,
        f"cd {shlex.quote(str(job.directory))}",
        *(setup_lines(job) if has_setup else []),
    ]


def setup_lines(job: Submission) -> list[str]:
    """Return the site's own lines, and what `launch.offline` sets."""
    lines = site_lines(job.launch.setup)
    if job.launch.offline:
        lines += ["", "# --- launch.offline", "export HF_HUB_OFFLINE=1 WANDB_MODE=offline"]
    return lines


def site_lines(setup: Sequence[str]) -> list[str]:
    """Return the lines of `launch.setup` as a script runs them; none where there are none."""
    if not setup:
        return []
    return ["", "# --- launch.setup", "set +u  # modules and conda are not written for -u", *setup, "set -u"]
