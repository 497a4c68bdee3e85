"""A W&B server in a process of its own, to run on the login node: `python -m tests.slurm.login_wandb`.

Prints its address, and on SIGTERM what it has received: run -> the step of every row with a loss, as JSON.
"""

from __future__ import annotations

import json
import signal
import threading

from tests.loopback.wandb import WandbServer


def main() -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    server = WandbServer()
    print(server.url, flush=True)
    over.wait()
    steps = {
        name: [row["train/global_step"] for row in run.history if "train/loss" in row]
        for name, run in server.runs.items()
    }
    print(json.dumps(steps), flush=True)


if __name__ == "__main__":
    main()
