"""Where the Hub's cache has a repository: what HF_HUB_OFFLINE=1 reads. Asks nobody."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import RepoFile, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from sft.files import write_whole
from sft.hub.hashes import etag_of

COMMIT = re.compile(r"[0-9a-f]{40}")


def cache_directory() -> Path:
    """Return the cache, as HF_HUB_CACHE or HF_HOME say."""
    return Path(constants.HF_HUB_CACHE).expanduser().resolve()


def storage_of(name: str, repo_type: str = "model") -> Path:
    """Return the directory of one repository in the cache, whether or not it is there."""
    return cache_directory() / repo_folder_name(repo_id=name, repo_type=repo_type)


def absent_bytes(name: str, files: Iterable[RepoFile], repo_type: str = "model") -> int:
    """Add the sizes of the files that the cache lacks."""
    blobs = storage_of(name, repo_type) / "blobs"
    return sum(file.size for file in files if not (blobs / etag_of(file)).exists())


def snapshot_of(name: str, revision: str | None) -> Path | None:
    """Return the directory that a name and a revision lead to without a network; None where they lead nowhere."""
    try:
        storage = storage_of(name)
    except HFValidationError:
        return None  # no name that the Hub has: a path that leads nowhere
    commit = revision or constants.DEFAULT_REVISION
    if not COMMIT.fullmatch(commit):
        try:
            commit = (storage / "refs" / commit).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    snapshot = storage / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def point_to(name: str, revision: str | None, commit: str) -> None:
    """Have a revision lead to a commit from here on. Last of all: until then it leads to what it led to before."""
    revision = revision or constants.DEFAULT_REVISION
    if not COMMIT.fullmatch(revision):
        write_whole(storage_of(name) / "refs" / revision, commit)
