"""A Hub in a process of its own, to run on the login node: `python -m tests.slurm.login_hub MODEL DATA OUT`.

Serves the files of MODEL as org/tiny and the rows of DATA as org/chats. Prints the address to fetch from and the one to push
to, and on SIGTERM writes what was pushed below OUT.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from tests.loopback.files import FilesHub
from tests.loopback.hub import Hub


def main(model: str, data: str, out: str) -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with FilesHub() as files, Hub() as hub:
        files.put_directory("org/tiny", Path(model))
        files.put("datasets/org/chats", {"train.jsonl": Path(data).read_bytes()})
        print(files.url, hub.url, flush=True)
        over.wait()
        for name in hub.repositories:
            for path, content in hub.files(name).items():
                target = Path(out) / name / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            print(f"{name}: {len(hub.commits(name))} commits", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
