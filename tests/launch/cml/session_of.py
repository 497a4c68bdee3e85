"""A session of Cloudera's platform for tests: the variables that one has, and workers that are processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

HERE = Path(__file__).parent
SESSION = HERE / "session"
CLIENT = HERE / "client"
VARIABLES = {
    "CDSW_IP_ADDRESS": "127.0.0.1",
    "CDSW_CPU_MILLICORES": "2000",
    "CDSW_MEMORY_MB": "4096",
    "CDSW_CREATOR": "me",
}


@dataclass(frozen=True)
class Session:
    """The platform's side of it."""

    directory: Path

    def behave(self, *kinds: str) -> None:
        """Say how each worker does, in the order in which they are asked for."""
        (self.directory / "behaviour.json").write_text(json.dumps(kinds))

    def workers(self) -> list[dict[str, Any]]:
        """Return what was asked for, the first one first, each with its id and status."""
        from cml import workers_v1  # type: ignore[import-not-found]

        status = {worker["id"]: worker["status"] for worker in workers_v1.list_workers()}
        found = [
            {"id": id, "status": status[id], **json.loads((self.directory / f"{id}.json").read_text())}
            for id in status
        ]
        return sorted(found, key=lambda worker: worker["number"])

    def console(self, id: str) -> str:
        """Return what a worker has printed for itself."""
        return (self.directory / f"{id}.console").read_text()


def forget_modules() -> None:
    """Have the platform's modules be looked for anew."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("cml", "cdsw", "cmlapi")]:
        del sys.modules[name]


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session in which every worker works, unless it is told otherwise."""
    made = Session(tmp_path / "platform")
    made.directory.mkdir()
    made.behave("works", "works", "works")
    monkeypatch.syspath_prepend(SESSION)
    monkeypatch.setenv("PYTHONPATH", str(SESSION))
    monkeypatch.setenv("CML_WORKERS", str(made.directory))
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    forget_modules()
    yield made
    for path in made.directory.glob("*.json"):
        asked = json.loads(path.read_text())
        if isinstance(asked, dict) and asked["pid"] is not None:
            with suppress(ProcessLookupError):
                os.killpg(asked["pid"], signal.SIGKILL)
    forget_modules()


def left_of(directory: Path) -> list[str]:
    """List the processes that still have to do with a run directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if str(directory) in " ".join(words) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(words))
    return found
