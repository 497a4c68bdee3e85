"""The cluster of the tests: a real Slurm, whose faults are real and leave nothing behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.slurm import install
from tests.slurm.cluster import PARENT, Cluster, main, remove_left_behind
from tests.slurm.jobs import job_output, job_record, parse_record, submit, wait_for_state
from tests.slurm.namespaces import CommandFailed, wait_until
from tests.slurm.settings import LOGIN, NODE_PORT, Settings

FOR_EVER = "while :; do sleep 0.2; done"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1)"
OWNER = """\
import time
from tests.slurm.cluster import Cluster
cluster = Cluster()
cluster.up()
print(cluster.directory, flush=True)
time.sleep(600)
"""


def reaches(cluster: Cluster, host: str, other: str, port: int = NODE_PORT) -> bool:
    words = [sys.executable, "-c", CONNECT, other, str(port)]
    return cluster.exec(host, words, check=False).returncode == 0


def command_lines(cluster: Cluster, host: str) -> list[list[str]]:
    return [process.cmdline() for process in cluster.all_processes_on(host)]


def processes_of(directory: Path) -> list[psutil.Process]:
    """Those that have a cluster's directory among their words."""
    return [
        process for process in psutil.process_iter(["cmdline"])
        if any(str(directory) in word for word in process.info["cmdline"] or [])
    ]  # fmt: skip


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place for a second cluster, short enough for sockets."""
    place = PARENT / "sft-slurm-by-test"
    yield place
    if (place / "settings.json").exists():
        Cluster.running(place).down()
    shutil.rmtree(place, ignore_errors=True)


# --- what it is


def test_a_job_runs_on_two_nodes(cluster: Cluster) -> None:
    job = submit(
        cluster, "srun sh -c 'echo $SLURM_NODEID $(hostname) $CUDA_VISIBLE_DEVICES'", "-N2", "--gres=gpu:2"
    )
    assert wait_for_state(cluster, job, "COMPLETED")["NodeList"] == "node[1-2]"
    assert sorted(job_output(cluster, job).splitlines()) == ["0 node1 0,1", "1 node2 0,1"]


def test_what_slurm_says_of_a_job_is_read_with_its_spaces(cluster: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "a script.sh"
    script.write_text("#!/bin/bash\necho done\n")
    options = ["--job-name", "a b = c", "--comment", "x=1 y=2", "--output", f"{tmp_path}/the log %j"]
    job = submit(cluster, script, *options)
    record = wait_for_state(cluster, job, "COMPLETED")
    assert (record["JobId"], record["JobName"], record["Comment"]) == (job, "a b = c", "x=1 y=2")
    assert (record["Command"], record["ExitCode"], record["Restarts"]) == (str(script), "0:0", "0")
    assert record["StdOut"] == f"{tmp_path}/the log {job}"
    assert job_output(cluster, job) == "done\n"


def test_a_record_is_the_first_of_an_array() -> None:
    text = "JobId=8 ArrayJobId=7 JobName=a\n   JobState=RUNNING Reason=None\n\nJobId=7 JobName=a\n   JobState=x\n"
    assert parse_record(text) == {
        "JobId": "8",
        "ArrayJobId": "7",
        "JobName": "a",
        "JobState": "RUNNING",
        "Reason": "None",
    }


def test_waiting_for_a_state_that_will_not_come_says_how_the_job_ended(cluster: Cluster) -> None:
    job = submit(cluster, "echo no such data; exit 4")
    begun = time.monotonic()
    with pytest.raises(AssertionError) as caught:
        wait_for_state(cluster, job, ["COMPLETED"])
    assert time.monotonic() - begun < 30
    assert f"job {job} is not COMPLETED: JobState=FAILED Reason=NonZeroExitCode ExitCode=4:0" in str(
        caught.value
    )
    assert str(caught.value).endswith("\nno such data")


def test_a_command_on_a_host_gives_what_it_wrote_and_how_it_ended(cluster: Cluster, tmp_path: Path) -> None:
    words = ["sh", "-c", "cat; hostname; pwd; echo $COLOUR >&2; exit 3"]
    done = cluster.exec("node2", words, input="in\n", cwd=tmp_path, env={"COLOUR": "red"}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"in\nnode2\n{tmp_path}\n", "red\n")
    with pytest.raises(CommandFailed) as caught:
        cluster.exec("node1", ["sh", "-c", "echo why >&2; exit 3"])
    assert str(caught.value) == "node1: sh -c echo why >&2; exit 3 ended with 3\nwhy"
    with pytest.raises(ValueError, match="no host node9; there are login, node1, node2"):
        cluster.exec("node9", ["true"])


def test_a_signal_reaches_the_command_and_nothing_of_it_is_left(cluster: Cluster) -> None:
    assert cluster.all_processes_on("node1") == []
    words = ["bash", "-c", f"trap 'exit 9' TERM; echo up; {FOR_EVER}"]
    command = cluster.popen("node1", words, stdout=subprocess.PIPE)
    assert command.stdout is not None
    with command.stdout:
        assert command.stdout.readline() == "up\n"
        assert words in command_lines(cluster, "node1")
        assert words not in command_lines(cluster, "node2")
        command.terminate()
        assert command.wait(10) == 9
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.exec("node1", words, timeout=1)
    wait_until(lambda: cluster.all_processes_on("node1") == [], 5, "nothing runs on node1")


def test_hosts_reach_one_another_and_no_other_network(cluster: Cluster) -> None:
    assert reaches(cluster, LOGIN, "node1")
    assert reaches(cluster, "node1", "node2")
    assert cluster.outside_attempts(*cluster.settings.hosts) == []
    assert cluster.exec("node1", ["ip", "route", "show"]).stdout.startswith("10.77.0.0/24 dev eth0")
    assert "default" not in cluster.exec("node1", ["ip", "route", "show"]).stdout


def test_attempts_to_leave_are_counted(cluster: Cluster) -> None:
    assert not reaches(cluster, "node1", "huggingface.co", 443)
    assert cluster.outside_attempts() == ["node1 looked up huggingface.co"]
    assert not reaches(cluster, "node2", "192.0.2.1", 443)
    assert not reaches(cluster, "node2", "2001:db8::1", 443)
    assert cluster.outside_attempts("node2") == ["node2 found no route 2 times"]
    assert cluster.outside_attempts(LOGIN) == []
    cluster.forget_attempts()
    assert cluster.outside_attempts() == []


# --- what happens to it


def test_a_cut_link_parts_a_node_from_the_others_until_it_is_mended(cluster: Cluster) -> None:
    cluster.cut("node1")
    assert not reaches(cluster, "node2", "node1")
    assert not reaches(cluster, "node1", LOGIN)
    assert reaches(cluster, "node2", LOGIN, 6817)
    cluster.mend("node1")
    assert reaches(cluster, "node2", "node1")
    assert cluster.outside_attempts() == []


def test_a_job_outlives_the_slurmd_of_its_node(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(
        cluster, f"touch {tmp_path}/up; while [ ! -e {tmp_path}/go ]; do sleep 0.2; done; echo lived on"
    )
    wait_until((tmp_path / "up").exists, 10, "the job runs")
    node = job_record(cluster, job)["NodeList"]
    cluster.kill_slurmd(node)
    assert cluster.all_processes_on(node) != []
    cluster.boot(node)
    (tmp_path / "go").touch()
    wait_for_state(cluster, job, "COMPLETED")
    assert job_output(cluster, job) == "lived on\n"
    assert cluster.all_processes_on(node) == []


def test_a_crash_takes_every_process_of_the_node_at_once(cluster: Cluster) -> None:
    command = cluster.popen("node2", ["sleep", "600"])
    cluster.crash("node2")
    assert command.wait(5) != 0
    assert cluster.all_processes_on("node2") == []
    with pytest.raises(CommandFailed, match=r"^node2 is off$"):
        cluster.exec("node2", ["true"])
    assert not reaches(cluster, LOGIN, "node2")
    cluster.boot("node2")
    assert reaches(cluster, LOGIN, "node2")


@pytest.mark.slow
def test_a_job_is_requeued_when_its_node_is_lost_and_runs_again_when_it_is_back(cluster: Cluster) -> None:
    job = submit(cluster, f"echo start $SLURM_RESTART_COUNT; {FOR_EVER}", "-N2", "--open-mode=append")
    wait_for_state(cluster, job, "RUNNING")
    cluster.crash("node2")
    wait_until(lambda: cluster.state("node2") == "down*", 30, "Slurm notices")
    assert wait_for_state(cluster, job, "PENDING")["Restarts"] == "1"
    cluster.boot("node2")
    wait_for_state(cluster, job, "RUNNING", 40)
    wait_until(lambda: "start 1" in job_output(cluster, job), 10, "the job runs again")
    assert job_output(cluster, job).splitlines()[0] == "start"


@pytest.mark.slow
def test_a_node_whose_link_was_cut_for_long_is_lost_and_comes_back(cluster: Cluster) -> None:
    cluster.cut("node1")
    wait_until(lambda: cluster.state("node1") == "down*", 40, "Slurm notices")
    cluster.mend("node1")
    assert cluster.state("node1") == "idle"


@pytest.mark.slow
def test_a_job_can_requeue_itself(cluster: Cluster) -> None:
    script = '[ -n "$SLURM_RESTART_COUNT" ] && exit 0\nscontrol requeue $SLURM_JOB_ID; sleep 60'
    job = submit(cluster, script, "--requeue")
    record = wait_for_state(cluster, job, "COMPLETED", 40)
    assert (record["Restarts"], record["ExitCode"]) == ("1", "0:0")


@pytest.mark.slow
def test_an_urgent_job_takes_the_nodes_of_a_spot_job(cluster: Cluster) -> None:
    spot = submit(cluster, FOR_EVER, "-N2", "--exclusive", "--partition=spot", "--requeue")
    wait_for_state(cluster, spot, "RUNNING")
    cluster.exec(LOGIN, ["scontrol", "update", "PartitionName=spot", "GraceTime=0"])
    urgent = submit(cluster, "true", "-N2", "--exclusive", "--partition=urgent")
    wait_for_state(cluster, urgent, "COMPLETED", 30)
    assert job_record(cluster, spot)["Restarts"] == "1"


@pytest.mark.slow
def test_whatever_a_test_did_is_undone(cluster: Cluster) -> None:
    stubborn = submit(cluster, f"trap '' TERM CONT; {FOR_EVER}", "-N2", "--exclusive")
    waiting = submit(cluster, "true", "--dependency=singleton", "--begin=now+1hour")
    wait_for_state(cluster, stubborn, "RUNNING")
    cluster.cut("node1")
    cluster.crash("node2")
    cluster.exec(LOGIN, ["scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=test"])
    cluster.settle()
    assert [cluster.state(node) for node in cluster.nodes] == ["idle", "idle"]
    assert [job_record(cluster, job)["JobState"] for job in (stubborn, waiting)] == ["CANCELLED"] * 2
    assert [cluster.all_processes_on(node) for node in cluster.nodes] == [[], []]


# --- where it comes from and where it goes


def test_nothing_is_left_of_a_cluster_whose_owner_was_killed(cluster: Cluster) -> None:
    """Beside the session's cluster, with the same addresses and ports."""
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        second = Cluster.running(directory)
        assert [second.state(node) for node in second.nodes] == ["idle", "idle"]
        second.popen("node1", ["sh", "-c", "setsid sleep 600 &"]).wait()
        owner.kill()
    wait_until(lambda: processes_of(directory) == [], 5, "every process is gone")
    assert directory.exists()
    remove_left_behind()
    assert not directory.exists()
    assert cluster.directory.exists()


