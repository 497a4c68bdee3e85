"""A Hugging Face Hub on the loopback: the HTTP API that huggingface_hub's uploads speak, held in memory.

Model repositories only, and the classic LFS transfer (set HF_HUB_DISABLE_XET=1). `Hub.fault` makes any
request of the sequence refuse, wait, hang or lose its connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

TOKEN = "hf_loopbackSecret0123456789"
USER = "tester"
# What the Hub's own .gitattributes sends through LFS, as far as a training run can meet it.
LFS_NAMES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.model", "*.pkl", "*.npz", "*tfevents*", "*.zip")


@dataclass
class Commit:
    """One commit: what it brought and took away."""

    oid: str
    message: str
    added: dict[str, bytes]
    deleted: set[str]


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


@dataclass
class Fault:
    """What goes wrong at the requests whose `METHOD path` matches, `times` times after the first `skip`."""

    request: re.Pattern[str]
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    hang: bool = False
    reset: bool = False
    lose_answer: bool = False  # do what was asked, then cut the connection
    skip: int = 0
    times: int | None = None

    def take(self, request: str) -> bool:
        """Whether this request is hit; counts it."""
        if self.times == 0 or not self.request.search(request):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Answer(Exception):
    """Leave a route with this status and body."""

    def __init__(self, status: int, body: Any = None, **headers: str) -> None:
        self.status = status
        self.body = body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Hub:
    """The server, what it holds, and what was asked of it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.sent: dict[str, bytes] = {}  # uploaded, and not verified yet
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.unknown: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering: from here on the Hub is out of reach."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """The environment of a process that knows this Hub only; `home` keeps the machine's login out."""
        environment = {
            **os.environ,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        environment.pop("HF_TOKEN", None)
        return environment | ({"HF_TOKEN": token} if token else {})

    def fault(self, request: str, **how: Any) -> Fault:
        """Add a fault for the requests that match the regular expression, such as `POST .*/commit/`."""
        fault = Fault(re.compile(request), **how)
        with self.lock:
            self.faults.append(fault)
        return fault

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The files of one branch, without the .gitattributes that every repository starts with."""
        with self.lock:
            held = dict(self.repositories[repo].branches[revision].files)
        held.pop(".gitattributes")
        return held

    def commits(self, repo: str, revision: str = "main") -> list[Commit]:
        """The commits of one branch after the one that made it, oldest first."""
        with self.lock:
            return self.repositories[repo].branches[revision].commits[1:]

    # --- what the API does ---

    def branch(self, repo: str, revision: str) -> Branch:
        if repo not in self.repositories:
            raise Answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        branches = self.repositories[repo].branches
        if revision not in branches:
            raise Answer(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
        return branches[revision]

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        repo = f"{body.get('organization') or USER}/{body['name']}"
        known = {"url": f"{self.url}/{repo}", "name": repo, "id": repo}
        if repo in self.repositories:
            raise Answer(409, {"error": "You already created this model repo", **known})
        first = Branch({".gitattributes": b"*.safetensors filter=lfs\n"})
        first.commits.append(Commit(_digest(repo), "initial commit", {}, set()))
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
        branch.commits.append(Commit(oid, header["summary"], added, deleted))
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{repo}/commit/{oid}"}

    def tree(self, repo: str, revision: str, folder: str) -> list[dict[str, Any]]:
        branch = self.branch(repo, revision)
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        found = [
            {"type": "file", "path": path, "size": len(data), "oid": branch_oid(branch, path)}
            for path, data in sorted(branch.files.items())
            if path.startswith(prefix)
        ]
        if prefix and not found:
            raise Answer(404, {"error": f"{folder} does not exist"}, X_Error_Code="EntryNotFound")
        return found

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
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _digest(*words: str) -> str:
    return hashlib.sha1("\0".join(words).encode()).hexdigest()


def _check_card(content: str) -> dict[str, Any]:
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


class _Handler(BaseHTTPRequestHandler):
    """Read one request, apply the faults, and route it."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `Hub.requests` keeps what was asked."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ValueError):
            self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _body(self) -> bytes:
        headers: Message = self.headers
        if headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(headers.get("Content-Length", 0)))

    def _cut(self) -> None:
        """Close with a reset rather than an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _serve(self) -> None:
        request = f"{self.command} {urlsplit(self.path).path}"
        body = self._body()
        with self.hub.lock:
            self.hub.requests.append(request)
            fault = next((fault for fault in self.hub.faults if fault.take(request)), None)
        if fault is not None:
            time.sleep(fault.delay_seconds)
            if fault.hang:
                self.hub.closing.wait()
            if fault.hang or fault.reset:
                return self._cut()
            if fault.status is not None:
                return self._reply(Answer(fault.status, {"error": f"fault {fault.status}"}, **fault.headers))
        answer = self._answer(request, body)
        if fault is not None and fault.lose_answer:
            return self._cut()
        return self._reply(answer)

    def _answer(self, request: str, body: bytes) -> Answer:
        try:
            with self.hub.lock:
                return Answer(200, self._route(request, body))
        except Answer as answer:
            return answer

    def _reply(self, answer: Answer) -> None:
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _route(self, request: str, body: bytes) -> Any:
        hub = self.hub
        for pattern, open_to_all in ((r"HEAD /api/telemetry/", True), (r"PUT /lfs/", True), (r"", False)):
            if re.match(pattern, request):
                if not open_to_all and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    raise Answer(401, {"error": "Invalid credentials in Authorization header"})
                break
        if request.startswith("HEAD /api/telemetry/"):
            return {}
        if match := re.fullmatch(r"PUT /lfs/(\w+)", request):
            if hashlib.sha256(body).hexdigest() != match[1]:
                raise Answer(400, {"error": "the content is not what its name says"})
            hub.sent[match[1]] = body
            return {}
        if match := re.fullmatch(r"POST /lfs/(\w+)/verify", request):
            if match[1] not in hub.sent:
                raise Answer(404, {"error": "Object not found"})
            hub.objects[match[1]] = hub.sent[match[1]]
            return {}
        if request == "GET /api/whoami-v2":
            return {"type": "user", "name": USER, "fullname": USER, "orgs": []}
        if request == "POST /api/repos/create":
            return hub.create(json.loads(body))
        if request == "POST /api/validate-yaml":
            return _check_card(json.loads(body)["content"])
        if match := re.fullmatch(r"POST /(.+)\.git/info/lfs/objects/batch", request):
            return hub.lfs_batch(json.loads(body))
        if match := re.fullmatch(r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", request):
            return hub.preupload(match[1], unquote(match[2]), json.loads(body))
        if match := re.fullmatch(r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", request):
            return hub.commit(match[1], unquote(match[2]), [json.loads(line) for line in body.splitlines()])
        if match := re.fullmatch(r"POST /api/models/([^/]+/[^/]+)/branch/(.+)", request):
            return hub.create_branch(match[1], unquote(match[2]))
        return self._read(request)

    def _read(self, request: str) -> Any:
        hub = self.hub
        if match := re.fullmatch(r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", request):
            return hub.tree(match[1], unquote(match[2]), unquote(match[3]))
        if match := re.fullmatch(r"GET /api/models/([^/]+/[^/]+)/refs", request):
            hub.branch(match[1], "main")
            names = hub.repositories[match[1]].branches
            heads = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": names[name].head}
                for name in names
            ]
            return {"branches": heads, "tags": [], "converts": []}
        if match := re.fullmatch(r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?", request):
            return hub.info(match[1], unquote(match[2] or "main"))
        if match := re.fullmatch(r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request):
            branch = hub.branch(match[1], unquote(match[2]))
            path = unquote(match[3])
            if path not in branch.files:
                raise Answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            raise Answer(
                200,
                branch.files[path],
                ETag=f'"{branch_oid(branch, path)}"',
                X_Repo_Commit=branch.head,
            )
        hub.unknown.append(request)
        raise Answer(501, {"error": f"this Hub does not know {request}"})


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub of its own for each test; every request that it met must be one that it knows."""
    with Hub() as server:
        yield server
    assert server.unknown == []
