"""The keys that accelerate and DeepSpeed read, and what is said about others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sft.plan import known_keys as module
from sft.plan.document import read_document
from sft.plan.known_keys import PINNED, known_keys, unknown_accelerate_keys, unknown_deepspeed_keys


def told(problems: list) -> list[str]:
    return [str(problem) for problem in problems]


def test_the_file_is_what_the_installed_libraries_give(tmp_path: Path) -> None:
    fresh = tmp_path / "known_keys.json"
    command = [sys.executable, "-m", "sft.plan.generate_known_keys", "--output", str(fresh)]
    subprocess.run(command, check=True, capture_output=True)
    assert fresh.read_text() == PINNED.read_text(), "accept with: python -m sft.plan.generate_known_keys"


def test_nested_typos_are_told_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "zero3.yaml"
    file.write_text(
        "distributed_type: DEEPSPEED\n"
        "deepspeed_config:\n"
        "  zero_stage: 3\n"
        "  zero3_save_16bit_modle: true\n"
        "num_procesess: 2\n"
        "quux: 1\n"
    )
    assert told(unknown_accelerate_keys(read_document(file))) == [
        "unknown accelerate key deepspeed_config.zero3_save_16bit_modle\n"
        f"  where: {file}:4\n"
        "  fix:   did you mean zero3_save_16bit_model?",
        f"unknown accelerate key num_procesess\n  where: {file}:5\n  fix:   did you mean num_processes?",
        "unknown accelerate key quux\n"
        f"  where: {file}:6\n"
        f"  fix:   remove it: accelerate {known_keys()['versions']['accelerate']} reads no such key there",
    ]


def test_keys_of_deepspeed_are_checked_three_deep(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(
        '{\n\t"zero_optimization": {\n\t\t"stage": 3,\n\t\t"offload_param": {"devise": "cpu"}\n\t},\n'
        '\t"optimizer": {"type": "AdamW", "params": {"any": 1}},\n\t"gradient_cliping": 1.0\n}\n'
    )
    assert told(unknown_deepspeed_keys(read_document(file))) == [
        "unknown deepspeed key zero_optimization.offload_param.devise\n"
        f"  where: {file}:4\n"
        "  fix:   did you mean device?",
        "unknown deepspeed key gradient_cliping\n"
        f"  where: {file}:7\n"
        "  fix:   did you mean gradient_clipping?",
    ]


def test_fsdp_keys_may_leave_their_prefix_out_as_accelerate_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "fsdp.yaml"
    file.write_text("distributed_type: FSDP\nfsdp_config: {version: 2, fsdp_offload_params: true}\n")
    assert unknown_accelerate_keys(read_document(file)) == []


def test_the_configurations_of_trl_have_no_unknown_key() -> None:
    import trl

    files = sorted((Path(trl.__file__).parent / "accelerate_configs").glob("*.yaml"))
    assert len(files) >= 7
    for file in files:
        assert unknown_accelerate_keys(read_document(file)) == []


def test_other_versions_are_read_once_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = json.loads(PINNED.read_text())
    pinned["versions"]["accelerate"] = "0.0.1"
    older = tmp_path / "known_keys.json"
    older.write_text(json.dumps(pinned))
    monkeypatch.setattr(module, "PINNED", older)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    started: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        started.append(command)
        Path(command[-1]).write_text(PINNED.read_text())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(module.subprocess, "run", run)
    for _ in range(2):
        known_keys.cache_clear()
        assert known_keys() == json.loads(PINNED.read_text())
    known_keys.cache_clear()
    assert len(started) == 1
