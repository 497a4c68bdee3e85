"""Be the first process of a host: set up its name, files and network, then reap until killed.

    python host.py DIRECTORY NAME ADDRESS

Runs in namespaces of its own, which die with it. Prints `born` when it exists and `ready` when the network is up; a
node's cable is plugged in between. Imports nothing but the standard library, to start at once.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LOGIN = "login"
NAME_SERVER = Path(__file__).with_name("names.py")
CABLE_SECONDS = 10


def main(directory: Path, name: str, address: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    socket.sethostname(name)
    # The network's part of /sys is that of whoever mounted it.
    mount("-t", "sysfs", "sysfs", "/sys")
    # What one node keeps in memory, no other one sees; other files are shared, as if all were on one file system.
    mount("-t", "tmpfs", "-o", "mode=1777", "shm", "/dev/shm")
    mount("--bind", str(directory / "hosts"), "/etc/hosts")
    mount("--bind", str(directory / "resolv.conf"), "/etc/resolv.conf")
    print("born", flush=True)
    device = "br0" if name == LOGIN else "eth0"
    if name == LOGIN:
        ip("link", "add", device, "type", "bridge")
    else:
        wait_for_cable(device)
    ip("address", "add", f"{address}/24", "dev", device)
    ip("link", "set", device, "up")
    ip("link", "set", "lo", "up")
    if name == LOGIN:
        subprocess.Popen([sys.executable, "-IS", str(NAME_SERVER), str(directory), address])
    print("ready", flush=True)
    reap_for_ever()


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def wait_for_cable(device: str) -> None:
    end = time.monotonic() + CABLE_SECONDS
    while not Path("/sys/class/net", device).exists():
        if time.monotonic() > end:
            sys.exit(f"no {device} after {CABLE_SECONDS} s")
        time.sleep(0.05)


def reap_for_ever() -> None:
    """Wait for every orphan of the host, as an init does."""
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
