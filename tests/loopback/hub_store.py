"""What the loopback Hub holds, and what its API does with it: repositories, branches, commits, LFS objects."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

USER = "tester"
# What the Hub's own .gitattributes sends through LFS, as far as a training run can meet it.
LFS_NAMES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.model", "*.pkl", "*.npz", "*tfevents*", "*.zip")


@dataclass
class Commit:
    """One commit: what it brought and took away, and all that it holds."""

    oid: str
    message: str
    description: str
    added: dict[str, bytes]
    deleted: set[str]
    files: dict[str, bytes]
    lfs: set[str]


@dataclass
class Branch:
    """The files of one branch, and how they came."""

    files: dict[str, bytes] = field(default_factory=dict)
    lfs: set[str] = field(default_factory=set)
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> str:
        return self.commits[-1].oid


@dataclass
class Repository:
    """One model repository."""

    visibility: str
    branches: dict[str, Branch]


class Answer(Exception):
    """Leave a route with this status and body."""

    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status = status
        self.body = body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Store:
    """Model repositories in memory. Every method is one route, and raises Answer for anything but 200."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.sent: dict[str, bytes] = {}  # uploaded, and not verified yet
        self.objects: dict[str, bytes] = {}

    def branch(self, repo: str, revision: str) -> Branch:
        if repo not in self.repositories:
            raise Answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        branches = self.repositories[repo].branches
        if revision not in branches:
            for branch in branches.values():
                for index, commit in enumerate(branch.commits):
                    if commit.oid == revision:
                        return Branch(commit.files, commit.lfs, branch.commits[: index + 1])
            raise Answer(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
        return branches[revision]

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        repo = f"{body.get('organization') or USER}/{body['name']}"
        known = {"url": f"{self.url}/{repo}", "name": repo, "id": repo}
        if repo in self.repositories:
            raise Answer(409, {"error": "You already created this model repo", **known})
        first = Branch({".gitattributes": b"*.safetensors filter=lfs\n"})
        first.commits.append(Commit(_digest(repo), "initial commit", "", {}, set(), dict(first.files), set()))
        self.repositories[repo] = Repository(body.get("visibility", "public"), {"main": first})
        return known

    def create_branch(self, repo: str, name: str) -> None:
        main = self.branch(repo, "main")
        branches = self.repositories[repo].branches
        if name in branches:
            raise Answer(409, {"error": f"Reference already exists: {name}"})
        branches[name] = Branch(dict(main.files), set(main.lfs), list(main.commits[:1]))

    def preupload(self, repo: str, revision: str, body: dict[str, Any]) -> dict[str, Any]:
        branch = self.branch(repo, revision)
        files = []
        for item in body["files"]:
            path = item["path"]
            name = path.rsplit("/", 1)[-1]
            large = item["size"] > 10_000_000 or any(fnmatch(name, pattern) for pattern in LFS_NAMES)
            files.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": branch_oid(branch, path),
                }
            )
        return {"files": files}

    def lfs_batch(self, body: dict[str, Any]) -> dict[str, Any]:
        objects: list[dict[str, Any]] = []
        for item in body["objects"]:
            oid = item["oid"]
            upload = {"href": f"{self.url}/lfs/{oid}", "header": {}}
            verify = {"href": f"{self.url}/lfs/{oid}/verify", "header": {}}
            entry: dict[str, Any] = {"oid": oid, "size": item["size"]}
            if oid not in self.objects:
                entry["actions"] = {"upload": upload, "verify": verify}
            objects.append(entry)
        return {"transfer": "basic", "objects": objects}

    def commit(self, repo: str, revision: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        branch = self.branch(repo, revision)
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, branch.head):
            raise Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        added: dict[str, bytes] = {}
        large: set[str] = set()
        deleted: set[str] = set()
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Answer(400, {"error": f"LFS object {value['oid']} was never uploaded"})
                added[value["path"]] = self.objects[value["oid"]]
                large.add(value["path"])
            elif line["key"] == "deletedFile":
                if value["path"] not in branch.files:
                    raise Answer(
                        404, {"error": "A file with this name doesn't exist"}, X_Error_Code="EntryNotFound"
                    )
                deleted.add(value["path"])
            else:
                raise Answer(501, {"error": f"operation {line['key']}"})
        for path in deleted:
            del branch.files[path]
        branch.files.update(added)
        branch.lfs = (branch.lfs - deleted - set(added)) | large
        oid = _digest(branch.head, header["summary"], *sorted(added))
        commit = Commit(
            oid,
            header["summary"],
            header.get("description", ""),
            added,
            deleted,
            dict(branch.files),
            set(branch.lfs),
        )
        branch.commits.append(commit)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{repo}/commit/{oid}"}

    def tree(self, repo: str, revision: str, folder: str) -> list[dict[str, Any]]:
        branch = self.branch(repo, revision)
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        found = [
            {"type": "file", "path": path, "size": len(data), **_ids(branch, path)}
            for path, data in sorted(branch.files.items())
            if path.startswith(prefix)
        ]
        folders = {str(parent) for entry in found for parent in PurePosixPath(entry["path"]).parents} - {"."}
        found += [
            {"type": "directory", "path": folder, "size": 0, "oid": _digest(folder)}
            for folder in sorted(folders)
            if folder.startswith(prefix)
        ]
        if prefix and not found:
            raise Answer(404, {"error": f"{folder} does not exist"}, X_Error_Code="EntryNotFound")
        return found

    def history(self, repo: str, revision: str) -> list[dict[str, Any]]:
        return [
            {
                "id": commit.oid,
                "title": commit.message,
                "message": commit.description,
                "authors": [{"user": USER}],
                "date": "2026-01-01T00:00:00.000Z",
            }
            for commit in reversed(self.branch(repo, revision).commits)
        ]

    def add_by_hand(self, repo: str, revision: str, path: str, data: bytes) -> None:
        """Commit a file as somebody else would, on the Hub's own page."""
        file = {"key": "file", "value": {"path": path, "content": base64.b64encode(data)}}
        header = {"key": "header", "value": {"summary": f"Update {path}"}}
        self.commit(repo, revision, [header, file])

    def info(self, repo: str, revision: str) -> dict[str, Any]:
        branch = self.branch(repo, revision)
        return {
            "_id": "0",
            "id": repo,
            "modelId": repo,
            "sha": branch.head,
            "private": self.repositories[repo].visibility == "private",
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [{"rfilename": path} for path in sorted(branch.files)],
        }


