"""What counts as a checkpoint: complete ones, by their manifest; everything else is set aside and said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sft.checkpoint.find import complete, newest, publish
from sft.checkpoint.manifest import NAME, Manifest, read_manifest, verify
from tests.checkpoint.made import FILES, make, manifest, run_in


def test_a_manifest_says_what_it_was_told(tmp_path: Path) -> None:
    path = make(tmp_path, 4, best_step=2)
    found = read_manifest(path)
    assert found == manifest(path, 4, best_step=2)
    assert found.bytes == sum(len(content) for content in FILES.values())
    verify(path, found)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


BROKEN = {
    "no manifest": (
        lambda path: (path / NAME).unlink(),
        f"it has no {NAME}, so its save did not come to an end",
    ),
    "half a manifest": (
        lambda path: os.truncate(path / NAME, (path / NAME).stat().st_size // 2),
        f"{NAME} is torn",
    ),
    "an empty manifest": (lambda path: (path / NAME).write_text(""), f"{NAME} is torn"),
    "bytes for a manifest": (lambda path: (path / NAME).write_bytes(b"\xff\xfe\x00"), f"{NAME} is torn"),
    "another step in the manifest": (
        lambda path: (path / NAME).write_text((path / NAME).read_text().replace('"step": 8', '"step": 9')),
        f"{NAME} was altered",
    ),
    "another directory": (lambda path: _swap(path), "it holds step 4"),
    "a file too few": (lambda path: (path / "optimizer.pt").unlink(), "optimizer.pt is missing"),
    "a directory too few": (
        lambda path: shutil.rmtree(path / "deep"),
        "deep/inside/part.bin is missing",
    ),
    "a short file": (
        lambda path: os.truncate(path / "optimizer.pt", 10),
        "optimizer.pt has 10 bytes instead of 1,400",
    ),
    "one bit": (
        lambda path: _flip(path / "scheduler.pt"),
        "scheduler.pt is not what was written (its SHA-256 differs)",
    ),
}


def _swap(path: Path) -> None:
    shutil.rmtree(path)
    shutil.copytree(path.parent / "checkpoint-4", path)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_one_is_set_aside_and_the_one_before_it_is_used(how: str, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    older, broken = make(run.output_dir, 4), make(run.output_dir, 8)
    breaking, why = BROKEN[how]
    breaking(broken)
    said: list[str] = []
    found = newest(run, said.append)
    assert found is not None
    assert (found.path, found.manifest.step) == (older, 4)
    assert said == [f"checkpoint-8 is not whole: {why}; moved to {run.set_aside / 'checkpoint-8'}"]
    assert not broken.exists()
    assert (run.set_aside / "checkpoint-8").is_dir()


def test_what_is_set_aside_twice_keeps_both(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    for _ in range(2):
        (make(run.output_dir, 8) / NAME).unlink()
        assert newest(run, lambda _: None) is None
    assert sorted(path.name for path in run.set_aside.iterdir()) == ["checkpoint-8", "checkpoint-8.2"]


def test_steps_are_numbers_and_other_names_are_left_alone(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    for step in (9, 10, 100):
        make(run.output_dir, step)
    for name in ("checkpoint-best", "checkpoint-", "checkpoints", "checkpoint-7.bak"):
        (run.output_dir / name).mkdir()
    (run.output_dir / "checkpoint-200").write_text("a file")
    assert [found.manifest.step for found in complete(run)] == [9, 10, 100]
    found = newest(run, pytest.fail)
    assert found is not None
    assert found.manifest.step == 100
    assert len(list(run.output_dir.iterdir())) == 8


def test_one_that_was_killed_before_it_got_its_name_counts(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    make(run.output_dir, 4)
    make(run.staging, 8)
    said: list[str] = []
    found = newest(run, said.append)
    assert found is not None
    assert found.path == run.output_dir / "checkpoint-8"
    assert said == ["checkpoint-8 was complete but for its name when the run was killed: it counts"]
    assert not run.staging.exists()


def test_a_half_written_one_is_removed(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    (make(run.staging, 8) / NAME).unlink()
    assert newest(run, pytest.fail) is None
    assert not run.staging.exists()
    assert not run.set_aside.exists()


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    make(run.output_dir, 8, {"trainer_state.json": b"old"})
    publish(run, make(run.staging, 8, {"trainer_state.json": b"new"}))
    assert (run.output_dir / "checkpoint-8" / "trainer_state.json").read_bytes() == b"new"
    assert list(run.staging.iterdir()) == []


@pytest.mark.parametrize("moved", [1, 2])
def test_a_kill_while_one_replaces_another_loses_neither(moved: int, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    old = make(run.output_dir, 8, {"trainer_state.json": b"old"})
    new = make(run.staging, 8, {"trainer_state.json": b"new"})
    old.rename(run.staging / "older-checkpoint-8")
    if moved == 2:
        new.rename(old)
    found = newest(run, lambda _: None)
    assert found is not None
    assert (found.path / "trainer_state.json").read_bytes() == b"new"


def test_a_manifest_of_another_version_is_not_trusted() -> None:
    with pytest.raises(ValueError, match="is torn"):
        Manifest.from_json("[1]")
