"""The batch script: whole, against a file; and values that would break out of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.config.kit import LaunchConfig, Strategy
from sft.config.slurm import SlurmConfig
from sft.launch.platform import Submission
from sft.launch.sbatch import extra_problems, job_script, sbatch_lines
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

GOLDEN = Path(__file__).parents[1] / "goldens" / "slurm" / "job.sbatch"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def job(directory: str = "/work/me/runs/llama", **more: Any) -> Submission:
    slurm = {"partition": "gpu", "account": "my_account", "cpus_per_task": 32, **more.pop("slurm", {})}
    launch = LaunchConfig(
        nodes=2,
        gpus_per_node=4,
        strategy="zero3",
        time_limit="04:00:00",
        setup=["module load cuda", "conda activate peft"],
        slurm=SlurmConfig(**slurm),
    )
    plan = Plan(
        strategy=Strategy.ZERO3, device="gpu", nodes=2, processes_per_node=4, micro_batch=1, accumulation=8
    )
    settled: dict[str, Any] = {
        "launch": launch,
        "plan": plan,
        "run": RunDirectory(Path(directory)),
        "sft": Path("/work/me/kit/.venv/bin/sft"),
        "directory": Path("/work/me"),
        "name": "llama",
        "title": "llama.yaml",
        "written_by": "sft launch llama.yaml --on slurm",
        "overrides": ("--max-restarts", "3"),
    }
    return Submission(**{**settled, **more})


def test_the_script_is_this_one() -> None:
    """Accept another one with: python -m tests.launch.test_sbatch"""
    assert job_script(job()) == GOLDEN.read_text(), "accept it with: python -m tests.launch.test_sbatch"


@pytest.mark.parametrize("directory", ["/work/me/runs/llama", "/work/my runs/$(touch x) 'a' #2"])
def test_shellcheck_has_nothing_to_say_and_bash_reads_it(directory: str, tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text(job_script(job(directory)))
    # What hostile names look like to it: expansions in single quotes (SC2016), quotes in values (SC2089, SC2090).
    done = subprocess.run(
        [SHELLCHECK, "-e", "SC2016,SC2089,SC2090", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    subprocess.run([shutil.which("bash") or "bash", "-n", script], check=True)


def options(**slurm: Any) -> list[str]:
    made = job(slurm=slurm)
    return sbatch_lines(made.launch, made.plan, name=made.name, log=Path("/logs/job-%j.log"), requeue=True)


def test_every_key_has_its_line() -> None:
    lines = options(
        qos="high", gres="gpu:a100:4", mem="0", constraint="a100&ib", nodelist="n[1-2]", exclude="n3", reservation="r",
        exclusive=True, mail_user="me@x.org", mail_type="END,FAIL", extra=["--licenses=x y", "-H", "--comment=#1"],
        array=["--seed 1", "--seed 2"], array_at_once=1, signal_seconds=300, job_name="mine",
    )  # fmt: skip
    assert lines == [
        f"#SBATCH {line}"
        for line in (
            "--job-name=llama", "--partition=gpu", "--account=my_account", "--qos=high", "--reservation=r",
            "--time=04:00:00", "--nodes=2", "--ntasks-per-node=1", "--gres=gpu:a100:4", "--cpus-per-task=32", "--mem=0",
            '--constraint="a100&ib"', "--nodelist=n[1-2]", "--exclude=n3", "--array=0-1%1", "--mail-user=me@x.org",
            "--mail-type=END,FAIL", "--output=/logs/job-%j.log", "--open-mode=append", "--signal=B:USR1@300",
            "--exclusive", "--requeue", '--licenses="x y"', "-H", '--comment="#1"',
        )
    ]  # fmt: skip


def test_what_the_kit_writes_itself_is_no_further_option() -> None:
    launch = job(slurm={"extra": ["--time=1", "-N 3", "--comment=fine"]}).launch
    assert [str(problem) for problem in extra_problems(launch, "run.yaml:9")] == [
        "launch.slurm.extra holds --time, which the kit writes itself\n"
        "  where: run.yaml:9\n"
        "  fix:   remove it; it is said by launch.time_limit",
        "launch.slurm.extra holds -N, which the kit writes itself\n"
        "  where: run.yaml:9\n"
        "  fix:   remove it; it is said by launch.nodes",
    ]


@pytest.mark.parametrize("value", ["a\nscancel -u me", "a\x00b", "tab\there"])
def test_a_value_of_several_lines_is_refused(value: str) -> None:
    for wrong in ({"partition": value}, {"extra": [f"--comment={value}"]}, {"array": [value]}):
        with pytest.raises(ValueError, match="String should match pattern"):
            SlurmConfig(**wrong)


def test_a_chained_job_does_not_go_back_into_the_queue() -> None:
    assert "--requeue" in job_script(job())
    chained = job_script(job(chained=3))
    assert "#SBATCH --no-requeue\n" in chained
    assert chained.endswith('exec "$SFT" job end "$RUN" --status "$code"\n')


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(job_script(job()))