def branch_oid(branch: Branch, path: str) -> str | None:
    """The id that the Hub compares a file by: its sha256 in LFS, its git blob hash otherwise."""
    data = branch.files.get(path)
    if data is None:
        return None
    if path in branch.lfs:
        return hashlib.sha256(data).hexdigest()
    return _blob(data)


def _ids(branch: Branch, path: str) -> dict[str, Any]:
    """How a listing names a file's content: in LFS the git hash is that of the pointer."""
    oid = branch_oid(branch, path)
    if path not in branch.lfs:
        return {"oid": oid}
    size = len(branch.files[path])
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
    return {"oid": _blob(pointer), "lfs": {"oid": oid, "size": size, "pointerSize": len(pointer)}}


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _digest(*words: str) -> str:
    return hashlib.sha1("\0".join(words).encode()).hexdigest()


def check_card(content: str) -> dict[str, Any]:
    """What /api/validate-yaml does: the metadata at the head of a README must be YAML."""
    match = re.match(r"\A---\n(.*?)\n---\n", content, re.DOTALL)
    try:
        metadata = YAML(typ="safe").load(match.group(1)) if match else None
    except YAMLError as error:
        raise Answer(400, {"errors": [{"message": str(error)}], "warnings": []}) from error
    base_model = (metadata or {}).get("base_model")
    if base_model is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+|[\w.-]+", base_model):
        raise Answer(400, {"errors": [{"message": '"base_model" is not a repository'}], "warnings": []})
    return {"errors": [], "warnings": []}
