"""The cache of prepared data: an entry is whole or absent, and two launches do not collide.

```
<cache>/prepared/<digest>/   manifest.json (written last), train.arrow, test.arrow, dropped.jsonl, truncated.jsonl
<cache>/prepared/.<digest>-<pid>/   one in the making; renamed when whole
<cache>/locks/<digest>      held while it is made
<cache>/files/              hashes of files, by their size and times
```
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.data.ledger import SplitSummary
from sft.errors import ExitCode, UserError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without flock answers."""


def default_cache() -> Path:
    """Return where prepared data is kept if the run file does not say."""
    if os.environ.get("SFT_CACHE"):
        return Path(os.environ["SFT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sft"


@dataclass(frozen=True, slots=True)
class Entry:
    """Prepared data."""

    directory: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, directory: Path) -> Entry | None:
        """Return the entry if it is there and whole: every file that the manifest lists has its size."""
        try:
            manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
            for name, size in manifest["files"].items():
                if (directory / name).stat().st_size != size:
                    return None
        except (OSError, ValueError, KeyError):
            return None
        return cls(directory, manifest)

    def has(self, split: str) -> bool:
        """Whether there is such a split ("train" or "test")."""
        return split in self.manifest["splits"]

    def summary(self, split: str) -> SplitSummary:
        """Return the sums of one split."""
        return SplitSummary.from_json(self.manifest["splits"][split])

    def lengths(self, split: str) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the tokens of every encoded sample before truncation (int32, one a sample)."""
        import numpy as np

        return np.load(self.directory / f"{split}.lengths.npy")  # type: ignore[no-any-return]

    def dataset(self, split: str) -> Dataset:
        """Memory-map one split: `input_ids`, `labels`, `length`, and `seq_lengths` where rows are packed."""
        import datasets

        return datasets.Dataset.from_file(str(self.directory / f"{split}.arrow"))

    def lines(self) -> list[str]:
        """Say the sums for people."""
        lines = [line for split in self.manifest["splits"] for line in self.summary(split).lines(split)]
        added = self.manifest["added_tokens"]
        if added:
            lines.append(
                f"the chat template needs {len(added)} tokens that the vocabulary lacks ({', '.join(added[:4])}): the"
                " embeddings grow, and theirs are trained and saved"
            )
        return lines


class Cache:
    """Entries by their digest, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def files(self) -> Path:
        """Where hashes of files are remembered."""
        return self.directory / "files"

    def find(self, digest: str) -> Entry | None:
        """Return an entry that is whole; nothing is written to look."""
        return Entry.open(self.directory / "prepared" / digest)

    @contextmanager
    def making(self, digest: str, say: Callable[[str], None]) -> Iterator[Path]:
        """Give a directory to make an entry in, and put it in its place when the block ends well.

        Held under a lock: who comes second waits, and should look again with `find` once inside.

        Raises:
            UserError: the cache cannot be written, or the disk is full. Nothing is left then.
        """
        place = self.directory / "prepared" / digest
        aside = place.with_name(f".{digest}-{os.getpid()}")
        try:
            with self._lock(digest, say) as alone:
                for torn in place.parent.glob(f".{digest}-*") if alone else ():
                    shutil.rmtree(torn, ignore_errors=True)
                aside.mkdir(parents=True)
                try:
                    yield aside
                    if (aside / "manifest.json").exists():
                        _flush(aside)
                        self._settle(aside, place)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
        except OSError as error:
            raise self._refusal(error) from error

    @contextmanager
    def _lock(self, digest: str, say: Callable[[str], None]) -> Iterator[bool]:
        """Hold a lock for one digest; False where the file system has none, and two may make the same entry."""
        path = self.directory / "locks" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.directory / "prepared").mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            alone = True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another process prepares this data: waiting for it")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                alone = False
            yield alone
        finally:
            os.close(descriptor)

    def _settle(self, aside: Path, place: Path) -> None:
        """Put an entry in its place, unless another process without the lock was faster."""
        if Entry.open(place) is None:
            shutil.rmtree(place, ignore_errors=True)  # torn
            aside.rename(place)

    def _refusal(self, error: OSError) -> UserError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else f"the data cache cannot be written: {error.strerror}"
        return UserError(
            what,
            where=str(error.filename or self.directory),
            fix="make room, or set data_cache (or $SFT_CACHE) to a place that has it"
            if full
            else "set data_cache (or $SFT_CACHE) to a directory of yours that the compute nodes see",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _flush(directory: Path) -> None:
    """Bring all files to the disk before the rename that makes them an entry."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
