"""A checkpoint gets its name from rank 0, when every rank's part is there and still what was written."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from sft.checkpoint.find import newest
from sft.checkpoint.write import Pending, complete, write_part
from sft.rundir import RunDirectory
from tests.checkpoint.made import FILES, manifest, run_in


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def staged(run: RunDirectory) -> Path:
    staging = run.staging / "checkpoint-4"
    files = [Pending(name, len(content), partial(_write, content)) for name, content in FILES.items()]
    for rank, part in enumerate((files[:1], files[1:])):
        write_part(staging, rank, part, keep_going=lambda: True)
    return staging


def test_the_parts_of_all_ranks_become_one_checkpoint(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    staging = staged(run)
    bare = replace(manifest(staging, 4), files={})
    path = complete(run, staging, bare, ranks=2, keep_going=lambda: True)
    assert path == run.output_dir / "checkpoint-4"
    found = newest(run, pytest.fail)
    assert found is not None
    assert set(found.manifest.files) == set(FILES)


@pytest.mark.parametrize("gone", ["deleted", "cut short"])
def test_what_somebody_deletes_meanwhile_gets_no_name(gone: str, tmp_path: Path) -> None:
    run = run_in(tmp_path)
    staging = staged(run)
    bare = replace(manifest(staging, 4), files={})
    if gone == "deleted":
        (staging / "optimizer.pt").unlink()
    else:
        (staging / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"optimizer\.pt (is missing|has 0 bytes)"):
        complete(run, staging, bare, ranks=2, keep_going=lambda: True)
    assert not (run.output_dir / "checkpoint-4").exists()
