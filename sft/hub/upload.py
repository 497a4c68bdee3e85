"""Bring one push to the Hub, so that however often it is tried there is one commit.

Look at what the branch holds; send what differs, as one commit on exactly that state (`parent_commit`); look at
what the commit holds. A try that finds everything there has nothing to do. A commit carries its push's id, so that
one whose answer was lost is known again even where somebody changed the files since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.hf_api import RepoFile

from sft.hub.client import TryAgainError
from sft.hub.journal import PushRequest, is_late, write_whole
from sft.hub.select import checkpoint_folder
from sft.hub.snapshot import altered, held_files, sent_marker
from sft.rundir import RunDirectory

_CHUNK = 1 << 22

Held = Mapping[str, RepoFile]


class AlteredError(Exception):
    """A file is not what it was when the push was asked for; the text names it."""


class ConflictError(Exception):
    """Somebody else changed the same files on the Hub while the push was under way; the text names them."""


class Hashes:
    """Hashes of files, each read once: links to one file, and what was not written to since, are not read again."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int, int], str] = {}

    def sha256(self, path: Path) -> str:
        """Hash a file as LFS does."""
        return self._hash("sha256", path)

    def blob(self, path: Path) -> str:
        """Hash a file as git does."""
        return self._hash("sha1", path, b"blob %d\0" % path.stat().st_size)

    def _hash(self, kind: str, path: Path, head: bytes = b"") -> str:
        stat = path.stat()
        key = (kind, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if key not in self._known:
            found = hashlib.new(kind, head)
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(_CHUNK):
                    found.update(chunk)
            self._known[key] = found.hexdigest()
        return self._known[key]


class Uploader:
    """One push on its way; `bring` may be called again after any error."""

    def __init__(self, run: RunDirectory, request: PushRequest, api: HfApi) -> None:
        self._run = run
        self._request = request
        self._api = api
        self._hashes = Hashes()
        self._first_look: Held | None = None

    def bring(self) -> tuple[str, str]:
        """Return the repository and the address of the commit that holds the push.

        Raises:
            SnapshotGoneError, AlteredError: the files are not what was to be pushed.
            ConflictError: somebody else pushes to the same files.
            TryAgainError: the Hub is not well, or the branch has moved.
            HfHubHTTPError: the Hub refuses.
        """
        files = self._files()
        if name := altered(self._run, self._request, self._hashes.sha256):
            raise AlteredError(name)
        repo, revision = self._place()
        head = str(self._api.model_info(repo, revision=revision).sha)
        held = self._look(repo, head)
        todo = self._differing(files, held)
        stale = self._stale(files, held)
        if not todo and not stale:
            return repo, self._url(repo, head)
        marker = sent_marker(self._run, self._request)
        if marker.exists() and (oid := self._landed(repo, revision)):
            return repo, self._url(repo, oid)
        self._refuse_conflict(todo, held)
        write_whole(marker, head)
        oid = self._commit(repo, revision, head, {name: files[name] for name in todo}, stale)
        if wrong := self._differing(files, self._look(repo, oid)):
            marker.unlink()
            self._first_look = None
            raise TryAgainError(f"it holds {', '.join(wrong)} otherwise than was sent")
        return repo, self._url(repo, oid)

    def _files(self) -> dict[str, Path]:
        """Name what to bring: all of the push, or its own folder where a later one has come before it."""
        folder = f"{checkpoint_folder(self._request)}/"
        late = is_late(self._run, self._request)
        return {
            upload.path_in_repo: upload.path
            for upload in held_files(self._run, self._request)
            if not late or upload.path_in_repo.startswith(folder)
        }

    def _place(self) -> tuple[str, str]:
        """Make the repository and the branch where they are missing."""
        request = self._request
        try:
            repo = self._api.create_repo(request.repo, private=request.private, exist_ok=True).repo_id
        except KeyError as error:
            # The library reads the repository's address from a 409 too, which need not have it.
            raise TryAgainError("it answers 409 and does not say what is there", status=409) from error
        revision = request.revision or constants.DEFAULT_REVISION
        if revision != constants.DEFAULT_REVISION and not revision.startswith("refs/"):
            self._api.create_branch(repo, branch=revision, exist_ok=True)
        return repo, revision

    def _look(self, repo: str, commit: str) -> Held:
        """List the files of a commit."""
        tree = self._api.list_repo_tree(repo, recursive=True, revision=commit)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def _differing(self, files: Mapping[str, Path], held: Held) -> list[str]:
        """Name the files that the Hub does not hold as they are here."""
        return [name for name, path in files.items() if not self._is_same(path, held.get(name))]

    def _is_same(self, path: Path, entry: RepoFile | None) -> bool:
        if entry is None or entry.size != path.stat().st_size:
            return False
        if entry.lfs is not None:
            return bool(entry.lfs.sha256 == self._hashes.sha256(path))
        return entry.blob_id == self._hashes.blob(path)

    def _stale(self, files: Mapping[str, Path], held: Held) -> list[str]:
        """Name what an earlier checkpoint left in the folder of the last one."""
        if checkpoint_folder(self._request) != "last-checkpoint":
            return []
        return sorted(name for name in held if name.startswith("last-checkpoint/") and name not in files)

    def _refuse_conflict(self, todo: list[str], held: Held) -> None:
        """Give way to somebody else's commit only where it touches what is still to be sent."""
        if self._first_look is None:
            self._first_look = held
        before = self._first_look
        ours = [name for name in todo if _identity(held.get(name)) != _identity(before.get(name))]
        if ours:
            raise ConflictError(", ".join(ours))

    def _commit(
        self, repo: str, revision: str, parent: str, files: Mapping[str, Path], stale: list[str]
    ) -> str:
        request = self._request
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for name, path in files.items():
            operations.append(addition := CommitOperationAdd(name, path))
            # The library would read the file once more for it.
            addition.upload_info.sha256 = bytes.fromhex(self._hashes.sha256(path))
        operations += [CommitOperationDelete(name, is_folder=False) for name in stale]
        commit = self._api.create_commit(
            repo,
            operations,
            commit_message="End of training"
            if request.kind == "end"
            else f"Training in progress, step {request.step}",
            commit_description=_signature(request),
            revision=revision,
            parent_commit=parent,
        )
        return str(commit.oid)

    def _landed(self, repo: str, revision: str) -> str | None:
        """Find the commit of this push, where an earlier try was killed or lost its answer after making it."""
        commits = self._api.list_repo_commits(repo, revision=revision)
        signature = _signature(self._request)
        return next((commit.commit_id for commit in commits if signature in commit.message), None)

    def _url(self, repo: str, oid: str) -> str:
        return f"{self._api.endpoint}/{repo}/commit/{oid}"


def _signature(request: PushRequest) -> str:
    return f"sft-push: {request.id}"


def _identity(entry: RepoFile | None) -> tuple[str, int] | None:
    return None if entry is None else (entry.blob_id, entry.size)
