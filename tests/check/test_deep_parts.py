"""The parts of a rehearsal, without launching one: its run file, its size, how a failure is read, what is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sft.check.deep import rehearse, room, rows
from sft.check.deep.cut import plan_cut
from sft.check.deep.launched import Launched, NotMadeError, failure
from sft.check.deep.nowhere import pushed
from sft.check.deep.report import phases
from sft.check.deep.settings import rehearsal_of, scale_of, with_rows, without_packing
from sft.check.survey import Survey, survey
from sft.config.loader import LoadedRun, load_run
from sft.errors import ExitCode, Problem
from sft.events import EventLog
from sft.plan.hardware import Hardware, asked_for
from sft.plan.plan import Plan, make_plan
from sft.rundir import RunDirectory
from tests.check.made import write_run

LLAMA = {"model_name_or_path": "org/llama", "dataset_name": "org/chats"}


def run_of(directory: Path, **settings: Any) -> tuple[LoadedRun, Plan]:
    loaded = load_run(write_run(directory, **{**LLAMA, **settings}), environment={})
    return loaded, make_plan(loaded, asked_for(8, 8), is_placed=False)


def made(directory: Path, processes: int = 2, **settings: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a rehearsal, and what is said of them."""
    loaded, plan = run_of(directory, **settings)
    scale = scale_of(loaded.config, plan, numbers=10**9, processes=processes)
    rehearsal = rehearsal_of(loaded.config, plan, scale)
    return rehearsal.settings, rehearsal.changes


def test_two_steps_that_save_and_evaluate_are_made_of_a_run(tmp_path: Path) -> None:
    settings, changes = made(
        tmp_path,
        learning_rate=2e-4,
        num_train_epochs=3,
        total_train_batch_size=256,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        report_to="wandb",
        load_best_model_at_end=True,
        launch={
            "nodes": 4,
            "gpus_per_node": 8,
            "strategy": "zero3",
            "time_limit": "01:00:00",
            "wrap": "box run",
        },
    )
    launch = settings.pop("launch")
    assert settings == {
        **LLAMA,
        "learning_rate": 2e-4,
        "load_best_model_at_end": True,
        "max_steps": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "warmup_steps": 0,
        "report_to": "none",
        "strict_data": False,
        "max_cut_answers": 1.0,
        "dataset_num_proc": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "per_device_eval_batch_size": 2,
    }
    assert (launch["device"], launch["processes_per_node"], launch["strategy"]) == ("cpu", 2, "zero3")
    assert launch["offline"]
    assert changes == [
        "2 x 1 rows a process and step, not 8 x 1",
        "2 processes on this machine, not 32 on 4 machines",
        "launch.wrap is left out",
    ]


def test_what_needs_a_gpu_is_replaced_and_said(tmp_path: Path) -> None:
    settings, changes = made(
        tmp_path,
        fp16=True,
        dtype="float16",
        attn_implementation="flash_attention_2",
        use_liger_kernel=True,
        optim="galore_adamw_8bit",
        optim_target_modules="all-linear",
        per_device_train_batch_size=1,
        launch={"gpus_per_node": 2},
    )
    given = ("fp16", "bf16", "dtype", "attn_implementation", "use_liger_kernel", "optim")
    assert [settings[key] for key in given] == [False, True, "bfloat16", "sdpa", False, "galore_adamw"]
    assert changes == [
        "use_liger_kernel is off, which needs a GPU",
        "fp16: bf16 instead",
        "dtype: bfloat16, not float16",
        "attn_implementation: sdpa, not flash_attention_2",
        "optim: galore_adamw, not galore_adamw_8bit",
    ]


