"""Several run files in one launch: what is refused, the array's script, the table, and real rows of launches."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sft.cli import several as cli_several
from sft.cli.main import command_parser
from sft.config.loader import load_run
from sft.errors import UserError
from sft.events import EventLog
from sft.launch.on import slurm
from sft.launch.platform import Submission
from sft.launch.results import result_of, table
from sft.launch.sbatch import job_script
from sft.launch.several import Member, array_of, code_of, refuse_shared
from sft.plan.hardware import Hardware
from sft.plan.plan import make_plan
from sft.rundir import RunDirectory
from tests.training.launching import SFT

SHELLCHECK = Path(sys.executable).with_name("shellcheck")
LAUNCH: dict[str, Any] = {"device": "cpu", "processes_per_node": 1}


def member(place: Path, name: str, output: str | None = None, **launch: Any) -> Member:
    """Write a task file and plan it."""
    path = place / f"{name}.py"
    settings = {
        "model_name_or_path": "m",
        "dataset_name": "d",
        "output_dir": output or str(place / "runs" / name),
    }
    path.write_text(f"RUN = {settings | {'launch': LAUNCH | launch}!r}\n", encoding="utf-8")
    loaded = load_run(path, environment={})
    return Member(path, loaded, make_plan(loaded, Hardware((), (), 4, 0)))


def submission(one: Member) -> Submission:
    return Submission(
        launch=one.loaded.config.launch,
        plan=one.plan,
        run=one.run,
        sft=Path("/kit/.venv/bin/sft"),
        directory=Path("/work/me"),
        name=one.run.output_dir.name,
        title="a.py, b.py",
        written_by="sft launch a.py b.py --on slurm",
    )


def array(*members: Member) -> Submission:
    return array_of(members, [submission(one) for one in members])


@pytest.mark.parametrize(
    ("words", "files", "extra"),
    [
        (["a.yaml", "--learning_rate", "2e-4", "--packing"], ["a.yaml"], ["--learning_rate", "2e-4", "--packing"]),
        (["a.py", "b.py", "--report_to", "wandb", "tensorboard"], ["a.py", "b.py"], ["--report_to", "wandb", "tensorboard"]),
        (["--on", "slurm", "a.py", "b.py", "--seed", "3"], ["a.py", "b.py"], ["--seed", "3"]),
        (["a.py", "--fresh", "--seed=3", "--max-restarts", "2"], ["a.py"], ["--seed=3"]),
        # As before: what follows a flag is the flag's.
        (["a.py", "--seed", "3", "b.py"], ["a.py"], ["--seed", "3", "b.py"]),
    ],
)  # fmt: skip
def test_values_of_flags_are_not_taken_for_run_files(
    words: list[str], files: list[str], extra: list[str]
) -> None:
    parser, _ = command_parser("launch")
    arguments, left = parser.parse_known_args(words)
    assert ([str(path) for path in arguments.run_files], left) == (files, extra)


def test_two_with_one_output_dir_are_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "again").symlink_to(tmp_path / "runs")
    one, other = member(tmp_path, "a"), member(tmp_path, "b", str(tmp_path / "again" / "a"))
    refuse_shared([one, member(tmp_path, "c")])
    with pytest.raises(UserError) as caught:
        refuse_shared([one, other])
    assert str(caught.value) == (
        f"{tmp_path}/a.py and {tmp_path}/b.py have the same output_dir: {tmp_path}/again/a\n"
        f"  where: {tmp_path}/b.py:1\n"
        "  fix:   give each an output_dir of its own"
    )


@pytest.mark.parametrize(
    ("codes", "code"), [([0, 0], 0), ([0, 5, 2], 5), ([0, 75, None], 75), ([2, 75, None], 2), ([0, None], 75)]
)
def test_the_first_bad_exit_code_is_the_whole_ones(codes: list[int | None], code: int) -> None:
    assert code_of(codes) == code


@pytest.mark.parametrize(("second", "asked"), [(75, ["a", "b"]), (6, ["a", "b", "c"])])
def test_a_stop_of_one_that_is_waited_for_ends_the_row(
    second: int, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a platform's run is attended, Ctrl-C stops it: the next one is not what was wished for."""
    ended = {"a": 0, "b": second, "c": 0}
    seen = []

    def submit(member: Any, *more: Any) -> int:
        seen.append(member)
        return ended[member]

    monkeypatch.setattr(cli_several, "_one_of_several", submit)
    codes = cli_several._one_by_one(list(ended), None, [], None)  # names serve as members
    assert seen == asked
    assert codes == ([0, 75, None] if second == 75 else [0, 6, 0])
    assert code_of(codes) == second


