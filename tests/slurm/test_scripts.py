"""The scripts of launch/ that a person edits and submits, on the real cluster."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.rundir import RunDirectory
from tests.slurm import install
from tests.slurm.cluster import Cluster
from tests.slurm.namespaces import Command, wait_until
from tests.slurm.runs import SFT, Submitted, submitted
from tests.slurm.settings import LOGIN

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"


def sbatch(run: Submitted, script: str, *options: str, words: tuple[str, ...] = ()) -> str:
    """Submit a script of launch/ from the run's own directory, on nodes that are smaller than its lines say."""
    environment = {
        **run.environment,
        "KIT": str(REPOSITORY),
        "PATH": f"{Path(SFT).parent}:{os.environ['PATH']}",
    }
    command = [
        "sbatch",
        "--parsable",
        "--cpus-per-task=2",
        *options,
        str(LAUNCH / script),
        str(run.run_file),
        *words,
    ]
    return str(run.cluster.exec(LOGIN, command, cwd=run.run_file.parent, env=environment).stdout.strip())


def test_a_script_with_lines_of_ones_own(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> None:
    run = submitted(cluster, tmp_path, tiny_model, nodes=2, max_steps=2, save_steps=2)
    refused = sbatch(run, "slurm.sh")
    assert run.ended(refused)["ExitCode"] == "2:0"
    said = (tmp_path / f"sft-{refused}.log").read_text()
    assert "the job has 1 nodes, and the run file asks for 2" in said
    job = sbatch(run, "slurm.sh", "--nodes=2", words=("--seed", "3"))
    assert run.ended(job)["ExitCode"] == "0:0", (tmp_path / f"sft-{job}.log").read_text()
    assert run.steps() == 2
    assert f"job {job} ended at step 2 with 0: the run is done" in (tmp_path / f"sft-{job}.log").read_text()


def test_a_sweep_over_learning_rates(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> None:
    run = submitted(
        cluster, tmp_path, tiny_model, nodes=1, processes=1, strategy="single", max_steps=1, save_steps=1
    )
    job = sbatch(run, "sweep.sh", "--array=0,3")
    wait_until(lambda: not cluster.exec(LOGIN, ["squeue", "-h"]).stdout.strip(), 120, "the array is done")
    for task, rate in ((0, 1e-4), (3, 1e-3)):
        directory = tmp_path / "runs" / "sweep" / f"lr-{rate:.0e}".replace("e-0", "e-")
        log = (tmp_path / f"sweep-{job}_{task}.log").read_text()
        found = Submitted(cluster, run.run_file, RunDirectory(directory))
        (start,) = [event for event in found.events if event["event"] == "start"]
        assert start["config"]["learning_rate"] == rate, log


def test_a_sweep_of_the_run_file(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> None:
    flags = ["--learning_rate 1e-4", "--learning_rate 1e-3 --run_name 'the other one'"]
    run = submitted(
        cluster, tmp_path, tiny_model, nodes=1, processes=1, strategy="single", max_steps=1, save_steps=1,
        launch={"slurm": {"array": flags}},
    )  # fmt: skip
    run.submit()
    wait_until(lambda: not cluster.exec(LOGIN, ["squeue", "-h"]).stdout.strip(), 120, "the array is done")
    found = []
    for task in (0, 1):
        one = Submitted(cluster, run.run_file, RunDirectory(run.run.output_dir / f"task-{task}"))
        (start,) = [event for event in one.events if event["event"] == "start"]
        found.append((start["config"]["learning_rate"], start["config"].get("run_name"), one.steps()))
    assert found == [(1e-4, None, 1), (1e-3, "the other one", 1)]


@pytest.fixture
def reachable(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """Start a real sshd on each node; return the words that log in to one."""
    # The set-up installs it, where it may.
    if problem := install.ssh_missing():
        pytest.skip(f"no ssh: {problem}")
    keys = tmp_path / "ssh"
    keys.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    (keys / "authorized").write_text((keys / "user.pub").read_text())
    os.chmod(keys / "authorized", 0o600)
    (keys / "config").write_text(
        f"Port 2222\nHostKey {keys}/host\nAuthorizedKeysFile {keys}/authorized\nPidFile none\nUsePAM no\n"
        "StrictModes no\nPermitRootLogin yes\nPermitUserEnvironment no\nAcceptEnv SFT_* HF_* SLOW_SECONDS\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    servers: list[Command] = [
        cluster.popen(node, [install.program("sshd"), "-D", "-e", "-f", str(keys / "config")])
        for node in cluster.nodes
    ]
    yield (
        f"ssh -p 2222 -i {keys}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile={keys}/known -o BatchMode=yes"
        " -o SendEnv=SFT_* -o SendEnv=HF_* -o SendEnv=SLOW_SECONDS -q"
    )
    for server in servers:
        server.kill()


def ssh_environment(ssh: str) -> dict[str, str]:
    return {"SSH": ssh, "SFT": SFT, "PORT": "29511"}


def ssh_words(run: Submitted, ssh: str, place: Path) -> tuple[list[str], dict[str, str]]:
    (place / "hosts").write_text("# the nodes\nnode1  # the first\nnode2\n")
    environment = {**run.environment, **ssh_environment(ssh)}
    return ["bash", str(LAUNCH / "ssh.sh"), str(run.run_file)], environment


def test_machines_are_started_over_ssh(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, reachable: str
) -> None:
    run = submitted(cluster, tmp_path, tiny_model, max_steps=4)
    words, environment = ssh_words(run, reachable, tmp_path)
    done = cluster.exec(LOGIN, words, cwd=tmp_path, env=environment, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run.steps() == 4
    assert "machine 1 has come to machine 0 at node1:29511" in (run.run.logs / "node-1.log").read_text()


def test_ctrl_c_stops_what_was_started_over_ssh_in_order(
    cluster: Cluster, tmp_path: Path, tiny_model: Path, reachable: str
) -> None:
    run = submitted(
        cluster, tmp_path, tiny_model, processes=1, max_steps=60, save_steps=100, slow_seconds=1.0
    )
    words, environment = ssh_words(run, reachable, tmp_path)
    started = cluster.popen(LOGIN, words, cwd=tmp_path, env=environment, start_new_session=True)
    run.until(lambda: run.steps() >= 3, 120, "third step")
    started.terminate()
    run.until(lambda: run.run.outcome_json.exists(), 60, "outcome")
    run.until(lambda: not any("sft" in stray for stray in run.strays()), 30, "end of every process")
    assert '"exit_code": 75' in run.run.outcome_json.read_text()
    assert list(run.run.output_dir.glob("checkpoint-*"))


@pytest.mark.parametrize("now", [False, True])
def test_a_run_over_ssh_goes_on_in_the_background_and_is_cancelled(
    now: bool, cluster: Cluster, tmp_path: Path, tiny_model: Path, reachable: str
) -> None:
    run = submitted(
        cluster, tmp_path, tiny_model, processes=1, max_steps=60, save_steps=100, slow_seconds=1.0,
        launch={"ssh": {"hosts": ["node1", "node2"], "command": reachable}},
    )  # fmt: skip
    job = run.sft("launch", str(run.run_file), "--on", "ssh").stdout.strip()
    assert job.endswith("@login")
    run.until(lambda: run.steps() >= 3, 120, "third step")
    assert f"{job}  running  on login" in run.sft("status", str(run.run_file)).stdout
    assert "step 3/60" in run.sft("logs", str(run.run_file)).stdout
    assert (
        f"the run has job {job} already"
        in run.sft("launch", str(run.run_file), "--on", "ssh", check=False).stderr
    )
    told = run.sft("cancel", str(run.run_file), *(["--now"] if now else [])).stderr
    assert ("is ended, and the others after it" if now else "saves a checkpoint and ends") in told
    run.until(lambda: not any("sft" in stray for stray in run.strays()), 60, "end of every process")
    assert bool(list(run.run.output_dir.glob("checkpoint-*"))) == (not now)
    assert "running" not in run.sft("status", str(run.run_file)).stdout
