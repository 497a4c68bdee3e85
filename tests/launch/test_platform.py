"""What `--on` takes: the interface that every platform has, a process in the background, and one more in a single file."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sft.cli.main import main
from sft.config.ssh import SshConfig
from sft.events import read_events
from sft.launch import on
from sft.launch.on import background, cml, ssh
from sft.launch.platform import Platform, job_states, platform
from sft.rundir import RunDirectory
from tests.launch import test_sbatch

FURTHER = Path(__file__).with_name("further")
GOLDENS = test_sbatch.GOLDEN.parent
ENDLESS = {"max_steps": 100_000, "save_strategy": "no", "logging_steps": 5}


def ssh_job(directory: str = "/work/me/runs/llama") -> Any:
    job = test_sbatch.job(directory)
    hosts = SshConfig(hosts=["me@n1", "n2"], command="ssh -p 2222 -i 'my key'")
    return dataclasses.replace(job, launch=job.launch.model_copy(update={"ssh": hosts}))


SCRIPTS = {
    "ssh.sh": (ssh, ssh_job),
    "background.sh": (background, test_sbatch.job),
    "cml.sh": (cml, test_sbatch.job),
}


@pytest.mark.parametrize("name", on.names())
def test_every_platform_has_what_the_commands_ask_for(name: str) -> None:
    wanted = [word for word in {**vars(Platform), **Platform.__annotations__} if not word.startswith("_")]
    assert sorted(wanted) == [
        "IS_ATTENDED", "IS_ELSEWHERE", "SCRIPT", "log", "problems", "script", "state", "stop", "submit",
    ]  # fmt: skip
    assert [word for word in wanted if not hasattr(platform(name), word)] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_is_this_one(name: str) -> None:
    """Accept another one with: python -m tests.launch.test_platform"""
    module, job = SCRIPTS[name]
    assert module.script(job()) == (GOLDENS / name).read_text()


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("directory", ["/work/me/runs/llama", "/work/my runs/$(touch x) 'a' #2"])
def test_shellcheck_has_nothing_to_say(name: str, directory: str, tmp_path: Path) -> None:
    module, job = SCRIPTS[name]
    path = tmp_path / name
    path.write_text(module.script(job(directory)))
    # A hostile name in single quotes looks like an expansion that does not expand (SC2016); knobs may be unused (SC2034).
    words = [test_sbatch.SHELLCHECK, "-e", "SC2016,SC2034", path]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def run_file(tmp_path: Path, tiny_model: Path, tiny_chats: Path) -> Callable[..., Path]:
    def write(**more: Any) -> Path:
        settings = {
            "model_name_or_path": str(tiny_model),
            "dataset_name": str(tiny_chats),
            "output_dir": str(tmp_path / "my run"),
            "assistant_only_loss": True,
            "max_length": 64,
            "max_steps": 2,
            "logging_steps": 1,
            "save_steps": 2,
            "bf16": False,
            **more,
            "launch": {"device": "cpu", **more.get("launch", {})},
        }
        path = tmp_path / "run.yaml"
        path.write_text(json.dumps(settings))
        return path

    return write


def until(happened: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.2)


def steps(run: RunDirectory) -> int:
    return len(
        [event for event in read_events(run.events_jsonl) if event["event"] == "log" and "loss" in event]
    )


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDirectory]:
    """The run directory; what still runs there is ended, before a platform of the test's own is taken back."""
    made = RunDirectory(tmp_path / "my run")
    yield made
    asked, states = job_states(made)
    for state in states:
        if not state.is_over:
            asked.stop(made, state, now=True)


def test_a_run_in_the_background(
    run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(run_file(**ENDLESS))
    assert main(["launch", path, "--on", "background"]) == 0
    job = capfd.readouterr().out.strip()
    until(lambda: steps(run) > 1)
    assert main(["status", path, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["job"]
    assert (told["id"], told["state"]) == (job, "RUNNING")
    assert main(["launch", path, "--on", "background"]) == 2
    assert f"the run has job {job} already, which is running" in capfd.readouterr().err
    assert main(["cancel", path]) == 0
    assert f"process {job.partition('@')[0]} saves a checkpoint and ends" in capfd.readouterr().err
    until(lambda: job_states(run)[1][0].is_over)
    assert job_states(run)[1][0].exit_code == 75
    assert list(run.output_dir.glob("checkpoint-*"))
    assert main(["logs", path]) == 0
    said = capfd.readouterr()
    assert said.err.strip() == f"==> {run.logs / f'job-{job}.log'}"
    assert "stopped" in said.out


def test_a_run_in_the_background_is_ended_at_once(
    run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(run_file(**ENDLESS))
    assert main(["launch", path, "--on", "background"]) == 0
    until(lambda: steps(run) > 1)
    assert main(["cancel", path, "--now"]) == 0
    until(lambda: job_states(run)[1][0].is_over, 10)
    assert not list(run.output_dir.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "background", "--nodes", "2"], "is on this one alone"),
        (["--on", "ssh"], "--on ssh needs the names of the machines"),
        (["--on", "ssh", "--launch.ssh.hosts", '["a", "b"]'], "names 2 machines, and the run is for 1"),
        (["--on", "ssh", "--launch.ssh.hosts", '["-oProxyCommand=x"]'], "launch.ssh.hosts"),
        (["--on", "background", "--chain", "2"], "--chain is for batch jobs"),
    ],
)
def test_what_a_platform_cannot_do_is_refused_and_nothing_is_written(
    words: list[str],
    message: str,
    run_file: Callable[..., Path],
    run: RunDirectory,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = str(run_file(launch={"processes_per_node": 1}))
    place = ["--main_process_ip", "10.0.0.1", "--main_process_port", "29500"] if "--nodes" in words else []
    assert main(["launch", path, *words, *place]) == 2
    assert message in capfd.readouterr().err
    assert not run.kit.exists()


def test_a_further_platform_is_one_file(
    run_file: Callable[..., Path],
    run: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Two workers through a Python API: submitted, told of, read and done, by the commands as they are."""
    monkeypatch.setattr(on, "__path__", [*on.__path__, str(FURTHER)])
    path = str(run_file(launch={"nodes": 2, "processes_per_node": 1, "strategy": "ddp"}))
    assert main(["launch", path, "--on", "pool"]) == 0
    job = capfd.readouterr().out.strip()
    assert main(["status", path]) == 0
    assert f"job        {job}  working" in capfd.readouterr().out
    assert main(["watch", path]) == 0
    assert main(["logs", path]) == 0
    said = capfd.readouterr()
    assert "machine 1 has come to machine 0 at 127.0.0.1:" in said.out
    assert job_states(run)[1][0].exit_code == 0
    assert steps(run) == 2


if __name__ == "__main__":
    for name, (module, job) in SCRIPTS.items():
        (GOLDENS / name).write_text(module.script(job()))