def test_the_script_of_an_array_launches_file_n_in_task_n(tmp_path: Path) -> None:
    hostile = str(tmp_path / "my runs $(touch x) 'a' %j")
    job = array(member(tmp_path, "a"), member(tmp_path, "b", hostile))
    text = slurm.script(job)
    assert "#SBATCH --array=0-1\n" in text
    assert "#SBATCH --job-name=a+b\n" in text
    assert f"#SBATCH --output={tmp_path}/runs/a/_sft/logs/job-%A_%a.log\n" in text
    script = tmp_path / "array.sbatch"
    script.write_text(text)
    done = subprocess.run(
        [SHELLCHECK, "-e", "SC2016,SC2089,SC2090", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    # The knobs, run by bash for each task.
    knobs = text.partition("# --- knobs\n")[2].partition("cd /work/me")[0]
    for task, run in enumerate(job.members):
        run.logs.mkdir(parents=True)
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": f"4{task}"}
        subprocess.run(
            ["bash", "-euc", f'{knobs}\nprintf "%s\\n" "$RUN" "$RUN_FILE"'],
            env=environment,
            check=True,
            cwd=tmp_path,
        )
        said = (run.logs / f"job-4{task}.log").read_text().splitlines()
        assert said == [str(run.output_dir), f"{run.output_dir}/_sft/submitted.yaml"]
        assert slurm.log(run, f"4{task}").read_text()
    assert not (tmp_path / "x").exists()


def test_a_single_run_has_the_script_that_it_had(tmp_path: Path) -> None:
    text = job_script(submission(member(tmp_path, "a")))
    assert 'LOGS="$RUN/_sft/logs"\ncd /work/me\n' in text
    assert "SLURM_ARRAY" not in text


def test_an_array_has_one_script(tmp_path: Path) -> None:
    one, other = member(tmp_path, "a", time_limit="01:00:00"), member(tmp_path, "b", time_limit="02:00:00")
    with pytest.raises(UserError) as caught:
        array(one, other)
    assert str(caught.value) == (
        "the tasks of an array have one script, and these would need several: "
        f"--time=01:00:00 ({one.path}), --time=02:00:00 ({other.path})\n"
        f"  where: {one.path}, {other.path}\n"
        "  fix:   give them the same, with a flag behind the run files (--time_limit 04:00:00); or submit each by itself"
    )
    with pytest.raises(UserError, match="is an array by itself"):
        array(one, member(tmp_path, "c", time_limit="01:00:00", slurm={"array": ["--seed 1"]}))
    with pytest.raises(UserError, match=r"module load cuda \("):
        array(member(tmp_path, "d", setup=["module load cuda"]), member(tmp_path, "e"))


def evaluated(run: RunDirectory, **scores: tuple[float, float]) -> None:
    """Leave what the evaluation after a training leaves."""
    base, tuned = ({name: pair[side] for name, pair in scores.items()} for side in (0, 1))
    said = {
        "split": "test",
        "samples": 8,
        "step": 4,
        "seconds": 1.0,
        "adapter": str(run.output_dir),
        "base": base,
    }
    (run.kit / "eval.json").write_text(json.dumps(said | {"tuned": tuned}))


def test_the_table_tells_what_is_there_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole, killed, absent = (RunDirectory(tmp_path / "runs" / name) for name in ("whole", "killed", "absent"))
    for run in (whole, killed):
        run.kit.mkdir(parents=True)
    whole.run_yaml.write_text("eval_metrics: [loss, /work/tasks/sql.py:same_result]\n")
    evaluated(whole, loss=(3.25, 1.5), same_result=(0.0, 0.71234), perplexity=(25.8, 4.48))
    whole.outcome_json.write_text('{"status": "finished", "exit_code": 0, "step": 4}')
    (whole.output_dir / "adapter_model.safetensors").touch()
    # Two starts, the first of them killed: what lies between them is nobody's time.
    moments = iter((100.0, 160.0, 1000.0, 1040.0, 9000.0))
    monkeypatch.setattr("sft.events.time.time", lambda: next(moments))
    for event in ("start", "log", "start", "end", "note"):
        EventLog(whole.events_jsonl).write(event)
    killed.outcome_json.write_text('{"status": "failed", "exit_code": 5}')
    results = [result_of(f"tasks/{run.output_dir.name}.py", run) for run in (whole, killed, absent)]
    assert table(results) == [
        "task             metric       base   tuned      time  adapter     state",
        "tasks/whole.py   same_result     0  0.7123  00:01:40  runs/whole  finished",
        "tasks/killed.py  -               -       -         -  -           failed (5)",
        "tasks/absent.py  -               -       -         -  -           not started",
    ]
    assert results[0].to_json()["adapter"] == str(whole.output_dir)
    assert results[0].samples == 8


def test_without_the_key_the_last_that_was_measured_is_shown(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.kit.mkdir()
    evaluated(run, loss=(3.0, 2.0), perplexity=(20.0, 7.4))
    assert (result_of("a", run).metric, result_of("a", run).tuned) == ("perplexity", 7.4)
    run.run_yaml.write_text("eval_metrics: [loss]\n")
    assert result_of("a", run).metric == "loss"
    (run.kit / "eval.json").write_text('{"base": {"loss"')
    assert result_of("a", run).metric is None


TASK = """\
def to_text(row):
    {body}
    return {{"text": row["messages"][1]["content"]}}

RUN = {{
    "model_name_or_path": {model!r}, "dataset_name": {data!r}, "dataset_mapping": to_text, "output_dir": {output!r},
    "use_peft": True, "lora_target_modules": "all-linear", "max_length": 64, "max_steps": {steps}, "bf16": False,
    "per_device_train_batch_size": 2, "logging_steps": 1, "report_to": "none", "save_strategy": "no",
    "eval_strategy": "steps", "validation_fraction": 0.05, "eval_metrics": ["perplexity", "loss"],
    "launch": {{"processes_per_node": 1}},
}}
"""


def write_task(place: Path, model: Path, data: Path, name: str, *, body: str = "", steps: int = 2) -> Path:
    path = place / "tasks" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    output = str(place / "runs" / name)
    path.write_text(
        TASK.format(body=body or "pass", model=str(model), data=str(data), output=output, steps=steps)
    )
    return path


def sft(*words: str, place: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SFT, *words], cwd=place, capture_output=True, text=True, timeout=240, check=False)


def test_one_that_fails_does_not_lose_the_others(tmp_path: Path, tiny_model: Path, tiny_chats: Path) -> None:
    write_task(tmp_path, tiny_model, tiny_chats, "good")
    write_task(tmp_path, tiny_model, tiny_chats, "bad", body="assert 'number 150 ' not in str(row)")
    done = sft("launch", "tasks/bad.py", "tasks/good.py", "--seed", "3", place=tmp_path)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "tasks/bad.py ended with exit code 2" in done.stderr
    assert f"{tmp_path}/tasks/bad.py:2" in done.stderr
    head, bad, good = done.stdout.splitlines()
    assert head.split() == ["task", "metric", "base", "tuned", "time", "adapter", "state"]
    assert bad.split() == ["tasks/bad.py", "-", "-", "-", "-", "-", "failed", "(2)"]
    assert re.fullmatch(r"tasks/good\.py +loss +\d+\.\d+ +\d+\.\d+ +00:00:\d\d +runs/good +finished", good), (
        done.stdout + done.stderr[-3000:]
    )
    run = RunDirectory(tmp_path / "runs" / "good")
    # What the rank read is YAML with the seed, and the function by its place.
    resolved = load_run(run.run_yaml, environment={}).config
    assert (resolved.training.seed, resolved.kit.dataset_mapping) == (3, f"{tmp_path}/tasks/good.py:to_text")
    assert (
        sft("table", "tasks/bad.py", "runs/good", place=tmp_path).stdout.splitlines()[2].split()[1] == "loss"
    )
    told = sft("table", "tasks/good.py", "--json", place=tmp_path).stdout
    assert json.loads(told)["state"] == "finished"
    assert "finished at step 2" in sft("status", "tasks/good.py", place=tmp_path).stdout


def test_if_one_is_refused_none_starts(tmp_path: Path, tiny_model: Path, tiny_chats: Path) -> None:
    write_task(tmp_path, tiny_model, tiny_chats, "good")
    path = write_task(tmp_path, tiny_model, tiny_chats, "bad")
    path.write_text(path.read_text().replace('"max_length"', '"max_lenght"'))
    done = sft("launch", "tasks/good.py", "tasks/bad.py", place=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.endswith(
        "tasks/bad.py: unknown key max_lenght\n  where: tasks/bad.py:7\n  fix:   did you mean max_length?\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_wish_to_stop_ends_the_row(tmp_path: Path, tiny_model: Path, tiny_chats: Path) -> None:
    for name in ("first", "second"):
        write_task(tmp_path, tiny_model, tiny_chats, name, steps=5000)
    command = [*SFT, "launch", "tasks/first.py", "tasks/second.py"]
    with (tmp_path / "said").open("w") as said:
        started = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            until = time.monotonic() + 120
            events = RunDirectory(tmp_path / "runs" / "first").events_jsonl
            while not (events.exists() and '"event": "log"' in events.read_text()):
                assert started.poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < until
                time.sleep(0.2)
            started.send_signal(signal.SIGTERM)
            out, _ = started.communicate(timeout=60)
        finally:
            started.kill()
    assert started.returncode == 75, (tmp_path / "said").read_text()
    lines = out.splitlines()
    assert lines[1].endswith("stopped (75)")
    assert lines[2].endswith("not started")
    assert not (tmp_path / "runs" / "second").exists()
    assert "not started: tasks/second.py; the same command" in (tmp_path / "said").read_text()
