"""Find out whether a cluster can start on this machine. Run as a program, install what it lacks: Slurm, and sshd.

The installation is a part of the set-up (tests/run.sh), since tests reach no network:

    python -m tests.slurm.install [--accounting]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2", "openssh-server", "openssh-client")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip")
SSH_PROGRAMS = ("sshd", "ssh", "ssh-keygen")
ACCOUNTING_PACKAGES = ("slurmdbd", "mariadb-server")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacct")
# Seen by the installation alone, so that its packages start no service here, and nothing is left to undo.
QUIET_INSTALL = """\
set -eu
for program in /usr/sbin/invoke-rc.d /usr/bin/deb-systemd-invoke; do
    [ ! -e "$program" ] || mount --bind /bin/true "$program"
done
export DEBIAN_FRONTEND=noninteractive
lock="-oDPkg::Lock::Timeout=120"
apt-get "$lock" update -qq
exec apt-get "$lock" install -qq -y --no-install-recommends "$@"
"""
INSTALL_SECONDS = 400
TRIAL = """\
ip link add br0 type bridge
ip link add node type veth peer name eth0
"""


def cannot_run(accounting: bool = False) -> str | None:
    """Say why a cluster cannot start here, or None if it can."""
    return namespaces_missing() or programs_missing(accounting) or bridges_missing()


def namespaces_missing() -> str | None:
    """Say why hosts with networks and process trees of their own cannot be made here, or None if they can."""
    if sys.platform != "linux":
        return "hosts are made of Linux namespaces"
    if os.geteuid() != 0:
        return "hosts are made of namespaces, which takes root"
    unshare = ["unshare", "--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"no namespaces here, CAP_SYS_ADMIN is needed: {_last_line(done)}"
    return None


def bridges_missing() -> str | None:
    """Say why hosts cannot be cabled together here, or None if they can."""
    words = ["unshare", "--net", "sh", "-ec", TRIAL]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"no bridges or veth pairs here: {_last_line(done)}"


def programs_missing(accounting: bool = False) -> str | None:
    """Say what a cluster lacks that would have to be installed, or None if there is all of it."""
    missing = _missing(PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ()))
    more = " --accounting" if accounting else ""
    return f"{', '.join(missing)} not found: python -m tests.slurm.install{more}" if missing else None


def ssh_missing() -> str | None:
    """Say what is missing to log in to a node, or None."""
    missing = _missing(SSH_PROGRAMS)
    return f"{', '.join(missing)} not found: python -m tests.slurm.install" if missing else None


def install(accounting: bool = False) -> str | None:
    """Install what is missing, which takes seconds; say why that cannot be done, or return None."""
    programs = (*PROGRAMS, *SSH_PROGRAMS, *(ACCOUNTING_PROGRAMS if accounting else ()))
    packages = PACKAGES + (ACCOUNTING_PACKAGES if accounting else ())
    missing = _missing(programs)
    if not missing:
        return None
    if os.geteuid() != 0:
        return f"{', '.join(missing)} not found, and only root can install them"
    if shutil.which("apt-get") is None:
        return f"{', '.join(missing)} not found, and there is no apt-get to install them with"
    words = ["unshare", "--mount", "sh", "-c", QUIET_INSTALL, "install", *packages]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"apt-get has not installed them within {INSTALL_SECONDS} s"
    if done.returncode != 0:
        return f"apt-get cannot install them: {_last_line(done)}"
    missing = _missing(programs)
    return f"installed, but not found: {', '.join(missing)}" if missing else None


def search_path() -> str:
    """Return PATH with the directories that hold daemons, which a user's may lack."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def program(name: str) -> str:
    """Return the path of a program that is installed."""
    found = shutil.which(name, path=search_path())
    assert found is not None, f"{name} is not installed"
    return found


def _missing(programs: tuple[str, ...]) -> list[str]:
    return [program for program in programs if shutil.which(program, path=search_path()) is None]


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


if __name__ == "__main__":
    if problem := install("--accounting" in sys.argv[1:]):
        print(f"no Slurm for its tests, which are left out: {problem}", file=sys.stderr)
