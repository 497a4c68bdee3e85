"""A loopback Hub to download from: models and data sets, ranges, gated and private repositories, slow bodies.

What `tests.loopback.hub` is for uploads. Reading needs no token here, unless a repository is gated or private.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.hub import TOKEN, Hub, _Handler
from tests.loopback.hub_store import LFS_NAMES, Answer, Branch, Commit, Repository, _digest
from tests.loopback.hub_store import fnmatch as matches

DATASETS = "datasets/"
"""How the repositories of data sets are told from models in `Hub.repositories`."""
BODY = re.compile(r"GET /.*/resolve/")
"""Requests that transfer the bytes of a file."""


class FilesHub(Hub):
    """A Hub that holds what was put there, and counts what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self._server.RequestHandlerClass = type("BoundFilesHandler", (_FilesHandler,), {"hub": self})
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.refuse_tokens = False
        self.stall_after: dict[str, int] = {}
        """By file name: how many bytes of its body are sent before the server falls silent."""
        self.stalled = threading.Event()
        self.ranges: list[str] = []
        self.knows_ranges = True
        self.file_bytes: Counter[str] = Counter()
        """By file name: how many bytes of it were sent."""
        self.spoil: set[str] = set()
        """Names of files whose bytes arrive changed."""

    def put(self, repo: str, files: Mapping[str, bytes], *, revision: str = "main") -> str:
        """Commit files to a repository (`datasets/OWNER/NAME` for a data set) and return the commit."""
        held = self.repositories.setdefault(repo, Repository("public", {}))
        branch = held.branches.setdefault(revision, Branch({".gitattributes": b"*.safetensors filter=lfs\n"}))
        branch.files.update(files)
        branch.lfs |= {
            path
            for path in files
            if any(matches(path.rsplit("/", 1)[-1], name) for name in (*LFS_NAMES, "*.parquet"))
        }
        oid = _digest(repo, revision, str(len(branch.commits)), *sorted(files))
        branch.commits.append(Commit(oid, "put", "", dict(files), set(), dict(branch.files), set(branch.lfs)))
        return oid

    def put_directory(self, repo: str, directory: Path, **more: bytes) -> str:
        """Commit the files of a directory, and others by name (`__` for `/`)."""
        files = {
            path.relative_to(directory).as_posix(): path.read_bytes()
            for path in directory.rglob("*")
            if path.is_file()
        }
        return self.put(repo, files | more)

    @property
    def bodies(self) -> list[str]:
        """The requests that transferred a file."""
        return [request for request in self.requests if BODY.match(request)]


class _FilesHandler(_Handler):
    hub: FilesHub

    def _route(self, request: str, body: bytes) -> Any:
        hub = self.hub
        match = re.match(r"(\w+) /(?:api/)?(?:models/)?((?:datasets/)?[^/]+/[^/]+)", request)
        repo = match[2] if match else ""
        token = self.headers.get("Authorization")
        if token is not None and (hub.refuse_tokens or token != f"Bearer {TOKEN}"):
            message = "Invalid credentials in Authorization header"
            raise Answer(401, {"error": message}, X_Error_Message=message)
        if repo in hub.private and token is None:
            raise Answer(401, {"error": "Invalid username or password."})
        if repo not in hub.repositories and not request.startswith("HEAD /api/telemetry"):
            # As the Hub does: who has not signed in is not told whether there is such a repository.
            status = 404 if token else 401
            raise Answer(status, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if repo in hub.gated and "/resolve/" in request and token is None:
            what = f"Access to model {repo} is restricted. You must be authenticated to access it."
            raise Answer(401, {"error": what}, X_Error_Code="GatedRepo", X_Error_Message=what)
        if request.startswith("HEAD /api/telemetry"):
            return {}
        if found := re.fullmatch(r"POST (/api/.+)/paths-info/(.+)", request):
            return self._paths_info(repo, found[2], body)
        return self._read(request)

    def _read(self, request: str) -> Any:
        """Read of a data set as of a model whose name begins with `datasets/`."""
        if match := re.fullmatch(r"GET /api/datasets/([^/]+/[^/]+)/(tree/([^/]+)/?(.*))", request):
            return self.hub.tree(DATASETS + match[1], match[3], match[4])
        if match := re.fullmatch(r"GET /api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", request):
            return self.hub.info(DATASETS + match[1], match[2] or "main")
        if match := re.fullmatch(r"(GET|HEAD) /datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request):
            return self._file(DATASETS + match[2], match[3], match[4])
        if match := re.fullmatch(r"(GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request):
            return self._file(match[2], match[3], match[4])
        return super()._read(request)

    def _paths_info(self, repo: str, revision: str, body: bytes) -> Any:
        import json
        from urllib.parse import parse_qs

        text = body.decode()
        asked = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
        return [entry for entry in self.hub.tree(repo, revision, "") if entry["path"] in asked]

    def _file(self, repo: str, revision: str, path: str) -> Any:
        from urllib.parse import unquote

        from tests.loopback.hub_store import branch_oid

        branch, path = self.hub.branch(repo, unquote(revision)), unquote(path)
        if path not in branch.files:
            raise Answer(
                404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=branch.head
            )
        data = branch.files[path]
        headers = {"ETag": f'"{branch_oid(branch, path)}"', "X_Repo_Commit": branch.head}
        if path in self.hub.spoil:
            data = bytes(byte ^ 1 for byte in data[:1]) + data[1:]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.command == "GET" and self.hub.knows_ranges:
            start, end = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            if start >= len(data):
                raise Answer(416, {"error": "Range Not Satisfiable"})
            self.hub.ranges.append(f"{path} from {start}")
            self.hub.file_bytes[path] += end - start
            whole = f"bytes {start}-{end - 1}/{len(data)}"
            raise Answer(206, data[start:end], Content_Range=whole, **headers)
        if self.command == "GET":
            self.hub.file_bytes[path] += len(data)
        raise Answer(200, data, **headers)

    def _reply(self, answer: Answer) -> None:
        """Send an answer; the body of a file that stalls stops in its middle until the server is closed."""
        name = self.path.partition("?")[0].rsplit("/", 1)[-1]
        limit = self.hub.stall_after.get(name) if self.command == "GET" else None
        if limit is None or not isinstance(answer.body, bytes) or len(answer.body) <= limit:
            return super()._reply(answer)
        self.send_response(answer.status)
        for header, value in answer.headers.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[:limit])
        self.wfile.flush()
        self.hub.stalled.set()
        self.hub.closing.wait()
        self._cut()
        return None


@pytest.fixture
def files_hub() -> Iterator[FilesHub]:
    """A Hub to download from; every request that it met must be one that it knows."""
    with FilesHub() as server:
        yield server
    assert server.unknown == []
