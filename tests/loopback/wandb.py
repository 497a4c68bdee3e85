"""A W&B server on the loopback, good enough for the real client's online mode.

It answers the GraphQL operations that wandb 0.31 sends for a run (viewer, resume status, upsert, upload
URLs) and takes the file stream, so that a test can look at the history rows that really arrived. It does
not check that a key is right, only that one was sent.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

API_KEY = "0123456789abcdef0123456789abcdef01234567"
ENTITY = "tester"


@dataclass
class ReceivedRun:
    """One W&B run as the server holds it."""

    name: str
    project: str
    display_name: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)
    streams: int = 0
    exit_code: int | None = None
    preempting: bool = False

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of its charts, in order."""
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    def values(self, metric: str) -> dict[int, Any]:
        """One chart: value by W&B step. A step that came twice is an error."""
        steps = [row["_step"] for row in self.history if metric in row]
        assert len(steps) == len(set(steps)), f"steps came twice: {steps}"
        return {row["_step"]: row[metric] for row in self.history if metric in row}


class WandbServer:
    """Serve in a thread until closed; `runs` is what was received, by run id."""

    def __init__(self) -> None:
        self.runs: dict[str, ReceivedRun] = {}
        self.received = bytearray()  # all that was sent here, but for the Authorization header
        self.operations: list[str] = []
        self.unknown: list[str] = []
        self.answering = True
        self.refusing = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.handle(self)

            do_GET = do_PUT = do_POST

            def log_message(self, *arguments: object) -> None:
                """Stay quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._released = threading.Event()
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request; hold it while the server plays dead, refuse it while it refuses."""
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        headers = [
            f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "authorization"
        ]
        self.received += "\n".join([request.requestline, *headers, ""]).encode() + body
        if not self.answering:
            self._released.wait(120)
        if self.refusing:
            self._send(request, 401, {"errors": [{"message": "permission denied"}]})
        elif request.path == "/graphql":
            assert request.headers.get("authorization", "").startswith("Basic ")
            asked = json.loads(body)
            self._send(
                request, 200, {"data": self._graphql(asked["operationName"], asked.get("variables", {}))}
            )
        elif request.path.endswith("/file_stream"):
            self._file_stream(request.path.split("/")[-2], json.loads(body))
            self._send(request, 200, {"exitcode": None, "limits": {}})
        else:
            self._send(request, 200, {})

    def _send(self, request: BaseHTTPRequestHandler, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("content-type", "application/json")
        request.send_header("content-length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        self.operations.append(operation)
        answers = {
            "Viewer": self._viewer,
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert,
            "CreateRunFiles": self._create_files,
            "OrganizationCoreWeaveOrganizationID": self._organization,
        }
        if operation not in answers:
            self.unknown.append(operation)
            return {}
        return answers[operation](variables)

    def _organization(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def _viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {
            "viewer": {
                "id": "VXNlcjox",
                "entity": ENTITY,
                "username": ENTITY,
                "email": "tester@example.org",
                "flags": "{}",
                "teams": {"edges": []},
            }
        }

    def _project(self, run: ReceivedRun) -> dict[str, Any]:
        return {"id": "UHJvamVjdDox", "name": run.project, "entity": {"id": "RW50aXR5OjE=", "name": ENTITY}}

    def _resume_status(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        model: dict[str, Any] = {
            "id": "UHJvamVjdDox",
            "name": variables["project"],
            "entity": {"id": "RW50aXR5OjE=", "name": ENTITY},
            "bucket": None,
        }
        if run is not None:
            history = run.lines.get("wandb-history.jsonl", [])
            events = run.lines.get("wandb-events.jsonl", [])
            model["bucket"] = {
                "id": f"run-{run.name}",
                "name": run.name,
                "summaryMetrics": json.dumps(run.summary),
                "displayName": run.display_name,
                "logLineCount": len(run.lines.get("output.log", [])),
                "historyLineCount": len(history),
                "eventsLineCount": len(events),
                "historyTail": json.dumps(history[-1:]),
                "eventsTail": json.dumps(events[-1:]),
                "config": json.dumps(run.config),
                "tags": [],
                "notes": None,
                "wandbConfig": json.dumps({"t": run.config.get("_wandb", {}).get("value", {}).get("t", {})}),
            }
        return {"model": model}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        inserted = variables["name"] not in self.runs
        run = self.runs.setdefault(variables["name"], ReceivedRun(variables["name"], variables["project"]))
        run.display_name = variables["displayName"] or run.display_name or "made-up-name-1"
        run.config.update(json.loads(variables["config"] or "{}"))
        bucket = {
            "id": f"run-{run.name}",
            "name": run.name,
            "displayName": run.display_name,
            "description": "",
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": self._project(run),
            "historyLineCount": len(run.lines.get("wandb-history.jsonl", [])),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _create_files(self, variables: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
        return {"createRunFiles": {"runID": f"run-{variables['run']}", "uploadHeaders": [], "files": files}}

    def _file_stream(self, name: str, body: dict[str, Any]) -> None:
        run = self.runs[name]
        run.streams += 1
        for file, chunk in body.get("files", {}).items():
            if file == "wandb-summary.json":
                run.summary = json.loads(chunk["content"][-1])
                continue
            held = run.lines.setdefault(file, [])
            held[chunk["offset"] :] = chunk["content"]
        run.preempting = run.preempting or bool(body.get("preempting"))
        if body.get("complete"):
            run.exit_code = body["exitcode"]


@pytest.fixture
def wandb_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server, with the environment that makes wandb speak to it; child processes inherit it."""
    server = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield server
    server.close()
