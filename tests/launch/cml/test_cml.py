"""`sft launch --on cml` from end to end: workers are asked of a module with the platform's interface, and are real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sft.cli.main import main
from sft.config.loader import load_run
from sft.launch.cml_worker import read_workers
from sft.launch.platform import job_states
from sft.rundir import RunDirectory
from tests.launch.cml.session_of import Session, left_of, session
from tests.launch.test_platform import ENDLESS, run, run_file, steps, until

__all__ = ["run", "run_file", "session"]

SFT = str(Path(sys.executable).with_name("sft"))
HOST = socket.gethostname()
PAGE = Path(__file__).parents[3] / "docs" / "cml.md"
TWO = {"nodes": 2, "processes_per_node": 1, "strategy": "ddp"}


@pytest.fixture
def launched(run: RunDirectory) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `sft launch --on cml` beside the test, as a person would have it in a terminal."""
    started: list[subprocess.Popen[str]] = []

    def start(path: Path, *words: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [SFT, "launch", str(path), "--on", "cml", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def commands(block: int) -> list[str]:
    """Return the commands of one block of docs/cml.md, as they stand there."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    return [line.partition("  #")[0].strip() for line in blocks[block].splitlines()]


def page_command(line: str, run_file: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the page beside its run file."""
    environment = {**os.environ, "PATH": f"{Path(SFT).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=run_file.parent, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def outcome(run: RunDirectory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run.outcome_json.read_text())
    return found


def test_two_machines_train_to_the_end(
    session: Session, run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    path = run_file(launch=TWO)
    checked, launch = (page_command(line, path) for line in commands(0))
    assert (checked.returncode, launch.returncode) == (0, 0), checked.stderr + launch.stderr
    said, job = launch.stderr, launch.stdout.strip()
    (worker,) = session.workers()
    assert (worker["status"], worker["cpu"], worker["memory"], worker["nvidia_gpu"]) == ("succeeded", 2, 4, 0)
    assert f"worker 1 ({worker['id']}) is asked for, with 2 vCPUs, 4 GiB" in said
    assert f"worker 1 ({worker['id']}) ended with 0" in said
    assert "HF_TOKEN" not in worker["env"]
    assert worker["env"]["SFT_CACHE"] == os.environ["SFT_CACHE"]
    assert session.console(worker["id"]) == ""
    assert "machine 1 has come to machine 0 at 127.0.0.1:" in (run.logs / "node-1.log").read_text()
    assert steps(run) == 2
    assert outcome(run)["status"] == "finished"
    accelerate = run.accelerate_yaml.read_text()
    assert "num_machines: 2\n" in accelerate
    assert 'main_process_ip: "127.0.0.1"' in accelerate
    assert main(["status", str(path)]) == 0
    assert f"job        {job}  ended" in capfd.readouterr().out
    assert main(["logs", str(path), "--node", "1"]) == 0
    assert "machine 1 has come" in capfd.readouterr().out
    until(lambda: left_of(run.kit) == [], 10)


def test_a_run_is_looked_at_and_stopped_by_ctrl_c(
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    launched: Callable[..., subprocess.Popen[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = run_file(**ENDLESS, launch=TWO)
    process = launched(path)
    until(lambda: steps(run) > 1)
    assert main(["status", str(path), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)["job"]
    assert (told["state"], told["nodes"]) == ("RUNNING", f"{HOST} and 1 worker")
    (worker,) = session.workers()
    below = [" ".join(one.cmdline()) for one in psutil.Process(worker["pid"]).children(recursive=True)]
    (accelerate,) = [words for words in below if "accelerate" in words and "--config_file" in words]
    assert f"--config_file {run.accelerate_yaml} --machine_rank 1 -m sft.training.train" in accelerate
    assert main(["launch", str(path), "--on", "cml"]) == 2
    assert f"the run has job {told['id']} already" in capfd.readouterr().err
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "saves a checkpoint and ends; Ctrl-C again ends it at once" in said
    assert list(run.output_dir.glob("checkpoint-*"))
    assert [worker["status"] for worker in session.workers()] != ["running"]
    assert job_states(run)[1][0].exit_code == 75
    until(lambda: left_of(run.kit) == [], 10)


def test_a_worker_that_dies_ends_the_run(
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    launched: Callable[..., subprocess.Popen[str]],
) -> None:
    process = launched(run_file(**ENDLESS, launch=TWO))
    until(lambda: steps(run) > 1)
    (worker,) = session.workers()
    os.killpg(worker["pid"], signal.SIGKILL)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 6, said
    assert f"machine 1 ({HOST})" in said
    assert f"worker 1 ({worker['id']}) is failed" in said
    assert outcome(run)["exit_code"] == 6
    until(lambda: left_of(run.kit) == [], 20)


def test_a_worker_that_never_starts_is_given_up(
    session: Session, run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    session.behave("never")
    path = str(run_file(launch={**TWO, "cml": {"schedule_seconds": 4}}))
    assert main(["launch", path, "--on", "cml"]) == 4
    (worker,) = session.workers()
    said = capfd.readouterr().err
    what = f"worker 1 ({worker['id']}) was not started within 4 s: the platform calls it scheduling"
    assert f"{what}\n  where: the Workers API\n  fix:   the cluster has no room, or your quota none" in said
    assert worker["status"] == "stopped"
    assert (outcome(run)["status"], outcome(run)["what"]) == ("failed", what)
    assert main(["status", path]) == 0
    assert f"failed at step 0 (exit code 4): {what}" in capfd.readouterr().out
    assert left_of(run.kit) == []


def test_a_worker_to_which_the_port_is_closed_is_named_with_it(
    session: Session, run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    session.behave("cut off")
    path = str(run_file(launch={**TWO, "limits": {"meet": 3}}))
    assert main(["launch", path, "--on", "cml"]) == 6
    said = capfd.readouterr().err
    (worker,) = session.workers()
    place = said.partition("cannot reach machine 0 at ")[2].partition(" ")[0]
    assert place.startswith("127.0.0.1:")
    assert (
        f"machine 1 ({HOST}) cannot reach machine 0 at {place} after 3 s: no answer: Network is unreachable"
        in said
    )
    assert f"worker 1 ({worker['id']}) ended with 6 before it came to machine 0" in said
    assert left_of(run.kit) == []


def test_workers_that_are_left_are_stopped_where_one_fails(
    session: Session, run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    session.behave("never", "fails")
    path = str(run_file(launch={**TWO, "nodes": 3}))
    assert main(["launch", path, "--on", "cml"]) == 6
    said = capfd.readouterr().err
    waiting, failed = session.workers()
    assert f"worker 2 ({failed['id']}) is failed before it came to machine 0" in said
    assert "it has written nothing: does it see the run directory?" in said
    assert waiting["status"] == "stopped"


def test_what_the_platform_refuses_is_told_and_the_others_are_stopped(
    session: Session, run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    session.behave("never", "refused")
    path = str(run_file(launch={**TWO, "nodes": 3}))
    assert main(["launch", path, "--on", "cml"]) == 4
    name = f"{run.output_dir.name}, machine 2"
    assert (
        f"the platform does not start {name}: RuntimeError: 403: you have reached your quota"
        in capfd.readouterr().err
    )
    assert [worker["status"] for worker in session.workers()] == ["stopped"]


def test_what_machine_0_refuses_asks_for_no_worker(
    session: Session, run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["launch", str(run_file(launch=TWO)), "--on", "cml", "--main_process_port", str(port)]
        assert main(words) == 4
    assert f"port {port} of this machine is in use" in capfd.readouterr().err
    assert session.workers() == []
    assert outcome(run)["exit_code"] == 4


def test_one_machine_needs_no_worker_and_no_distribution(
    run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    """Outside of the platform: nothing of it is looked for."""
    path = str(run_file(launch={"processes_per_node": 1}))
    assert main(["launch", path, "--on", "cml"]) == 0
    assert "distributed_type: 'NO'" in run.accelerate_yaml.read_text()
    assert read_workers(run) == []
    assert steps(run) == 2


def test_elsewhere_it_is_said_and_nothing_starts(
    run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["launch", str(run_file(launch=TWO)), "--on", "cml"]) == 4
    assert main(["launch", str(run_file(launch=TWO)), "--on", "cml", "--dry-run"]) == 0
    said = capfd.readouterr()
    assert "there is no Workers API here: neither cml.workers_v1 nor cdsw can be imported" in said.err
    assert said.out == (run.kit / "job.sh").read_text()
    assert job_states(run)[1] == []


@pytest.mark.parametrize(
    "block", re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
def test_the_pages_settings_are_keys(block: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"model_name_or_path: m\ndataset_name: d\n{block}")
    assert load_run(path, environment={}).config.launch.cml.accelerator == "NVIDIA-A100"


@pytest.mark.slow
def test_the_pages_commands_beside_a_run(
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    launched: Callable[..., subprocess.Popen[str]],
) -> None:
    path = run_file(**ENDLESS, launch=TWO)
    process = launched(path)
    until(lambda: steps(run) > 1)
    done = [page_command(line, path) for line in commands(1)]
    assert [one.returncode for one in done] == [0, 0, 0]
    assert f"running  on {HOST} and 1 worker" in done[0].stdout
    assert "machine 1 has come" in done[1].stdout
    assert "saves a checkpoint and ends" in done[2].stderr
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert list(run.output_dir.glob("checkpoint-*"))


@pytest.mark.slow
def test_the_older_module_does_as_well(
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cml import workers_v1  # type: ignore[import-not-found]

    older = tmp_path / "older"
    older.mkdir()
    shutil.copy(workers_v1.__file__, older / "cdsw.py")
    monkeypatch.setattr(sys, "path", [str(older), *(place for place in sys.path if "session" not in place)])
    monkeypatch.setitem(sys.modules, "cml", None)  # as if it were not there
    monkeypatch.setenv("PYTHONPATH", str(older))
    assert main(["launch", str(run_file(launch=TWO)), "--on", "cml"]) == 0
    assert steps(run) == 2


@pytest.mark.slow
def test_a_run_that_is_cancelled_at_once_leaves_nothing(
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    launched: Callable[..., subprocess.Popen[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = run_file(**ENDLESS, launch=TWO)
    process = launched(path)
    until(lambda: steps(run) > 1)
    assert main(["cancel", str(path), "--now"]) == 0
    assert "is ended, and 1 worker with it" in capfd.readouterr().err
    process.communicate(timeout=30)
    assert process.returncode != 0
    until(lambda: left_of(run.kit) == [], 20)
    assert [worker["status"] for worker in session.workers()] == ["stopped"]


@pytest.mark.slow
def test_ctrl_c_twice_ends_it_at_once(
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    launched: Callable[..., subprocess.Popen[str]],
) -> None:
    process = launched(run_file(**ENDLESS, launch=TWO, env={"SLOW": "1"}))
    until(lambda: steps(run) > 1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 75
    until(lambda: left_of(run.kit) == [], 20)
    assert "running" not in [worker["status"] for worker in session.workers()]


@pytest.mark.slow
def test_workers_end_when_what_holds_them_is_killed_and_the_next_launch_goes_on(
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    launched: Callable[..., subprocess.Popen[str]],
) -> None:
    path = run_file(**ENDLESS, launch=TWO)
    process = launched(path)
    until(lambda: steps(run) > 1)
    pid = int(job_states(run)[1][0].job.partition("@")[0])
    os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == 6
    until(lambda: left_of(run.kit) == [], 40)
    until(lambda: [worker["status"] for worker in session.workers()] == ["failed"], 10)
    again = launched(path, "--max_steps", "2")
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert outcome(run)["status"] == "finished"


@pytest.mark.slow
def test_a_stop_before_the_workers_have_come(
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    launched: Callable[..., subprocess.Popen[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    session.behave("never")
    path = run_file(launch=TWO)
    process = launched(path)
    until(lambda: [worker.status for worker in read_workers(run)] == ["scheduling"], 30)
    assert main(["status", str(path)]) == 0
    assert "scheduling  (workers: scheduling)" in capfd.readouterr().out
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 75
    assert [worker["status"] for worker in session.workers()] == ["stopped"]
