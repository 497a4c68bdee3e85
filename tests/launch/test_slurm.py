"""What is made of a cluster that has no accounting at all; everything else of Slurm is asked of a real one in tests/slurm/."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.launch.on.slurm import state_of


def test_a_job_that_is_forgotten_where_there_is_no_sacct_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    state = state_of("7")
    assert (state.state, state.is_over, state.exit_code) == ("GONE", True, None)
