"""`sft fetch` on a login node: everything is brought once, and the run then needs no Hub."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sft.mounts import mount_of
from tests import tiny
from tests.check.made import write_run
from tests.loopback.files import FilesHub

SFT = [sys.executable, "-m", "sft.cli.main"]
MODEL, DATA = "org/tiny", "org/chats"
LOAD = """
import sys
from pathlib import Path
from transformers import AutoConfig, AutoTokenizer
from sft.config.loader import load_run
from sft.data.prepare import find
name = sys.argv[1]
assert AutoConfig.from_pretrained(name).model_type == "llama"
assert AutoTokenizer.from_pretrained(name).chat_template
print(len(find(load_run(Path(sys.argv[2]))).dataset("train")))
"""


@dataclass
class Site:
    """A Hub, and a login node with shared storage."""

    hub: FilesHub
    place: Path

    @property
    def environment(self) -> dict[str, str]:
        """What the user has exported."""
        own = {"SFT_CACHE": str(self.place / "sft"), "TMPDIR": str(self.place)}
        return self.hub.environment(self.place / "hf", None) | own

    def run_file(self, **settings: Any) -> Path:
        """Write a run file that names things on the Hub."""
        named = {"model_name_or_path": MODEL, "dataset_name": DATA, "max_length": 64}
        return write_run(self.place, **{key: value for key, value in {**named, **settings}.items() if value})

    def sft(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the kit to its end."""
        return subprocess.run(
            [*SFT, *words],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command of the kit."""
        return subprocess.Popen(
            [*SFT, *words], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def parquet(rows: list[Any]) -> bytes:
    """Write rows as the Hub keeps them."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture
def site(tmp_path: Path, tiny_model: Path) -> Iterator[Site]:
    """A Hub that has the tiny model and chats."""
    with FilesHub() as hub:
        hub.put_directory(MODEL, tiny_model)
        hub.put(MODEL, {"pytorch_model.bin": b"pickle", "README.md": b"hello"})
        hub.put(f"datasets/{DATA}", {"data/train-00000-of-00001.parquet": parquet(tiny.chats(30))})
        yield Site(hub, tmp_path)
    assert hub.unknown == []


def test_once_fetched_a_run_needs_no_hub(site: Site) -> None:
    run = site.run_file()
    first = site.sft("fetch", str(run))
    assert first.returncode == 0, first.stderr
    assert "to download: " in first.stderr
    assert (
        "warning: compute nodes will not see the Hub's cache and the cache of `datasets` and" in first.stderr
    )
    places = first.stdout.splitlines()
    assert [Path(place).exists() for place in places] == [True, True]
    assert sum(request.endswith("/model.safetensors") for request in site.hub.bodies) == 1
    assert not any("pytorch_model" in request for request in site.hub.requests)

    before = len(site.hub.requests)
    again = site.sft("fetch", str(run))
    assert "everything is here already: nothing was asked for, and nothing downloaded" in again.stderr
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert site.hub.requests[before:] == []

    bodies = len(site.hub.bodies)
    assert site.sft("fetch", str(run), "--refresh").returncode == 0
    assert len(site.hub.requests) > before
    assert len(site.hub.bodies) == bodies

    site.hub.close()
    proved = site.sft("check", str(run), "--offline")
    assert proved.returncode == 0, proved.stderr
    assert "note: offline: no connection was tried\n" in proved.stderr
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, MODEL, str(run)],
        env=site.environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.stdout.splitlines()[-1:] == ["30"], loaded.stderr


def test_a_pinned_commit_is_fetched_and_a_mixture_of_named_files(site: Site) -> None:
    commit = site.hub.repositories[MODEL].branches["main"].head
    site.hub.put(MODEL, {"config.json": b"later, and broken"})
    site.hub.put(f"datasets/{DATA}", {"more/b.parquet": parquet(tiny.chats(5))})
    mixture = [{"path": DATA, "data_files": "more/*.parquet"}, {"path": DATA}]
    run = site.run_file(model_revision=commit, dataset_name=None, datasets=mixture)
    fetched = site.sft("fetch", str(run))
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout.splitlines()[0].endswith(f"models--org--tiny/snapshots/{commit}")
    assert "train: 35 rows" in fetched.stderr
    before = len(site.hub.requests)
    assert site.sft("fetch", str(run)).returncode == 0
    assert site.hub.requests[before:] == []


