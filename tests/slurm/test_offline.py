"""From fetch to pushed model, on nodes that have no route out: nothing there tries to reach anything but the cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loopback.hub import TOKEN
from tests.slurm.cluster import Cluster
from tests.slurm.runs import submitted
from tests.slurm.settings import LOGIN

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]


def test_from_fetch_to_pushed_model(cluster: Cluster, tmp_path: Path, tiny_model: Path) -> None:
    run = submitted(
        cluster, tmp_path, tiny_model, max_steps=4, save_steps=2, report_to="wandb",
        model_name_or_path="org/tiny", dataset_name="org/chats", push_to_hub=True, hub_model_id="me/tuned",
        hub_strategy="every_save", launch={"offline": True},
        environment={"HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    # As a user has it, who has set nothing.
    run.environment.update({"HF_HUB_OFFLINE": "0"})
    words = [sys.executable, "-m", "tests.slurm.login_hub", str(tiny_model), str(tmp_path / "train.jsonl")]
    hub = cluster.popen(LOGIN, [*words, str(tmp_path / "pushed")], cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert hub.stdout is not None
    fetch_from, push_to = hub.stdout.readline().split()
    online = {
        **run.environment,
        "HF_ENDPOINT": fetch_from,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }

    def on_login(*more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words = [str(Path(sys.executable).with_name("sft")), *more]
        return cluster.exec(LOGIN, words, env={**online, **environment}, check=False, timeout=120)

    # Without the fetch it is not even submitted.
    refused = run.sft("launch", str(run.run_file), "--on", "slurm", check=False)
    assert refused.returncode == 4
    assert f"sft fetch {run.run_file}" in refused.stderr
    fetched = on_login("fetch", str(run.run_file))
    assert fetched.returncode == 0, fetched.stderr
    proven = on_login("check", str(run.run_file), "--offline")
    assert proven.returncode == 0, proven.stderr
    cluster.forget_attempts()
    job = run.submit()
    watching = cluster.popen(
        LOGIN,
        [str(Path(sys.executable).with_name("sft")), "push", str(run.run.output_dir), "--watch"],
        env={**online, "HF_ENDPOINT": push_to, "HF_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert run.ended(job, 180)["ExitCode"] == "0:0", run.log()
    assert cluster.outside_attempts() == []
    said, _ = watching.communicate(timeout=90)
    assert watching.returncode == 0, said
    hub.terminate()
    left, _ = hub.communicate(timeout=30)
    # A push that a later one brings anew is left out.
    assert re.fullmatch(r"me/tuned: [123] commits\n", left), f"{left}\n{said}"
    pushed = tmp_path / "pushed" / "me" / "tuned"
    assert (pushed / "model.safetensors").read_bytes() == (
        run.run.output_dir / "model.safetensors"
    ).read_bytes()
    assert {path.name for path in pushed.iterdir()} >= {"README.md", "config.json", "tokenizer.json"}
