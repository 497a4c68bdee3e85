"""`sft launch` end to end on this machine: the real accelerate, torchrun, trainer, signals and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sft.rundir import RunDirectory
from tests.loopback.hub import Hub, hub
from tests.training.launching import SFT, Launched, launch, succeeded

__all__ = ["hub"]

ENDLESS = {"max_steps": 100_000, "save_strategy": "no", "logging_steps": 5}


@pytest.fixture
def settings(tiny_model: Path, tiny_chats: Path) -> dict[str, Any]:
    return {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny_chats),
        "assistant_only_loss": True,
        "use_peft": True,
        "max_steps": 4,
        "logging_steps": 1,
        "save_steps": 2,
        "max_length": 64,
        "per_device_train_batch_size": 2,
        "launch": {"processes_per_node": 2, "strategy": "ddp"},
    }


class Live:
    """A launch that is still running, in a session of its own as under a terminal."""

    def __init__(self, output_dir: Path, settings: dict[str, Any]) -> None:
        self.run = RunDirectory(output_dir)
        self.file = output_dir.parent / "live.yaml"
        self.file.write_text(json.dumps({**settings, "output_dir": str(output_dir)}))
        self.stderr = (output_dir.parent / "stderr").open("w+")
        self.process = subprocess.Popen(
            [*SFT, "launch", str(self.file)],
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            start_new_session=True,
        )

    def until(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended early\n{self.said()}"
            assert time.monotonic() < deadline, f"waited {seconds} s in vain\n{self.said()}"
            time.sleep(0.1)

    def until_step(self, step: int) -> None:
        def reached() -> bool:
            path = self.run.events_jsonl
            return path.exists() and f'"step": {step},' in path.read_text()

        self.until(reached)

    def said(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read()

    def rank_pids(self) -> list[int]:
        return [json.loads(path.read_text())["pid"] for path in sorted(self.run.ranks.glob("rank-*.json"))]

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def live(tmp_path: Path, settings: dict[str, Any]) -> Iterator[Live]:
    running = Live(tmp_path / "run", settings | ENDLESS)
    yield running
    running.process.kill()
    running.process.wait()


def all_gone(processes: list[psutil.Process], seconds: float = 5) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def test_dry_run_writes_the_configuration_and_prints_a_command_that_runs(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    dry = launch(tmp_path / "run", settings, "--dry-run")
    assert dry.code == 0
    assert sorted(path.name for path in dry.run.kit.iterdir()) == [
        "accelerate.yaml", "environment.json", "launch.sh", "plan.json", "run.yaml", "sources.json",
    ]  # fmt: skip
    assert dry.stdout.count("\n") == 1
    pasted = subprocess.run(
        dry.stdout, shell=True, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )
    assert pasted.returncode == 0, pasted.stderr
    assert "step 4/4" in pasted.stderr, "by hand, rank 0 itself shows the progress"
    assert json.loads(dry.run.outcome_json.read_text()) == {"status": "finished", "exit_code": 0, "step": 4}
    assert (dry.run.output_dir / "adapter_model.safetensors").exists()


def test_a_problem_that_only_the_ranks_can_see_ends_with_its_code_and_no_traceback(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    own = tmp_path / "own.py"
    own.write_text("class Told:\n    pass\n")
    failed = launch(tmp_path / "run", settings | {"callbacks": [f"{own}:Told"]})
    assert failed.code == 2
    assert "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[-4:-1] == [
        f"{own}:Told is no transformers.TrainerCallback",
        f"  where: callbacks ({tmp_path}/run.yaml:2)",
        "  fix:   derive it from TrainerCallback",
    ]
    assert json.loads(failed.run.outcome_json.read_text())["exit_code"] == 2


def test_what_can_be_known_here_is_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    refused = launch(tmp_path / "run", settings | {"dataset_name": "/no/such/file.jsonl"})
    assert (refused.code, refused.stderr) == (
        2,
        f"the data set /no/such/file.jsonl is not there\n  where: {tmp_path}/run.yaml:2\n  fix:   check the path\n",
    )
    assert not refused.run.output_dir.exists()


def test_ctrl_c_stops_in_order_a_second_launch_is_refused_and_the_stopped_run_resumes(live: Live) -> None:
    live.until_step(5)
    second = subprocess.run(
        [*SFT, "launch", str(live.file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 2
    assert f"process {live.process.pid}" in second.stderr or str(live.process.pid) in second.stderr
    family = live.family()
    live.process.send_signal(signal.SIGINT)
    assert live.process.wait(timeout=60) == 75, live.said()
    assert all_gone(family)
    outcome = json.loads(live.run.outcome_json.read_text())
    step = outcome["step"]
    assert outcome == {"status": "stopped", "exit_code": 75, "step": step, "reason": "SIGINT"}
    assert (live.run.output_dir / f"checkpoint-{step}" / "trainer_state.json").exists()
    assert "stopping in order" in live.said()

    # The trainer goes on logging at the interval that the checkpoint was made with.
    words = ["--allow-changed", "--max_steps", str(step + 10)]
    resumed = subprocess.run(
        [*SFT, "launch", str(live.file), *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from step {step}" in resumed.stderr
    first = next(line for line in resumed.stderr.splitlines() if line.startswith("step "))
    assert int(first.split()[1].split("/")[0]) in range(step + 1, step + 6)
    assert f"finished at step {step + 10}" in resumed.stderr


def test_a_killed_supervisor_leaves_no_process(live: Live) -> None:
    live.until_step(5)
    family = live.family()
    assert len(family) >= 3
    live.process.kill()
    assert all_gone(family)


def test_a_killed_rank_ends_the_run_as_lost(live: Live) -> None:
    live.until_step(5)
    family, victim = live.family(), live.rank_pids()[1]
    os.kill(victim, signal.SIGKILL)
    assert live.process.wait(timeout=60) == 6, live.said()
    assert all_gone(family)
    assert "rank 1" in live.said()


def test_no_network_a_shadowing_file_and_an_unreachable_hub_do_not_stop_a_zero3_run(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sft.py").write_text("raise SystemExit('the wrong sft')\n")
    monkeypatch.chdir(tmp_path)
    with_everything = settings | {
        "report_to": ["wandb", "tensorboard"],
        "push_to_hub": True,
        "hub_model_id": "me/tiny",
        "env": {"MY_VARIABLE": "seen"},
        "launch": {"processes_per_node": 2, "strategy": "zero3", "push_seconds": 10},
    }
    # Nothing listens on port 9 of the loopback: connections are refused at once.
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0", "WANDB_MODE": "online",
        "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "PYTHONSAFEPATH": "1",
    }  # fmt: skip
    run = succeeded(launch(tmp_path / "run", with_everything, environment=environment))
    assert f"sft sync {run.run.output_dir}" in run.stderr
    assert f"sft push {run.run.output_dir}" in run.stderr
    assert len(list(run.run.outbox.glob("*.json"))) >= 1
    everything = b"".join(path.read_bytes() for path in run.run.kit.rglob("*") if path.is_file())
    assert b"hf_x" not in everything
    assert b"0" * 40 not in everything
    assert list(run.run.output_dir.glob("runs/**/events.out.tfevents.*"))


def test_a_run_reaches_the_hub_with_its_merged_model_beside_it(
    tmp_path: Path, settings: dict[str, Any], hub: Hub
) -> None:
    pushed = settings | {
        "push_to_hub": True,
        "hub_private_repo": True,
        "merge": True,
        "launch": {"strategy": "single"},
    }
    run: Launched = succeeded(launch(tmp_path / "my-run", pushed, environment=hub.environment(tmp_path)))
    [repository] = hub.repositories
    assert hub.repositories[repository].visibility == "private"
    files = hub.files(repository)
    adapter = (run.run.output_dir / "adapter_model.safetensors").read_bytes()
    assert files["adapter_model.safetensors"] == adapter
    assert set(files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert str(tmp_path) not in files["README.md"].decode()
    assert (run.run.merged / "model.safetensors").exists()
    assert run.stdout == f"{run.run.output_dir}\n"