def test_a_person_plays_with_one_from_the_command_line(cluster: Cluster, directory: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.slurm.cluster", "--directory", str(directory), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    done = run("up", "--nodes", "1", "--fake-gpus", "0", "--cpus", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "node1   on\n" in done.stdout
    assert "node1 idle 0/4/0/4 (null) none" in done.stdout
    assert run("up").stderr == f"a cluster is in {directory} already: take it down first\n"
    assert run("exec", "login", "srun", "hostname").stdout == "node1\n"
    assert run("exec", "node1", "sh", "-c", "exit 5").returncode == 5
    assert run("crash", "node1").returncode == 0
    assert "node1   off\n" in run("status").stdout
    assert run("boot", "node1").returncode == 0
    assert run("down").returncode == 0
    assert not directory.exists()
    assert processes_of(directory) == []
    assert run("status").stderr == f"no cluster in {directory}\n"


@pytest.mark.slow
def test_accounting_keeps_what_jobs_did(cluster: Cluster, directory: Path) -> None:
    """And the kit asks it for a job that the controller has forgotten."""
    # MariaDB and slurmdbd are no part of the set-up: half a minute for one test.
    if problem := install.cannot_run(accounting=True):
        pytest.skip(f"no accounting: {problem}")
    second = Cluster(Settings(nodes=1, accounting=True, job_age_seconds=2), directory)
    second.up()
    job = submit(second, "exit 3", "--job-name", "kept")
    wait_for_state(second, job, "FAILED")
    words = ["sacct", "-nXP", "-o", "JobID,JobName,State,ExitCode"]
    wait_until(lambda: "FAILED" in second.exec(LOGIN, words).stdout, 20, "sacct tells")
    assert second.exec(LOGIN, words).stdout == f"{job}|kept|FAILED|3:0\n"
    show = ["scontrol", "show", "job", job]
    wait_until(
        lambda: second.exec(LOGIN, show, check=False).returncode, 150, "the controller forgets the job"
    )
    ask = (
        f"from sft.launch.on.slurm import state_of as s; j = s({job!r}); print(j.phase, j.state, j.exit_code)"
    )
    assert second.exec(LOGIN, [sys.executable, "-c", ask]).stdout == "over FAILED 3\n"


# --- where it cannot start


def test_why_it_cannot_start_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "PROGRAMS", ("no-such-slurmd",))
    monkeypatch.setattr(install, "SSH_PROGRAMS", ())
    monkeypatch.setattr(install, "namespaces_missing", lambda: None)
    assert install.cannot_run() == "no-such-slurmd not found: python -m tests.slurm.install"
    monkeypatch.undo()
    monkeypatch.setattr(install, "PROGRAMS", ("no-such-slurmd",))
    monkeypatch.setattr(install, "SSH_PROGRAMS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    assert install.install() == "no-such-slurmd not found, and there is no apt-get to install them with"
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert install.install() == "no-such-slurmd not found, and only root can install them"
    assert install.cannot_run() == "hosts are made of namespaces, which takes root"
    assert main(["--directory", "/nowhere/at-all", "up"]) == 1
    assert capsys.readouterr().err == "hosts are made of namespaces, which takes root\n"
