"""What is asked of Cloudera's platform before any worker is: the API, what a session says of itself, GPU types, quota."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sft.cli.main import main
from sft.config.kit import LaunchConfig
from sft.errors import ExitCode, UserError
from sft.launch.cml_api import Shape, WorkersApi, find_api, own_address, worker_shape
from sft.launch.cml_room import look
from sft.launch.cml_worker import code_of, passed
from sft.rundir import RunDirectory
from tests.launch.cml.session_of import CLIENT, Session, forget_modules, session
from tests.launch.test_platform import run, run_file

__all__ = ["run", "run_file", "session"]

LABELS = [
    {"id": "3", "label_value": "NVIDIA-L4", "availability": True, "max_gpu_per_workload": "2", "max_gpu_count": "4"},
    {"id": "7", "label_value": "NVIDIA-A100", "availability": False, "max_gpu_per_workload": "8"},
]  # fmt: skip
QUOTA = [
    {"user": {"user_name": "you"}, "quota_configured": {"cpu": "0"}, "quota_usage": {}},
    {
        "user": {"id": 1, "name": "Me", "user_name": "me"},
        "quota_configured": {"cpu": "16", "memory": "64", "nvidia_gpu": "4"},
        "quota_usage": {"cpu": "4", "memory": "16", "nvidia_gpu": "1"},
    },
]
SHAPE = Shape(4.0, 16.0, 1)


@pytest.fixture
def answers(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, Any]], None]:
    """Have cmlapi answer so."""
    monkeypatch.syspath_prepend(CLIENT)
    path = tmp_path / "answers.json"
    monkeypatch.setenv("CML_ANSWERS", str(path))
    forget_modules()
    return lambda told: (path.write_text(json.dumps(told)), None)[1]


def refused(shape: Shape, workers: int, accelerator: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        look(shape, workers, accelerator, "run.yaml:9")
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    return str(caught.value)


def test_what_fits_is_let_through(answers: Callable[[dict[str, Any]], None]) -> None:
    answers({"labels": LABELS, "quota": QUOTA})
    found = look(SHAPE, 3, "nvidia-l4", "run.yaml:9")
    assert (found.accelerator_id, found.notes) == (3, ())
    assert look(SHAPE, 3, None, "run.yaml:9").accelerator_id is None
    assert look(Shape(4.0, 16.0, 0), 3, None, "run.yaml:9").notes == ()


@pytest.mark.parametrize(
    ("shape", "workers", "accelerator", "told"),
    [
        (SHAPE, 1, "H100", "the workspace has no GPUs of the type H100\n  where: run.yaml:9\n  fix:   one of: NVIDIA-L4, NVIDIA-A100"),
        (SHAPE, 1, "NVIDIA-A100", "no node of the type NVIDIA-A100 is there now"),
        (Shape(1.0, 1.0, 3), 1, "NVIDIA-L4", "a worker may have 2 GPUs of the type NVIDIA-L4, and the run asks for 3"),
        (Shape(1.0, 1.0, 2), 3, "NVIDIA-L4", "the workspace has at most 4 GPUs of the type NVIDIA-L4, and the workers need 6"),
        (SHAPE, 4, None, "the 4 workers need 16 vCPUs, and your quota leaves 12 of 16\n  where: quota of me"),
        (SHAPE, 4, None, "the 4 workers need 64 GiB of memory, and your quota leaves 48 of 64"),
        (SHAPE, 4, None, "the 4 workers need 4 GPUs, and your quota leaves 3 of 4"),
    ],
)  # fmt: skip
def test_what_the_workspace_cannot_give_is_refused(
    answers: Callable[[dict[str, Any]], None], shape: Shape, workers: int, accelerator: str | None, told: str
) -> None:
    answers({"labels": LABELS, "quota": QUOTA})
    assert told in refused(shape, workers, accelerator)


def test_a_refusal_starts_nothing(
    answers: Callable[[dict[str, Any]], None],
    session: Session,
    run_file: Callable[..., Path],
    run: RunDirectory,
    capfd: pytest.CaptureFixture[str],
) -> None:
    answers({"quota": [{**QUOTA[1], "quota_configured": {"cpu": "5"}}]})
    path = str(run_file(launch={"nodes": 2, "processes_per_node": 1, "strategy": "ddp"}))
    assert main(["launch", path, "--on", "cml"]) == 4
    assert "the 1 worker need 2 vCPUs, and your quota leaves 1 of 5" in capfd.readouterr().err
    assert session.workers() == []


def test_what_is_not_answered_is_left_to_the_platform(answers: Callable[[dict[str, Any]], None]) -> None:
    answers({})
    found = look(SHAPE, 3, None, "run.yaml:9")
    assert found.notes == (
        "GPU types cannot be asked for here (403: administrators only): the platform decides",
        "the quota cannot be asked for here (403: administrators only): the platform decides",
    )
    assert look(SHAPE, 3, "12", "run.yaml:9").accelerator_id == 12
    told = "the number of the GPU type NVIDIA-L4 cannot be looked up: GPU types cannot be asked for here"
    assert told in refused(SHAPE, 3, "NVIDIA-L4")


def test_a_session_without_the_client(session: Session) -> None:
    assert look(SHAPE, 3, None, "").notes == (
        "there is no cmlapi here: quota and GPU types are left to the platform",
    )


def test_the_workers_get_what_the_session_has_unless_it_is_said() -> None:
    session = {"CDSW_CPU_MILLICORES": "2500", "CDSW_MEMORY_MB": "8192"}
    assert worker_shape(LaunchConfig(), 2, session) == Shape(2.5, 8.0, 2)
    said = LaunchConfig.model_validate({"cml": {"cpus": 8, "memory_gib": 64.5}})
    assert worker_shape(said, 0, {}) == Shape(8.0, 64.5, 0)
    with pytest.raises(UserError, match="nobody says how large a worker is to be"):
        worker_shape(LaunchConfig.model_validate({"cml": {"cpus": 8}}), 0, {})


def test_the_address_is_the_sessions_unless_it_is_said() -> None:
    session = {"CDSW_IP_ADDRESS": "10.1.2.3"}
    assert own_address(LaunchConfig(), session) == "10.1.2.3"
    assert own_address(LaunchConfig(main_process_ip="10.9.9.9"), session) == "10.9.9.9"
    with pytest.raises(UserError, match="CDSW_IP_ADDRESS is not set"):
        own_address(LaunchConfig(), {})


def test_a_module_that_lacks_another_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cdsw.py").write_text("import simplejson_of_the_platform\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget_modules()
    with pytest.raises(UserError, match="cdsw needs simplejson_of_the_platform") as caught:
        find_api()
    assert caught.value.problems[0].fix == "install it there: pip install simplejson_of_the_platform"


def test_another_module_of_that_name_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cdsw.py").write_text("def launch_workers(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget_modules()
    with pytest.raises(UserError, match="cdsw has no list_workers, stop_workers"):
        find_api()
    forget_modules()


def module(**calls: Any) -> WorkersApi:
    made = ModuleType("cdsw")
    for name, call in calls.items():
        setattr(made, name, call)
    return WorkersApi(made)


def asked_of(api: WorkersApi, **more: Any) -> Any:
    return api.launch("print()", SHAPE, name="worker", environment={}, **{"accelerator_id": None, **more})


def test_an_answer_without_an_id_is_a_refusal() -> None:
    for answer in ([], None, [{"error": "no room"}]):
        with pytest.raises(UserError, match="the platform does not start worker: it answers"):
            asked_of(module(launch_workers=lambda answer=answer, **words: answer))


def test_a_name_and_a_gpu_type_are_said_to_versions_that_take_them() -> None:
    def newer(n: int, name: str = "", accelerator_label_id: int | None = None, **words: Any) -> Any:
        return [{"id": f"{name} {accelerator_label_id}"}]

    assert asked_of(module(launch_workers=newer), accelerator_id=3) == "worker 3"

    def older(n: int, cpu: float, memory: float, nvidia_gpu: int, code: str, env: dict[str, str]) -> Any:
        return [{"id": 5}]

    assert asked_of(module(launch_workers=older)) == 5
    with pytest.raises(UserError, match="cannot choose a GPU type"):
        asked_of(module(launch_workers=older), accelerator_id=3)


def test_every_spelling_of_a_status_is_read() -> None:
    told = [{"id": 5, "status": "ENGINE_RUNNING"}, {"id": "a", "status": "succeeded"}, {"id": "b"}]
    assert module(list_workers=lambda: told).statuses() == {"5": "running", "a": "succeeded", "b": "unknown"}


def test_no_worker_of_anyone_else_is_ever_stopped() -> None:
    stopped: list[Any] = []
    api = module(stop_workers=lambda *ids: stopped.append(ids))
    api.stop([])
    api.stop(["a", 5])
    assert stopped == [("a", 5)]


def test_a_worker_gets_no_secrets() -> None:
    told = {"HF_TOKEN": "hf_x", "WANDB_API_KEY": "x", "CDSW_API_KEY": "x", "HF_HOME": "/shared", "LANG": "C"}
    assert passed(told) == {"HF_HOME": "/shared"}


@pytest.mark.parametrize("ended", [0, 7])
def test_the_code_of_a_worker_ends_as_its_script_does(tmp_path: Path, ended: int) -> None:
    import subprocess

    run = RunDirectory(tmp_path / "my 'run'")
    (run.kit / "workers").mkdir(parents=True)
    script = run.kit / "job.sh"
    script.write_text(f'echo "$@" >"$(dirname "$0")/said"; exit {ended}\n')
    code = code_of(run, script, 3, "10.0.0.1", 29500)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == ended
    assert (run.kit / "said").read_text() == "machine 3 10.0.0.1 29500\n"
    assert (run.kit / "workers" / "3.code").read_text() == str(ended)


def test_a_gpu_type_without_gpus_is_refused(
    run_file: Callable[..., Path], run: RunDirectory, capfd: pytest.CaptureFixture[str]
) -> None:
    path = str(run_file(launch={"processes_per_node": 1, "cml": {"accelerator": "NVIDIA-L4"}}))
    assert main(["check", path, "--on", "cml"]) == 2
    assert "launch.cml.accelerator names GPUs, and the run trains on the CPU" in capfd.readouterr().err
