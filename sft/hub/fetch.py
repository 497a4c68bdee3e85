"""Bring a model from the Hub into the cache that the run reads: whole or absent, checked, and nothing twice.

The downloads are huggingface_hub's own. What is added: which files, what is left of a download that was killed, the
hashes, and that the revision's name leads to the new commit only when all of it is there.

```
<HF_HUB_CACHE>/models--OWNER--NAME/
  blobs/<hash>                 a file, whole; <hash>.<random>.incomplete is one in the making
  snapshots/<commit>/<path>    links to blobs
  refs/<revision>              the commit; written last
```
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, RepoFile, hf_hub_download, snapshot_download

from sft.errors import ExitCode, UserError
from sft.hub import leftovers
from sft.hub.cached import COMMIT, point_to, storage_of
from sft.hub.client import Deadline, limited_client, with_retries
from sft.hub.hashes import Checked, etag_of, is_right
from sft.hub.wanted import shards_of, small_files, weights_entry

SILENCE_SECONDS = 20.0
"""How long the Hub may say nothing before it is asked again. Shorter than for a push: somebody waits at a terminal."""
ROUNDS = 2
"""How often a file is fetched whose bytes are not those of the Hub."""

Result = TypeVar("Result")


class SilentError(Exception):
    """The Hub began to send, and sends no more."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit."""

    name: str
    revision: str | None
    commit: str
    files: Mapping[str, RepoFile]


@dataclass(frozen=True, slots=True)
class ModelFetch:
    """A model as it will lie in the cache."""

    listing: Listing
    names: tuple[str, ...]

    @property
    def snapshot(self) -> Path:
        """The directory that it is read from."""
        return storage_of(self.listing.name) / "snapshots" / self.listing.commit

    @property
    def bytes(self) -> int:
        """The size of all its files."""
        return sum(self.listing.files[name].size for name in self.names)

    @property
    def absent(self) -> list[RepoFile]:
        """The files that the cache lacks."""
        blobs = storage_of(self.listing.name) / "blobs"
        files = [self.listing.files[name] for name in self.names]
        return [file for file in files if not (blobs / etag_of(file)).exists()]

    @property
    def absent_bytes(self) -> int:
        """How much has to be downloaded."""
        return sum(file.size for file in self.absent)


def patiently(action: Callable[[], Result], say: Callable[[str], None]) -> Result:
    """Talk to the Hub with limits and retries.

    Raises:
        TryAgainError: it is out of reach, or not well.
        SilentError: it stopped in the middle of a file, and went on stopping.
    """

    def attempt() -> Result:
        try:
            return action()
        except httpx2.TransportError as error:
            # huggingface_hub has tried a file again and again by then: once more would take minutes.
            raise SilentError(str(error) or type(error).__name__) from None

    forever = Deadline(None)
    with limited_client(forever, SILENCE_SECONDS):
        return with_retries(attempt, forever, say)


def list_repository(name: str, revision: str | None, repo_type: str = "model") -> Listing:
    """Ask the Hub what a repository holds. A commit is not asked for again."""
    api = HfApi()
    if revision is not None and COMMIT.fullmatch(revision):
        commit = revision
    else:
        found = api.repo_info(name, revision=revision, repo_type=repo_type).sha
        assert found is not None
        commit = found
    entries = api.list_repo_tree(name, recursive=True, revision=commit, repo_type=repo_type)
    return Listing(name, revision, commit, {e.path: e for e in entries if isinstance(e, RepoFile)})


def choose_model(
    name: str,
    revision: str | None,
    *,
    patterns: Sequence[str],
    ignored: Sequence[str],
    weights: bool,
    code: bool,
) -> ModelFetch:
    """Ask the Hub for a model, and choose what a run reads of it. The list of its shards is fetched for that.

    Raises:
        UserError: it has no weights that transformers loads.
    """
    listing = list_repository(name, revision)
    names = small_files(listing.files, patterns, ignored, code=code)
    if weights:
        entry = weights_entry(listing.files)
        if entry is None:
            raise UserError(
                f"{name} has no weights that transformers loads",
                where=f"model_name_or_path, at {listing.commit[:8]}",
                fix="name the repository of the model itself: not of an adapter, nor of GGUF or ONNX files",
                exit_code=ExitCode.ENVIRONMENT,
            )
        names.append(entry)
        if entry.endswith(".index.json"):
            index = hf_hub_download(name, entry, revision=listing.commit)
            shards = shards_of(entry, Path(index).read_text(encoding="utf-8"))
            if absent := [shard for shard in shards if shard not in listing.files]:
                raise UserError(
                    f"{name} is not whole on the Hub: it lacks {absent[0]}, which its {entry} lists",
                    where=f"model_name_or_path, at {listing.commit[:8]}",
                    fix="name another revision with model_revision",
                    exit_code=ExitCode.ENVIRONMENT,
                )
            names += shards
    return ModelFetch(listing, tuple(names))


def bring(fetch: ModelFetch, checked: Checked, say: Callable[[str], None]) -> Path:
    """Download what is absent, check every file's size and hash, and then have the revision lead to it.

    Args:
        checked: remembers what has been hashed before.

    Raises:
        UserError: what comes is not what the Hub says that it has.
        HfHubHTTPError, TryAgainError, SilentError, OSError: see `sft.hub.refusals`.
    """
    listing = fetch.listing
    exact = [glob.escape(name) for name in fetch.names]
    for _ in range(ROUNDS):
        leftovers.finish(listing.name, listing.commit, fetch.absent, checked, say)
        snapshot_download(listing.name, revision=listing.commit, allow_patterns=exact)
        wrong = [
            name for name in fetch.names if not is_right(fetch.snapshot / name, listing.files[name], checked)
        ]
        if not wrong:
            point_to(listing.name, listing.revision, listing.commit)
            return fetch.snapshot
        for name in wrong:
            say(f"{name} is not what the Hub says that it has: removed, and fetched again")
            path = fetch.snapshot / name
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    raise UserError(
        f"{wrong[0]} of {listing.name} comes with other bytes than the Hub says that it has",
        where=str(fetch.snapshot),
        fix="look for a proxy or a mirror (HF_ENDPOINT) between here and the Hub that changes or cuts files; then"
        " fetch again",
        exit_code=ExitCode.ENVIRONMENT,
    )
