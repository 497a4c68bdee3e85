"""What a killed download has left in the cache: finished where that is possible, removed where it is not.

huggingface_hub begins every file anew under a name of its own, and leaves that file where it was killed. A download by
plain HTTP is written from front to end, so that the rest can be asked for; one by Xet is not.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub import RepoFile, constants, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]  # lazily

from sft.hub.cached import cache_directory, storage_of
from sft.hub.hashes import Checked, etag_of, hash_of

WORTH_BYTES = 1 << 20
"""Below this a file is fetched anew."""
LOCK_SECONDS = 0.2
WATCH_SECONDS = 1.0
"""How long a file is watched for whether it grows."""


def finish(
    name: str, commit: str, absent: Sequence[RepoFile], checked: Checked, say: Callable[[str], None]
) -> None:
    """Finish what a killed download has begun of the absent files, and remove its other remains.

    What another process is writing is left alone.
    """
    wanted = {etag_of(file): file for file in absent}
    blobs = storage_of(name) / "blobs"
    # The largest of each first: the others are in its way no more once it is whole.
    for part in sorted(_at_rest(blobs), key=_size, reverse=True):
        etag = part.name.partition(".")[0]
        with _alone(blobs, etag) as alone:
            if not alone:
                continue
            file = wanted.get(etag)
            if file is not None and _is_worth(part, file) and not (blobs / etag).exists():
                say(f"going on with {file.path} where it was left, at {_size(part) / file.size:.0%}")
                _go_on(part, name, commit, file)
                if hash_of(part, file) == etag:
                    part.replace(blobs / etag)
                    checked.add(blobs / etag, etag)
            part.unlink(missing_ok=True)


def _at_rest(blobs: Path) -> list[Path]:
    """List the files in the making that nobody writes to: not every file system locks."""
    sizes = {part: _size(part) for part in blobs.glob("*.incomplete")}
    if sizes:
        time.sleep(WATCH_SECONDS)
    return [part for part, size in sizes.items() if _size(part) == size]


def _is_worth(part: Path, file: RepoFile) -> bool:
    can_xet = importlib.util.find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET
    by_xet = file.xet_hash is not None and can_xet
    return not by_xet and WORTH_BYTES <= _size(part) <= file.size


def _go_on(part: Path, name: str, commit: str, file: RepoFile) -> None:
    with part.open("ab") as stream:
        http_get(
            hf_hub_url(name, file.path, revision=commit),
            stream,
            resume_size=stream.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.path,
        )


@contextmanager
def _alone(blobs: Path, etag: str) -> Iterator[bool]:
    """Hold the lock under which huggingface_hub downloads one file; False where another process has it."""
    lock = cache_directory() / ".locks" / blobs.parent.name / f"{etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=LOCK_SECONDS))
        except TimeoutError:
            yield False
        else:
            yield True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
