"""The parts of the flow that need no Metaflow: the given run file, exit codes, results, the card's texts."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from sft.errors import ExitCode, UserError
from sft.events import EventLog
from sft.flow import given
from sft.flow.base import as_cache, commit_of, require_safetensors
from sft.flow.card import checkpoint_rows, loss_chart, plain, summary
from sft.flow.launched import Ended
from sft.flow.results import read_results
from sft.hub.cached import snapshot_of
from sft.report.settings import ReportSettings
from sft.rundir import RunDirectory

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = "model_name_or_path: team/tiny\ndataset_name: rows.jsonl\noutput_dir: runs/mine\n"


def test_changes_are_flags_that_win_over_the_file(tmp_path: Path) -> None:
    run = given.read(
        TEXT, "max_steps=4 run_name='a b' packing=true lora_target_modules='q_proj v_proj'", tmp_path
    )
    config = run.loaded.config
    assert (config.training.max_steps, config.training.run_name, config.training.packing) == (4, "a b", True)
    assert config.model.lora_target_modules == ["q_proj", "v_proj"]
    assert run.run.output_dir == tmp_path / "mine"


@pytest.mark.parametrize("changes", ["--max_steps 4", "max_steps", "=4"])
def test_a_change_that_is_none_is_refused(changes: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--set takes key=value, not ") as refused:
        given.read(TEXT, changes, tmp_path)
    assert refused.value.problems[0].fix == (
        'write --set "max_steps=4 learning_rate=2e-4", with quotes around a value that holds blanks'
    )


def test_several_machines_are_refused_by_the_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        given.read(TEXT + "launch:\n  nodes: 2\n  main_process_ip: a\n", "", tmp_path)
    assert str(refused.value) == (
        "a step of a flow trains on one machine, not on 2\n"
        f"  where: {tmp_path / 'run.yaml'}:5\n"
        "  fix:   set launch.nodes: 1 and give the step more GPUs, or use sft launch RUN.yaml --on slurm"
    )


def test_a_directory_is_emptied_once_nobody_runs_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given, "HOLDER_SECONDS", 0.3)
    lock = tmp_path / "place" / "mine" / "_sft" / "lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    with pytest.raises(UserError, match=f"an earlier attempt still runs: process {os.getpid()} on "):
        given.empty(tmp_path / "place")
    lock.write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
    given.empty(tmp_path / "place")
    assert not (tmp_path / "place").exists()


@pytest.mark.parametrize(
    ("code", "signalled", "retried"),
    [
        (ExitCode.BUG, False, False),
        (ExitCode.USAGE, False, False),
        (ExitCode.DOES_NOT_FIT, False, False),
        (ExitCode.ENVIRONMENT, False, False),
        (ExitCode.TRAINING_FAILED, False, False),
        (ExitCode.WORKER_LOST, False, True),
        (ExitCode.STOPPED, False, False),
        (ExitCode.STOPPED, True, True),
        (-9, False, True),
    ],
)
def test_only_what_may_end_otherwise_is_retried(code: int, signalled: bool, retried: bool) -> None:
    ended = Ended(code, signalled)
    assert ended.may_be_retried is retried
    assert ("a retry goes on from the last checkpoint" in ended.told) is retried


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (
            ["config.json", "pytorch_model.bin"],
            "team/tiny has its weights as pickles only (pytorch_model.bin)",
        ),
        (["config.json", "model.gguf"], "team/tiny has no weights that transformers loads"),
        (
            ["onnx/model.safetensors", "adapter_model.safetensors"],
            "team/tiny has no weights that transformers loads",
        ),
    ],
)
def test_a_repository_without_safetensors_is_refused(files: list[str], what: str) -> None:
    with pytest.raises(UserError) as refused:
        require_safetensors("team/tiny", COMMIT, files, "run.yaml:1")
    assert refused.value.problems[0].what.startswith(what)
    assert refused.value.problems[0].where == "run.yaml:1, at 01234567"
    for whole in ("model.safetensors", "model.safetensors.index.json"):
        require_safetensors("team/tiny", COMMIT, [*files, whole], "run.yaml:1")


def test_a_copy_becomes_a_cache_in_which_the_model_has_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    notes = copy / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    (copy / "config.json").write_text("{}")
    with pytest.raises(UserError, match="does not say of which commit it is"):
        commit_of(copy)
    (notes / "config.json.metadata").write_text(f"{COMMIT}\netag\n1.0\n")
    rows = tmp_path / "rows.jsonl"
    rows.touch()
    mine = tmp_path / "mine" / "datasets--team--rows"
    mine.mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(mine.parent))
    config = given.read(TEXT.replace("rows.jsonl", str(rows)), "", tmp_path / "place").loaded.config
    hub = tmp_path / "hub"
    words, environment = as_cache(copy, config, hub)
    assert words == [f"--model_revision={COMMIT}"]
    assert environment == {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    assert (hub / "datasets--team--rows").resolve() == mine
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    for revision in (None, "main", COMMIT):
        found = snapshot_of("team/tiny", revision)
        assert found is not None
        assert [path.name for path in found.iterdir()] == ["config.json"]


def test_results_hold_what_the_events_say_over_all_attempts(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = EventLog(run.events_jsonl)
    report = ReportSettings.of(
        views=(), run_name=None, project=None, trackio_space_id=None, trackio_bucket_id=None,
        trackio_static_space_id=None, hub_private_repo=None,
    ).as_event()  # fmt: skip
    for step, first in ((0, 1), (2, 3)):
        log.write(
            "start",
            run_id="a",
            world_size=2,
            step=step,
            config={"max_steps": 4, "launch": {"nodes": 1}},
            report=report,
        )
        for number in range(first, first + 3):
            log.write("log", step=number, max_steps=4, loss=5.0 - number, trained_tokens_per_second=10.0)
    log.write("evaluate", step=4, eval_loss=0.5)
    run.plan_json.write_text(
        json.dumps({"strategy": "ddp", "processes": 2, "device": "cpu", "total_train_batch_size": 8,
                    "memory": {"likely": 2**30, "at_most": 2**31}})
    )  # fmt: skip
    run.measured_json.write_text(json.dumps({"step": 4, "process_bytes": 3 * 2**29}))
    run.outcome_json.write_text('{"status": "finished", "exit_code": 0, "step": 4}')
    found = read_results(run)
    assert found.losses == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0), (5, 0.0)]
    assert found.eval_losses == [(4, 0.5)]
    assert found.settings == {"max_steps": 4, "launch.nodes": 1}
    assert found.metrics["status"] == "finished"
    assert found.metrics["eval_loss"] == 0.5
    assert found.planned[:5] == [
        ("strategy, processes", "ddp, 2", "2"),
        ("rows a step", "8", "-"),
        ("steps", "4", "5"),
        ("memory of one process", "about 1.0 GiB, at most 2.0 GiB", "1.5 GiB with Python and its libraries"),
        ("trained tokens a second", "-", "10"),
    ]


def test_a_run_that_left_nothing_has_empty_results(tmp_path: Path) -> None:
    found = read_results(RunDirectory(tmp_path)).to_dict()
    assert found == {"settings": {}, "losses": [], "eval_losses": [], "planned": [], "metrics": {}}


def test_the_card_takes_text_as_text_and_leaves_out_what_cannot_be_drawn() -> None:
    assert plain("# <b>a</b>\n*b*") == "\\# \\<b\\>a\\</b\\>  \n\\*b\\*"
    assert (
        summary({"status": "finished", "step": 4, "train_loss": 1.23456})
        == "finished at step 4, mean loss 1.235"
    )
    assert loss_chart([], []) is None
    chart = loss_chart([(1, 2.0), (2, float("nan"))], [(2, 1.5)])
    assert chart is not None
    assert chart["data"]["values"] == [
        {"step": 1, "loss": 2.0, "rows": "training"},
        {"step": 2, "loss": 1.5, "rows": "held out"},
    ]
    rows = checkpoint_rows(
        [
            {
                "attempt": 1,
                "metadata": {"step": 10, "epoch": 0.5, "loss": 1.0, "eval_loss": None, "bytes": 2**20},
            },
            {"attempt": 0, "metadata": {"told": "ended"}},
            {"attempt": 0, "metadata": {"step": 9, "epoch": 0.4, "loss": 2.0, "bytes": 2**20}},
        ]
    )
    assert rows == [
        ["9", "0.40", "2.0000", "-", "1.0 MiB", "0"],
        ["10", "0.50", "1.0000", "-", "1.0 MiB", "1"],
    ]
