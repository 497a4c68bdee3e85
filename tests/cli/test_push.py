"""`sft push`: addresses on stdout, words on stderr, and an exit code that scripts can trust."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sft.hub.journal import pending
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import MODEL, TOKENIZER, hub, run, save_checkpoint, save_final
from tests.loopback.hub import TOKEN, Hub

__all__ = ["hub", "run"]

REPO = "team/chat"
# Until the retries give up takes 15 s: no more than one test goes through them here.
SFT = [sys.executable, "-m", "sft.cli.main"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where no login of the library lies."""
    return tmp_path / "home"


def sft_push(environment: dict[str, str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SFT, "push", *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_waits_is_delivered_and_its_address_printed(hub: Hub, run: RunDirectory, home: Path) -> None:
    save_final(run)
    request_push(run, HubSettings(repo=REPO, strategy="end"), "end", 6)
    done = sft_push(hub.environment(home), run.output_dir)
    assert done.returncode == 0
    assert done.stderr == (
        f"pushing the model of step 6 to {REPO} at {hub.url}\npushed the model of step 6 to {REPO}\n"
    )
    assert done.stdout == f"{hub.url}/{REPO}/commit/{hub.commits(REPO)[0].oid}\n"
    again = sft_push(hub.environment(home), run.output_dir)
    assert (again.returncode, again.stdout) == (0, "")
    assert again.stderr == (
        f"nothing waits to be pushed in {run.output_dir}; --repo NAME pushes the finished model\n"
    )


def test_a_run_that_was_not_to_be_pushed_goes_to_the_repository_named(
    hub: Hub, run: RunDirectory, home: Path
) -> None:
    save_final(run)
    run.outcome_json.write_text(json.dumps({"status": "finished", "exit_code": 0, "step": 12}))
    done = sft_push(hub.environment(home), run.output_dir, "--repo", REPO, "--private", "--revision", "v1")
    assert done.returncode == 0
    assert done.stderr.endswith(f"\npushed the model of step 12 to {REPO}\n")
    assert set(hub.files(REPO, "v1")) == MODEL | TOKENIZER
    assert hub.repositories[REPO].visibility == "private"


def test_a_hub_out_of_reach_is_4_and_a_later_push_delivers(hub: Hub, run: RunDirectory, home: Path) -> None:
    save_checkpoint(run, 3)
    request_push(run, HubSettings(repo=REPO), "save", 3)
    with Hub() as gone:
        pass
    failed = sft_push(gone.environment(home), run.output_dir)
    assert (failed.returncode, failed.stdout) == (4, "")
    retries = "".join(
        f"the Hub: [Errno 111] Connection refused; trying again in {seconds} s\n" for seconds in (1, 2, 4, 8)
    )
    assert failed.stderr == (
        f"pushing checkpoint-3 to {REPO} at {gone.url}\n{retries}"
        "the Hub is out of reach: [Errno 111] Connection refused\n"
        f"  where: checkpoint-3 to {REPO} at {gone.url}\n"
        f"  fix:   where there is a network: sft push {run.output_dir}\n"
    )
    assert sft_push(hub.environment(home), run.output_dir).returncode == 0
    assert set(hub.files(REPO)) == MODEL | TOKENIZER


def test_a_wrong_token_is_4_and_written_nowhere(hub: Hub, run: RunDirectory, home: Path) -> None:
    save_final(run)
    request_push(run, HubSettings(repo=REPO, strategy="end"), "end", 6)
    failed = sft_push(hub.environment(home, token="hf_notTheRightOne01234"), run.output_dir)
    assert failed.returncode == 4
    assert "\nthe Hub does not accept the token (401: Invalid credentials" in failed.stderr
    assert sft_push(hub.environment(home), run.output_dir).returncode == 0
    for path in run.output_dir.rglob("*"):
        assert path.is_dir() or not {TOKEN, "hf_notTheRightOne01234"} & set(path.read_text().split('"'))


def test_offline_by_setting_is_told(hub: Hub, run: RunDirectory, home: Path) -> None:
    save_final(run)
    request_push(run, HubSettings(repo=REPO, strategy="end"), "end", 6)
    failed = sft_push(hub.environment(home) | {"HF_HUB_OFFLINE": "1"}, run.output_dir)
    assert failed.returncode == 4
    assert failed.stderr == (
        "huggingface_hub is told to stay offline, so nothing was pushed\n"
        "  where: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE in the environment\n"
        f"  fix:   where there is a network: HF_HUB_OFFLINE=0 sft push {run.output_dir}\n"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--repo", "a/b/c"],
            "'a/b/c' cannot name a repository on the Hub (hub_model_id)\n"
            "  fix:   set hub_model_id to NAME or OWNER/NAME: letters, digits, '-', '_' and '.', at most 96,"
            " no '--' or '..', no '-' or '.' at either end, no '.git' at the end\n",
        ),
        (
            ["--repo", REPO],
            "there is no finished model to push\n"
            "  where: no *.safetensors in {run}\n"
            "  fix:   let the run finish, or name the output_dir of one that has\n",
        ),
        (
            ["--private"],
            "--private and --revision belong to --repo: what waits has its own settings from the run file\n"
            "  fix:   sft push {run} --repo OWNER/NAME ...\n",
        ),
    ],
)
def test_what_cannot_be_pushed_is_refused(
    hub: Hub, run: RunDirectory, home: Path, words: list[str], told: str
) -> None:
    failed = sft_push(hub.environment(home), run.output_dir, *words)
    assert (failed.returncode, failed.stdout, failed.stderr) == (2, "", told.format(run=run.output_dir))
    assert pending(run) == []
    assert hub.requests == []


def test_a_directory_that_is_not_there_is_refused(hub: Hub, tmp_path: Path, home: Path) -> None:
    failed = sft_push(hub.environment(home), tmp_path / "none")
    assert failed.returncode == 2
    assert failed.stderr == (
        f"there is no run directory {tmp_path / 'none'}\n"
        "  fix:   name the output_dir of a run, as its run file has it\n"
    )
