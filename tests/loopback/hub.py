"""A Hugging Face Hub on the loopback: the HTTP API that huggingface_hub's uploads speak, held in memory.

Model repositories only, and the classic LFS transfer (set HF_HUB_DISABLE_XET=1). `Hub.fault` makes any
request of the sequence refuse, wait, hang or lose its connection.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.loopback.hub_store import USER, Answer, Commit, Store, branch_oid, check_card

TOKEN = "hf_loopbackSecret0123456789"
TEAM = {"name": "team", "roleInOrg": "write"}
"""The organisation that the user is in."""


@dataclass
class Fault:
    """What goes wrong at the requests whose `METHOD path` matches, `times` times after the first `skip`."""

    request: re.Pattern[str]
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    hang: bool = False
    reset: bool = False
    half: bool = False  # cut the connection in the middle of what is sent
    lose_answer: bool = False  # do what was asked, then cut the connection
    kill_before: bool = False  # kill the process `kill` when the request has come in
    kill_after: bool = False  # the same, once what was asked is done
    kill: int = 0
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


class Hub(Store):
    """The server, what it holds, and what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[str] = []
        self.received = bytearray()  # all that was sent here, but for the Authorization header
        self.unknown: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.identity: dict[str, Any] = {"type": "user", "name": USER, "fullname": USER, "orgs": [TEAM]}
        self.gated: set[str] = set()  # whose files nobody is given
        self.datasets: set[str] = set()
        handler = type("BoundHandler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
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


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # of 5, the usual, the kernel lets others wait for a second


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
        with self.hub.lock:
            self.hub.requests.append(request)
            fault = next((fault for fault in self.hub.faults if fault.take(request)), None)
        if fault is not None and fault.half:
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self._cut()
        body = self._body()
        headers = [
            f"{name}: {value}" for name, value in self.headers.items() if name.lower() != "authorization"
        ]
        with self.hub.lock:
            self.hub.received += "\n".join([self.requestline, *headers, ""]).encode() + body
        if fault is not None:
            time.sleep(fault.delay_seconds)
            if fault.hang:
                self.hub.closing.wait()
            if fault.kill_before:
                os.kill(fault.kill, signal.SIGKILL)
            if fault.hang or fault.reset or fault.kill_before:
                return self._cut()
            if fault.status is not None:
                return self._reply(Answer(fault.status, {"error": f"fault {fault.status}"}, **fault.headers))
        answer = self._answer(request, body)
        if fault is not None and fault.kill_after:
            os.kill(fault.kill, signal.SIGKILL)
        if fault is not None and (fault.lose_answer or fault.kill_after):
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
            return hub.identity
        if request == "POST /api/repos/create":
            return hub.create(json.loads(body))
        if request == "POST /api/validate-yaml":
            return check_card(json.loads(body)["content"])
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
        if match := re.fullmatch(r"GET /api/models/([^/]+/[^/]+)/commits/(.+)", request):
            return hub.history(match[1], unquote(match[2]))
        if match := re.fullmatch(r"GET /api/models/([^/]+/[^/]+)/refs", request):
            hub.branch(match[1], "main")
            names = hub.repositories[match[1]].branches
            heads = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": names[name].head}
                for name in names
            ]
            return {"branches": heads, "tags": [], "converts": []}
        if match := re.fullmatch(r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?", request):
            gated = {"gated": "manual"} if match[1] in hub.gated else {}
            return hub.info(match[1], unquote(match[2] or "main")) | gated
        if match := re.fullmatch(r"GET /api/datasets/([^/]+/[^/]+)", request):
            if match[1] not in hub.datasets:
                raise Answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return {"id": match[1], "sha": "0" * 40, "private": False, "gated": False, "siblings": []}
        if match := re.fullmatch(r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request):
            if match[1] in hub.gated:
                raise Answer(403, {"error": "Access to it is restricted"}, X_Error_Code="GatedRepo")
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
