"""The Workers API of Cloudera's platform as its documentation has it, with workers that are real processes of this machine.

`CML_WORKERS` names a directory. `behaviour.json` there says how each worker does that is asked for, the first one first:

    works      it runs its Python, in a session of its own and with the project's variables alone
    cut off    the same, in a network of its own: machine 0's port is closed to it
    fails      it ends with 7 before it runs anything, as where its image cannot be had
    never      the platform takes it on, and never starts it
    refused    launch_workers raises, as over quota

Beside it stand ID.json (what was asked for, and the pid), ID.exit and ID.stopped. A worker's own standard output is
ID.console.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GONE_SECONDS = 5.0


def launch_workers(
    n: int,
    cpu: float,
    memory: float,
    nvidia_gpu: int = 0,
    kernel: str = "python3",
    script: str = "",
    code: str = "",
    env: dict[str, str] | None = None,
    accelerator_label_id: int | None = None,
) -> list[dict[str, Any]]:
    asked = {
        "cpu": cpu, "memory": memory, "nvidia_gpu": nvidia_gpu, "code": code, "env": env or {},
        "accelerator_label_id": accelerator_label_id,
    }  # fmt: skip
    return [_launch(asked) for _ in range(n)]


def list_workers() -> list[dict[str, Any]]:
    return [
        {"id": path.stem, "status": _status(path), "ip_address": "127.0.0.1", "app_url": ""}
        for path in _asked_for()
    ]


def stop_workers(*worker_id: str) -> None:
    assert worker_id, "without ids, every worker of the session is stopped: the kit never means that"
    for id in worker_id:
        _place(f"{id}.stopped").touch()
        pid = json.loads(_place(f"{id}.json").read_text())["pid"]
        if pid is None or not _is_there(pid):
            continue
        # As of a pod: everyone is asked to end, then ended.
        os.killpg(pid, signal.SIGTERM)
        end = time.monotonic() + GONE_SECONDS
        while _is_there(pid) and time.monotonic() < end:
            time.sleep(0.1)
        if _is_there(pid):
            os.killpg(pid, signal.SIGKILL)


def _launch(asked: dict[str, Any]) -> dict[str, Any]:
    kinds = json.loads(_place("behaviour.json").read_text())
    kind = kinds[len(_asked_for())]
    if kind == "refused":
        raise RuntimeError("403: you have reached your quota")
    id = secrets.token_hex(8)
    pid = None
    if kind != "never":
        away = ["unshare", "--user", "--map-root-user", "--net"] if kind == "cut off" else []
        code = "raise SystemExit(7)" if kind == "fails" else asked["code"]
        project = {
            name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "CML_WORKERS")
        }
        with _place(f"{id}.console").open("ab") as console:
            pid = subprocess.Popen(
                [*away, sys.executable, __file__, str(_place(f"{id}.exit")), code],
                env={**project, **asked["env"], "CDSW_MASTER_IP": "127.0.0.1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            ).pid
    _place(f"{id}.json").write_text(
        json.dumps({**asked, "pid": pid, "kind": kind, "number": len(_asked_for())})
    )
    return {"id": id, "app_url": ""}


def _status(path: Path) -> str:
    if path.with_suffix(".stopped").exists():
        return "stopped"
    pid = json.loads(path.read_text())["pid"]
    if pid is None:
        return "scheduling"
    exit = path.with_suffix(".exit")
    if _is_there(pid) and not exit.exists():
        return "running"
    return "succeeded" if exit.exists() and exit.read_text() == "0" else "failed"


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _asked_for() -> list[Path]:
    return [path for path in Path(os.environ["CML_WORKERS"]).glob("*.json") if path.name != "behaviour.json"]


def _place(name: str) -> Path:
    return Path(os.environ["CML_WORKERS"]) / name


if __name__ == "__main__":
    # The worker itself: what it runs, and how that ends.
    ended = subprocess.call([sys.executable, "-c", sys.argv[2]])
    Path(sys.argv[1]).write_text(str(ended))
    sys.exit(ended)
