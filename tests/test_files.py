"""A file is written whole or not at all, also where somebody deletes its directory just then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sft import files
from sft.files import write_whole


def delete_before_rename(monkeypatch: pytest.MonkeyPatch, times: int) -> list[Path]:
    """Have the directory deleted before the first renames; return what was deleted."""
    own, deleted = Path.replace, list[Path]()

    def replace(self: Path, target: Path) -> Path:
        if len(deleted) < times:
            shutil.rmtree(self.parent)
            deleted.append(self.parent)
        return own(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(files, "DELETED_SECONDS", (0.0, 0.0))
    return deleted


def test_a_directory_that_is_deleted_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = delete_before_rename(monkeypatch, 2)
    write_whole(tmp_path / "deep" / "state.json", "{}")
    assert deleted == [tmp_path / "deep"] * 2
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state.json"]
    assert (tmp_path / "deep" / "state.json").read_text() == "{}"


def test_it_is_not_tried_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted = delete_before_rename(monkeypatch, 9)
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "deep" / "state.json", "{}")
    assert len(deleted) == 3


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "state.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