@pytest.mark.parametrize(
    ("numbers", "asked", "lengths"),
    [
        (10**5, 1024, [512, 1024]),
        (10**5, 256, [256]),
        (10**7, 1024, [416, 832, 1024]),
        (10**11, 200, [64, 128, 200]),
        (10**11, None, [64, 128, 256, 512, 1024, 2048, 4096]),
    ],
)
def test_rows_are_as_long_as_a_cpu_trains_in_seconds(
    numbers: int, asked: int | None, lengths: list[int], tmp_path: Path
) -> None:
    loaded, plan = run_of(tmp_path, max_length=asked, per_device_train_batch_size=1)
    assert scale_of(loaded.config, plan, numbers=numbers, processes=2).lengths == lengths


@pytest.mark.parametrize(
    ("fast", "numbers", "more", "is_float32"),
    [
        (False, 10**8, {}, True),
        (False, 10**8, {"fp16": True, "dtype": "float16"}, True),
        (True, 10**8, {}, False),
        (False, 10**5, {}, False),  # it takes no time anyway
        (False, 10**8, {"bf16": False}, False),
        (False, 10**8, {"load_in_4bit": True, "use_peft": True}, False),
    ],
)
def test_a_cpu_without_bfloat16_computes_in_float32(
    fast: bool, numbers: int, more: dict[str, Any], is_float32: bool, tmp_path: Path
) -> None:
    loaded, plan = run_of(tmp_path, max_length=512, per_device_train_batch_size=1, **more)
    scale = scale_of(loaded.config, plan, numbers=numbers, processes=1, fast_bfloat16=fast)
    assert scale.in_float32 is is_float32
    made = rehearsal_of(loaded.config, plan, scale)
    if is_float32:
        assert (made.settings["bf16"], made.settings["dtype"], made.settings.get("fp16", False)) == (
            False,
            "float32",
            False,
        )
        assert [line for line in made.changes if "16" in line] == [
            "float32, as this CPU has no instructions for bfloat16"
        ]


def test_rows_without_padding_are_as_long_as_they_are(tmp_path: Path) -> None:
    loaded, plan = run_of(tmp_path, max_length=None, padding_free=True)
    assert scale_of(loaded.config, plan, numbers=10**9, processes=1).lengths is None


def test_rows_of_its_own_take_the_place_of_any_data() -> None:
    mixture = {"datasets": [{"path": "a"}], "test_split_size": 0.1, "eval_strategy": "steps", "seed": 1}
    named = {"dataset_name": "/tmp/$$x", "dataset_train_split": "train", "dataset_test_split": "test"}
    assert with_rows(mixture, "/tmp/$x") == {"eval_strategy": "steps", "seed": 1, **named}
    assert without_packing({"packing": True, "eval_packing": True, "seed": 1}) == {"seed": 1}


def test_the_first_rows_of_every_part_are_taken_as_they_stand(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{name}{n}"}}\n' for n in range(9)))
    parts = [{"path": str(tmp_path / f"{name}.jsonl")} for name in "ab"]
    run = write_run(tmp_path, model_name_or_path="org/llama", datasets=parts)
    taken = rows.take(str(run), [], str(tmp_path / "rows"), {"train": 4, "test": 1})
    assert taken == {"train": 4, "parts": 2}
    texts = [
        json.loads(line)["text"] for line in (tmp_path / "rows" / "train.jsonl").read_text().splitlines()
    ]
    assert texts == ["a0", "a1", "b0", "b1"]


def test_the_shortest_length_that_leaves_something_to_learn_is_chosen(
    tiny_model: Path, tmp_path: Path
) -> None:
    long = {
        "messages": [
            {"role": "user", "content": "numbers " * 60},
            {"role": "assistant", "content": "It holds."},
        ]
    }
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "train.jsonl").write_text((json.dumps(long) + "\n") * 4)
    own = {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tmp_path / "rows"),
        "assistant_only_loss": True,
    }
    run = str(write_run(tmp_path, **own, max_cut_answers=1))
    assert rows.choose_length(run, [32, 64, 512, 1024]) == 512
    assert rows.choose_length(run, [16, 32]) == 32


