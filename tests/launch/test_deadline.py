"""When a run has to have left: its own limit, Slurm's end, PBS's end, and which of them counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sft.deadline import Deadline
from sft.launch.deadline import find_deadline, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("90", 5400),
        ("5:30", 330),
        ("90:00", 5400),
        ("01:02:03", 3723),
        ("24:00:00", 86400),
        ("2-3", 183600),
        ("2-03", 183600),
        ("2-03:04", 183840),
        ("2-03:04:05", 183845),
        ("0-00:00:01", 1),
        ("0", None),
        ("00:00:00", None),
        ("UNLIMITED", None),
        ("Partition_Limit", None),
        ("", None),
        ("-", None),
        ("1-", None),
    ],
)
def test_a_time_limit_means_what_slurm_means_by_it(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@given(some.integers(0, 400), some.integers(0, 23), some.integers(0, 59), some.integers(0, 59))
def test_every_form_of_one_time_is_the_same_time(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds or None
    assert seconds_of(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    assert seconds_of(f"{days * 24 + hours}:{minutes:02}:{seconds:02}") == total
    assert seconds_of(f"{(days * 24 + hours) * 60 + minutes}:{seconds:02}") == total
    if seconds == 0:
        assert seconds_of(f"{days}-{hours}:{minutes}") == total
        assert seconds_of(str((days * 24 + hours) * 60 + minutes)) == total


def test_without_a_limit_and_a_scheduler_there_is_no_deadline() -> None:
    assert find_deadline(None, environment={}) is None
    assert find_deadline("0", environment={"LSB_JOBID": "7"}) is None


def test_the_nearest_end_counts() -> None:
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": str(int(time.time()) + 600)}
    own = find_deadline("5", environment=slurm)
    assert own is not None
    assert (own.source, round(own.seconds_left)) == ("launch.time_limit 5", 300)
    theirs = find_deadline("01:00:00", environment=slurm)
    assert theirs is not None
    assert theirs.source == "the end of Slurm job 7"
    assert 598 < theirs.seconds_left <= 600


def test_an_end_in_the_past_is_another_jobs_and_is_told() -> None:
    said: list[str] = []
    stale = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1700000000"}
    assert find_deadline(None, environment=stale, say=said.append) is None
    assert said == ["the end of Slurm job 7 lies in the past, and is not minded"]


def scontrol(directory: Path, line: str, code: int = 0) -> None:
    script = directory / "scontrol"
    script.write_text(f'#!/bin/sh\n[ "$*" = "show job -o 7" ] && echo "{line}"\nexit {code}\n')
    script.chmod(0o755)


def local(seconds_from_now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds_from_now))


@pytest.mark.parametrize(
    ("line", "code", "seconds"),
    [
        ("JobId=7 JobName=a b=c EndTime={end} TimeLimit=01:00:00 StartTime={start}", 0, 900),
        ("JobId=7 EndTime=Unknown StartTime={start} TimeLimit=0-00:20:00", 0, 600),
        ("JobId=7 EndTime=Unknown StartTime={start} TimeLimit=UNLIMITED", 0, None),
        ("slurm_load_jobs error: Invalid job id specified", 1, None),
    ],
    ids=["end", "start and limit", "unlimited", "fails"],
)
def test_an_older_slurm_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, code: int, seconds: float | None
) -> None:
    scontrol(tmp_path, line.format(start=local(-600), end=local(900)), code)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = find_deadline(None, environment={"SLURM_JOB_ID": "7"})
    if seconds is None:
        assert found is None
    else:
        assert found is not None
        assert abs(found.seconds_left - seconds) < 2


def test_without_scontrol_slurm_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find_deadline(None, environment={"SLURM_JOB_ID": "7"}) is None


def test_pbs_counts_from_the_start_of_the_jobs_shell() -> None:
    """The limit began when the job's own shell did, not when it came to `sft launch`."""
    code = "from sft.launch.deadline import find_deadline; print(find_deadline(None).seconds_left, find_deadline(None).source)"
    done = subprocess.run(
        ["sh", "-c", f"sleep 2; {sys.executable} -c '{code}'; true"],
        env={**os.environ, "PBS_JOBID": "12.host", "PBS_WALLTIME": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    left, source = done.stdout.split(maxsplit=1)
    print(done.stdout)
    assert source == "the end of PBS job 12.host\n"
    assert 90 < float(left) < 98


def test_a_deadline_is_handed_over_by_the_clock_and_kept_on_one_that_nobody_sets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_first = Deadline(time.monotonic() + 100, "launch.time_limit 2")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 5000)  # the clock is set between start and ranks
    handed = Deadline.handed(at_first.environment)
    assert handed is not None
    assert abs(handed.due - at_first.due) < 0.1
    monkeypatch.setattr(time, "time", lambda: now - 5000)
    assert abs(handed.seconds_left - 100) < 1
    assert handed.source == "launch.time_limit 2"
    assert Deadline.handed({}) is None


def test_the_clock_shows_the_date_only_where_it_is_another_day() -> None:
    assert len(Deadline(time.monotonic() + 3 * 86400, "x").clock) == len("2026-01-02 03:04:05")
    soon = Deadline(time.monotonic() + 0.0, "x").clock
    assert soon in {time.strftime("%H:%M:%S", time.localtime(time.time() - back)) for back in (0, 1)}