def test_paths_need_no_hub(site: Site, tiny_model: Path, tiny_chats: Path) -> None:
    run = site.run_file(model_name_or_path=str(tiny_model), dataset_name=str(tiny_chats))
    site.hub.close()
    fetched = site.sft("fetch", str(run))
    assert fetched.returncode == 0, fetched.stderr
    assert (
        "nothing to download: the model and the data are paths on this machine" in fetched.stderr.splitlines()
    )
    assert fetched.stdout.splitlines()[0] == str(tiny_model)
    assert site.hub.requests == []


def test_killed_at_the_data_it_does_not_fetch_the_model_again(site: Site) -> None:
    run = site.run_file()
    site.hub.stall_after["train-00000-of-00001.parquet"] = 100
    process = site.start("fetch", str(run))
    assert site.hub.stalled.wait(60)
    process.kill()
    process.communicate()
    site.hub.stall_after.clear()
    before = len(site.hub.requests)
    again = site.sft("fetch", str(run))
    assert again.returncode == 0, again.stderr
    assert not any(f"/{MODEL}" in request for request in site.hub.requests[before:])
    assert [
        name.rsplit("/", 1)[-1] for name in site.hub.requests[before:] if name.startswith("GET /data")
    ] == ["train-00000-of-00001.parquet"]


def test_ctrl_c_ends_it_at_once(site: Site) -> None:
    site.hub.stall_after["model.safetensors"] = 100
    process = site.start("fetch", str(site.run_file()))
    assert site.hub.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 75
    assert said.endswith("Stopped. What is whole by now stays; the same command goes on.\n")


def test_what_does_not_fit_is_refused_before_it_is_downloaded(site: Site) -> None:
    mount = mount_of(site.place)
    assert mount is not None
    quota = site.place / "bin" / "quota"
    quota.parent.mkdir()
    quota.write_text(f"#!/bin/sh\necho '{mount.source} 1000 0 1100 10 0 0'\n")
    quota.chmod(0o755)
    refused = site.sft("fetch", str(site.run_file()), PATH=f"{quota.parent}:{os.environ['PATH']}")
    assert refused.returncode == 4
    told = refused.stderr.splitlines()[-3:]
    assert told[0].startswith("0.4 MiB have to go to ") or told[0].startswith("0.5 MiB have to go to ")
    assert told[0].endswith(" are downloaded), and 0.1 MiB is left of your quota")
    assert told[2] == (
        "  fix:   make room there, or set HF_HOME to a place that has it and that every node sees"
    )
    assert site.hub.bodies == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        pytest.param("gated", "the data set org/chats is gated, and no token is set", id="gated"),
        pytest.param(
            "none", "the Hub has no data set org/none, or it is private and no token is set", id="404"
        ),
        pytest.param(
            "offline",
            "something has to be fetched, and the libraries are told to stay offline",
            id="told-to-be-offline",
        ),
    ],
)
def test_data_that_cannot_be_had_is_told(site: Site, tiny_model: Path, how: str, said: str) -> None:
    site.hub.gated = {f"datasets/{DATA}"}
    run = site.run_file(
        model_name_or_path=str(tiny_model), dataset_name="org/none" if how == "none" else DATA
    )
    refused = site.sft("fetch", str(run), HF_HUB_OFFLINE="1" if how == "offline" else "0")
    assert refused.returncode == 4, refused.stderr
    assert refused.stderr.splitlines()[-3] == said
    assert "Traceback" not in refused.stderr


def test_json_of_a_check_stays_json(site: Site, tiny_model: Path, tiny_chats: Path) -> None:
    run = site.run_file(model_name_or_path=str(tiny_model), dataset_name=str(tiny_chats))
    checked = site.sft("check", str(run), "--json")
    assert json.loads(checked.stdout)["settings"]["max_length"] == 64


def test_a_run_for_gpu_nodes_is_looked_at_on_a_login_node(site: Site) -> None:
    run = site.run_file(launch={"nodes": 2, "gpus_per_node": 4, "strategy": "zero3"})
    missing = site.sft("check", str(run), "--offline")
    assert missing.returncode == 4
    assert missing.stderr.count(f"  fix:   where there is a network: sft fetch {run}\n") == 2