@pytest.mark.parametrize(
    ("cores", "gib", "expected"), [(2, 64, 2), (16, 64, 8), (16, 5, 4), (1, 64, 2), (16, 2, None)]
)
def test_as_many_processes_as_the_machine_holds(
    cores: int, gib: int, expected: int | None, tiny_model: Path, tmp_path: Path
) -> None:
    loaded, plan = run_of(tmp_path, launch={"gpus_per_node": 8})
    cut, available = plan_cut(tiny_model), gib << 30
    if expected is None:
        with pytest.raises(NotMadeError, match=r"^it needs about 2\.4 GiB of memory, and 2\.0 GiB are left$"):
            room.fitting_processes(loaded.config, plan, cut, cores=cores, available_bytes=available)
    else:
        found = room.fitting_processes(loaded.config, plan, cut, cores=cores, available_bytes=available)
        assert found == expected


# --- what is left out


def looked_at(directory: Path, **settings: Any) -> Survey:
    run = write_run(directory, **settings, launch={"device": "cpu"})
    found = survey(run, hardware=Hardware((), (), 2, 16 << 30), checks=())
    return rehearse.rehearsed(found, lambda line: None)


def test_a_model_that_cannot_be_cut_is_a_warning_that_says_why(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    found = looked_at(tmp_path, model_name_or_path=str(model), dataset_name=str(tiny_chats))
    (told,) = [finding for finding in found.findings if finding.check == "deep"]
    assert str(told) == (
        "warning: the run was not rehearsed: its model cannot be cut: its weights are pickles, not safetensors\n"
        f"  where: {tmp_path}/run.yaml:1"
    )


def test_a_model_that_is_not_here_is_not_fetched(tiny_chats: Path, tmp_path: Path) -> None:
    found = looked_at(tmp_path, model_name_or_path="nobody/nothing", dataset_name=str(tiny_chats))
    (told,) = [finding for finding in found.findings if finding.check == "deep"]
    assert str(told) == (
        "warning: the run was not rehearsed: nobody/nothing is not on this machine\n"
        "  fix:   bring it with `sft fetch RUN.yaml`"
    )


def test_no_room_is_a_warning(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "LEFT_BYTES", 1 << 60)
    found = looked_at(tmp_path, model_name_or_path=str(tiny_model), dataset_name=str(tiny_chats))
    (told,) = [finding for finding in found.findings if finding.check == "deep"]
    assert told.problem.what.startswith("the run was not rehearsed: it needs about 1,073,741,824.0 GiB in /")
    assert told.problem.fix == "set TMPDIR to a directory that has room"


def test_a_run_that_is_refused_is_not_rehearsed(tmp_path: Path) -> None:
    settings = {"model_name_or_path": "org/llama", "dataset_name": "org/chats", "total_train_batch_size": 3}
    found = looked_at(tmp_path, **settings, per_device_train_batch_size=2)
    assert [finding.check for finding in found.findings] == ["plan"]


# --- how a failure is read


def ended(directory: Path, code: int, *, said: str = "", log: str = "", **outcome: Any) -> Launched:
    """Leave behind what a launch of one rank does."""
    run = RunDirectory(directory)
    state = {"rank": 0, "pid": 1, "status": "failed", "phase": outcome.pop("phase", "train"), "exit_code": 1}
    for path, text in (
        (run.rank_state(0), json.dumps({**state, "what": outcome.get("what", "")})),
        (run.outcome_json, json.dumps({"status": "failed", "exit_code": code, **outcome})),
        (run.rank_log(0), log),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Launched(run, code, 0.0, 1.0, said)


TRACE = 'Traceback (most recent call last):\n  File "trainer.py", line 9, in {name}\nKeyError: 1\n'


@pytest.mark.parametrize(
    ("phase", "name", "expected"),
    [
        ("start", "main", "load"),
        ("load", "build_trainer", "load"),
        ("train", "forward", "train"),
        ("evaluate", "score", "evaluate"),
        ("train", "_determine_best_metric", "evaluate"),
        ("train", "on_save", "save"),
        ("export", "save_model", "export"),
    ],
)
def test_the_phase_is_the_ranks_or_what_its_traceback_says(
    phase: str, name: str, expected: str, tmp_path: Path
) -> None:
    launched = ended(tmp_path, 1, log=TRACE.format(name=name), phase=phase, what="rank 0 failed: KeyError: 1")
    found, problem, code = failure(launched)
    assert (found, code) == (expected, ExitCode.TRAINING_FAILED)
    assert problem.what == "rank 0 failed: KeyError: 1\n" + "\n".join(
        f"    {line}" for line in TRACE.format(name=name).splitlines()
    )


def test_a_failed_merge_is_told_with_what_it_said(tmp_path: Path) -> None:
    what = "the merge failed; the training is done: the same command merges"
    launched = ended(tmp_path, 2, said="step 2\nthe base has moved\n", what=what, left=["merge", "push"])
    told = Problem("the merge failed\n    step 2\n    the base has moved")
    assert failure(launched) == ("merge", told, ExitCode.USAGE)


def test_a_launch_that_refuses_before_any_rank_is_told_by_what_it_said_last(tmp_path: Path) -> None:
    said = "2 rows a step\nno row is left\n  where: a.jsonl\n  fix:   add rows\n"
    launched = Launched(RunDirectory(tmp_path), 2, 0.0, 1.0, said)
    assert failure(launched) == ("data", Problem("no row is left", "a.jsonl", "add rows"), ExitCode.USAGE)
    torn = Launched(RunDirectory(tmp_path), 1, 0.0, 1.0, "Traceback\nKeyError: 1\n")
    assert failure(torn) == ("data", Problem("Traceback\nKeyError: 1"), ExitCode.TRAINING_FAILED)


@pytest.mark.parametrize("code", [3, 6, 75])
def test_what_this_machine_lacks_says_nothing_about_the_run(code: int, tmp_path: Path) -> None:
    launched = ended(tmp_path, code, said="rank 1 was killed by SIGKILL")
    with pytest.raises(NotMadeError):
        failure(launched)


def test_a_hang_shows_where_the_ranks_stand(tmp_path: Path) -> None:
    what = "rank 0 in train: no progress for 300 s (limit of train)"
    told = ended(tmp_path / "train", 6, said="rank 0 stands in step()\n", what=what)
    phase, problem, code = failure(told)
    assert (phase, code) == ("train", ExitCode.TRAINING_FAILED)
    assert problem.what == f"{what}\n    rank 0 stands in step()"
    with pytest.raises(NotMadeError, match=r"^its processes did not start: "):
        failure(ended(tmp_path / "start", 6, phase="start", what=what.replace("train", "start")))


def test_a_push_that_is_not_journalled_is_an_error(tmp_path: Path) -> None:
    (told,) = pushed(RunDirectory(tmp_path), ["not pushed: only shards", "step 2 is done"], "run.yaml:3")
    assert told.gravity == "error"
    assert told.problem.what.endswith(
        "phase push: the finished model would not be pushed: not pushed: only shards"
    )


def test_the_seconds_of_a_phase_end_where_the_next_begins(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = EventLog(run.events_jsonl)
    lines = [("phase", {"phase": phase}) for phase in ("load", "train", "evaluate", "train", "export")]
    for kind, fields in [*lines, ("save", {"seconds": 0.5}), ("end", {})]:
        log.write(kind, **fields)
    text = run.events_jsonl.read_text().splitlines()
    moved = [json.dumps({**json.loads(line), "time": 10.0 + 2 * index}) for index, line in enumerate(text)]
    run.events_jsonl.write_text("\n".join(moved) + "\n")
    spent = phases(Launched(run, 0, 9.0, 20.0, ""))
    assert spent == {"load": 3.0, "train": 4.0, "evaluate": 2.0, "save": 0.5, "export": 4.0}
