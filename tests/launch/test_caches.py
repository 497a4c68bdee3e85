"""Compiled kernels on a file system that other machines serve: told, with the variable to set."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from sft.cli.main import main
from sft.launch import caches
from sft.launch.caches import on_shared

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / {home} rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / {home}/local rw shared:3 master:4 - xfs /dev/sdb1 rw
"""


def told(home: Path, environment: dict[str, str]) -> list[str]:
    (home / "local").mkdir(exist_ok=True)
    table = TABLE.format(home=home)
    return [str(problem.where) for problem in on_shared({"HOME": str(home), **environment}, table)]


def test_a_home_on_nfs_is_told_with_both_caches(tmp_path: Path) -> None:
    assert told(tmp_path, {}) == [
        f"TRITON_CACHE_DIR={tmp_path}/.triton/cache",
        f"TORCH_EXTENSIONS_DIR={tmp_path}/.cache/torch_extensions",
    ]


def test_what_lies_on_the_nodes_own_disk_is_no_matter(tmp_path: Path) -> None:
    local = str(tmp_path / "local")
    assert told(tmp_path, {"TRITON_CACHE_DIR": local, "TORCH_EXTENSIONS_DIR": f"{local}/not/yet"}) == []
    assert told(tmp_path, {"TRITON_HOME": local, "XDG_CACHE_HOME": local}) == []


def test_one_that_was_set_to_a_shared_place_is_told_alone(tmp_path: Path) -> None:
    environment = {"TRITON_CACHE_DIR": f"{tmp_path}/cache", "TORCH_EXTENSIONS_DIR": "/tmp/x"}
    assert told(tmp_path, environment) == [f"TRITON_CACHE_DIR={tmp_path}/cache"]


def test_a_node_without_room_on_its_own_disk_is_refused_by_name(
    tmp_path: Path,
    tiny_model: Path,
    tiny_chats: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(caches, "SCRATCH_BYTES", 1 << 60)
    run_file = tmp_path / "run.yaml"
    settings = {
        "model_name_or_path": str(tiny_model),
        "dataset_name": str(tiny_chats),
        "output_dir": str(tmp_path / "run"),
    }
    place = {"nodes": 2, "processes_per_node": 1, "main_process_ip": "127.0.0.1", "main_process_port": 29999}
    run_file.write_text(json.dumps({**settings, "bf16": False, "launch": {"device": "cpu", **place}}))
    assert main(["launch", str(run_file)]) == 4
    said = capsys.readouterr().err
    assert f"{socket.gethostname()} has " in said
    assert "MiB free on its own disk" in said
    assert not (tmp_path / "run").exists()
