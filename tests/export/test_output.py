"""Where a merged model may go, and that it is whole there or absent."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from sft import machine
from sft.errors import ExitCode, UserError
from sft.export.output import refuse_output, require_disk, staged


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "adapter"
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    return path


def refused(path: Path, adapter: Path, *, overwrite: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        refuse_output(path, forbidden=[adapter], overwrite=overwrite)
    return str(caught.value)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_adapters_directory_is_refused_however_it_is_spelled(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    (tmp_path / "link").symlink_to(adapter)
    monkeypatch.chdir(adapter.parent)
    for spelled in (
        adapter,
        tmp_path / "link",
        Path("adapter"),
        Path("../runs/./adapter"),
        adapter / "x" / "..",
    ):
        assert refused(spelled, adapter, overwrite=overwrite) == (
            f"the merged model cannot go into {spelled}: it is read from there\n"
            f"  where: {spelled} is {adapter}\n"
            "  fix:   name a new directory: beside an adapter_config.json the adapter would be applied a second "
            "time on load"
        )


def test_a_directory_around_the_adapter_is_refused(adapter: Path) -> None:
    assert refused(adapter.parent, adapter, overwrite=True).startswith(
        f"the merged model cannot replace {adapter.parent}: what is merged lies inside it"
    )


def test_a_directory_inside_the_run_is_fine(adapter: Path) -> None:
    assert refuse_output(adapter / "merged", forbidden=[adapter], overwrite=False) == adapter / "merged"


def test_only_a_merged_model_is_overwritten_and_only_when_told(adapter: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("")
    assert refused(full, adapter) == (
        f"the output {full} is not empty\n  fix:   name a new directory, or replace it with --overwrite"
    )
    assert refused(full, adapter, overwrite=True) == (
        f"--overwrite would delete {full}, which does not look like a merged model\n"
        "  where: a merged model has a config.json, and neither adapter_config.json nor _sft\n"
        "  fix:   name a new directory"
    )
    (full / "config.json").write_text("{}")
    assert refuse_output(full, forbidden=[adapter], overwrite=True) == full


def test_a_file_is_no_output(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert (
        refused(tmp_path / "file", adapter)
        == f"the output {tmp_path}/file is a file\n  fix:   name a directory"
    )


def test_the_output_appears_whole_with_the_umasks_modes(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "merged"
    before = os.umask(0o027)
    try:
        with staged(target) as directory:
            (directory / "model.safetensors").touch(mode=0o600)
            assert not target.exists()
    finally:
        os.umask(before)
    assert stat.S_IMODE((target / "model.safetensors").stat().st_mode) == 0o640
    assert os.listdir(target.parent) == ["merged"]


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "merged"
    target.mkdir()
    (target / "config.json").write_text("old")
    with pytest.raises(RuntimeError), staged(target) as directory:  # noqa: PT012
        (directory / "config.json").write_text("new")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["merged"]
    assert (target / "config.json").read_text() == "old"

    with staged(target) as directory:
        (directory / "config.json").write_text("new")
    assert os.listdir(tmp_path) == ["merged"]
    assert (target / "config.json").read_text() == "new"


def test_what_a_killed_merge_left_is_swept_and_a_live_ones_is_not(tmp_path: Path) -> None:
    host = socket.gethostname()
    dead = tmp_path / f".merged.merging-{host}-99999999"
    live = tmp_path / f".merged.merging-{host}-{os.getppid()}"
    elsewhere = tmp_path / ".merged.merging-another-host-7"
    for path in (dead, live, elsewhere):
        path.mkdir()
    with staged(tmp_path / "merged"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([elsewhere.name, live.name, "merged"])


def test_an_output_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught, staged(tmp_path / "file" / "merged"):
        pass
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert caught.value.problems[0].what == "the output cannot be written: File exists"


def test_a_full_disk_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        require_disk(tmp_path / "a" / "b", 2**60)
    assert caught.value.problems[0].what.startswith("the merged model needs 1073741824.0 GiB of disk, and ")
    assert caught.value.problems[0].where == str(tmp_path)
    require_disk(tmp_path, 1)


def test_available_memory_is_positive() -> None:
    assert 0 < machine.available_memory_bytes() < 2**50
