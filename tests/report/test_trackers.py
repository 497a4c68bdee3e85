"""TensorBoard and trackio, read back with their own readers. W&B is in test_live and test_sync."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.report.sync import sync
from sft.report.trackers import without_secrets
from tests.report.runs import WrittenRun, settings


def scalars(directory: Path, tag: str) -> dict[int, float]:
    """Read one chart as TensorBoard does."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(directory))
    board.Reload()
    points = board.Scalars(tag)
    assert len({point.step for point in points}) == len(points)
    return {point.step: round(point.value, 4) for point in points}


def run_with_a_restart(tmp_path: Path, view: str) -> WrittenRun:
    """Steps 1 to 5, killed, again from the checkpoint of step 3, to step 6."""
    run = WrittenRun(tmp_path / "run", settings(view, run_name="chat"))
    run.start()
    run.train(1, 5, loss=3.0)
    run.start(step=3)
    run.train(4, 6, loss=2.0)
    run.evaluate(6, loss=1.5)
    run.end(6)
    return run


def printed(script: str, run: WrittenRun, tmp_path: Path) -> Any:
    """Run a script that prints JSON, in its own process: trackio reads TRACKIO_DIR when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(run.directory.output_dir)],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")},
        check=True,
        capture_output=True,
        text=True,
    )
    # Nothing but what the script prints: trackio's own words go to stderr.
    return json.loads(done.stdout)


LOSSES = {1: 2.99, 2: 2.98, 3: 2.97, 4: 1.96, 5: 1.95, 6: 1.94}


def test_tensorboard_reads_a_restarted_run_as_one(tmp_path: Path) -> None:
    run = run_with_a_restart(tmp_path, "tensorboard")
    run.log.write("log", step=6, train_runtime=12.0)

    for _ in range(2):
        location = sync(run.directory, None, watch=False)

    assert location == str(run.directory.output_dir / "runs" / "run00001")
    assert scalars(Path(location), "train/loss") == LOSSES
    assert scalars(Path(location), "eval/loss") == {6: 1.5}
    assert scalars(Path(location), "train/train_runtime") == {6: 12.0}
    (file,) = Path(location).iterdir()
    assert b"hf_secret" not in file.read_bytes()
    assert b"learning_rate" in file.read_bytes()


def test_tensorboard_takes_back_repeated_steps_of_a_run_that_it_follows(tmp_path: Path) -> None:
    from sft.report.history import History, row_of
    from sft.report.trackers import TensorboardTracker, ViewedRun

    run = WrittenRun(tmp_path / "run", settings("tensorboard"))
    tracker = TensorboardTracker()
    tracker.start(ViewedRun(directory=run.directory, run_id="one", settings=run.report, config={}, live=True))
    run_with_a_restart(tmp_path, "tensorboard")
    history = History()
    from sft.events import read_events

    for event in read_events(run.directory.events_jsonl):
        history.add(event)
        row = row_of(event)
        if event["event"] == "start":
            tracker.rewind(event["step"])
        elif row is not None:
            tracker.log(row)
    tracker.finish(0)

    assert scalars(Path(tracker.location), "train/loss") == LOSSES


def test_tensorboard_leaves_the_files_of_other_runs_in_a_shared_directory(tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    boards.mkdir()
    (boards / "events.out.tfevents.1.host.1.0.another1").write_bytes(b"")
    run = WrittenRun(
        tmp_path / "run", settings("tensorboard", environment={"TENSORBOARD_LOGGING_DIR": str(boards)})
    )
    run.start()
    run.train(1, 2, loss=3.0)
    run.end(2)

    for _ in range(2):
        assert sync(run.directory, None, watch=False) == str(boards)

    assert len(list(boards.iterdir())) == 2
    assert scalars(boards, "train/loss") == {1: 2.99, 2: 2.98}


def test_trackio_holds_a_restarted_run_once(tmp_path: Path) -> None:
    run = run_with_a_restart(tmp_path, "trackio")
    script = """
import json, sys
from pathlib import Path
from sft.report.sync import sync
from sft.rundir import RunDirectory
where = [sync(RunDirectory(Path(sys.argv[1])), None, watch=False) for _ in range(2)][-1]
import trackio
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("huggingface")
rows = SQLiteStorage.get_logs("huggingface", run.name, run_id=run.id)
print(json.dumps({"where": where, "name": run.name, "config": run.config, "rows": rows}))
"""
    found = printed(script, run, tmp_path)

    assert found["name"] == "chat-run00001"
    assert found["where"] == f"{tmp_path / 'trackio'}: project huggingface, run chat-run00001"
    assert {row["step"]: round(row["train/loss"], 4) for row in found["rows"]} == LOSSES
    assert len(found["rows"]) == len(LOSSES)
    assert found["rows"][-1]["eval/loss"] == 1.5
    assert found["config"]["learning_rate"] == 2e-4
    assert found["config"]["hub_token"] == "<HUB_TOKEN>"


@pytest.mark.parametrize(("exit_code", "made"), [(0, 1), (75, 0)])
def test_a_static_space_is_made_where_one_is_named_and_the_run_finished(
    exit_code: int, made: int, tmp_path: Path
) -> None:
    run = WrittenRun(
        tmp_path / "run",
        settings("trackio", run_name="chat", trackio_static_space_id="me/board", hub_private_repo=True),
    )
    run.start()
    run.train(1, 1, loss=3.0)
    run.end(1, exit_code=exit_code)
    script = """
import json, sys
from pathlib import Path
import trackio
calls = []
trackio.sync = lambda **options: calls.append(options)
from sft.report.sync import sync
from sft.rundir import RunDirectory
sync(RunDirectory(Path(sys.argv[1])), None, watch=False)
print(json.dumps(calls))
"""
    calls = printed(script, run, tmp_path)
    space = {"project": "huggingface", "sdk": "static", "space_id": "me/board"}
    assert calls == [{**space, "private": True, "bucket_id": None, "force": True}] * made


def test_tokens_and_keys_of_a_config_are_masked() -> None:
    config = {"hub_token": "hf_secret", "wandb_api_key": "x", "max_length": 512, "eos_token": "</s>"}
    assert without_secrets(config) == {
        "hub_token": "<HUB_TOKEN>",
        "wandb_api_key": "<WANDB_API_KEY>",
        "max_length": 512,
        "eos_token": "<EOS_TOKEN>",
    }
