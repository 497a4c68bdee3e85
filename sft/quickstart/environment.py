"""Make `.venv` and install the pinned kit into it: `python -m sft.quickstart.environment [EXTRA ...]`.

Runs with any Python from 3.11 on, before anything is installed: the standard library only. It installs with
uv where uv is there, else with pip; both use the indexes that pip is set to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sft.errors import ExitCode, UserError
from sft.quickstart.indexes import uv_settings
from sft.quickstart.process import run_logged, say
from sft.quickstart.stamp import file_digest, is_finished, mark_finished

ROOT = Path(__file__).resolve().parents[2]
OLDEST_PYTHON = (3, 11)
BYTES_NEEDED = 4 << 30
NETWORK_FIX = "read the log; check the network and pip's index settings; then run the same command again"


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment and what installs into it."""

    root: Path
    extras: tuple[str, ...]
    uv: str | None

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"

    @property
    def log(self) -> Path:
        """What the installer prints."""
        return self.directory / "install.log"

    @property
    def constraints(self) -> Path:
        """The pins."""
        return self.root / "constraints.txt"

    @property
    def stamp(self) -> Path:
        """Says for which inputs the installation is finished: one file a set of extras."""
        return self.directory / f"installed-{'-'.join(self.extras) or 'kit'}.json"

    @property
    def inputs(self) -> dict[str, str]:
        """What the installation depends on."""
        return {
            "pins": file_digest(self.constraints, self.root / "pyproject.toml"),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
            "kit": str(self.root),
        }

    def install(self, *arguments: str, fallback: bool = False) -> None:
        """Install packages; with `fallback`, leave the failure to the caller."""
        if self.uv:
            command = [self.uv, "pip", "install", "--python", str(self.python), "--compile-bytecode"]
        else:
            command = [str(self.python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
        run_logged(
            [*command, *arguments],
            self.log.with_suffix(".cpu.log") if fallback else self.log,
            what=f"{'uv' if self.uv else 'pip'} could not install the kit",
            fix=NETWORK_FIX,
            environment=uv_settings(sys.executable) if self.uv else None,
        )


def make(environment: Environment) -> bool:
    """Make the environment; say whether there was anything to do.

    Raises:
        UserError: the disk is too full, `.venv` is of another Python, or the installation failed.
    """
    if environment.python.exists() and is_finished(environment.stamp, environment.inputs):
        return False
    free = shutil.disk_usage(environment.root).free
    if not environment.python.exists() and free < BYTES_NEEDED:
        raise UserError(
            f"The environment needs about {BYTES_NEEDED >> 30} GiB of disk; {free / (1 << 30):.1f} GiB are free",
            str(environment.root),
            "free some space, or clone the kit onto a larger file system",
            exit_code=ExitCode.ENVIRONMENT,
        )
    if environment.python.exists():
        _check_python(environment)
    else:
        _create(environment)
    _prefer_cpu_torch(environment)
    kit = (
        f"{environment.root}[{','.join(environment.extras)}]" if environment.extras else str(environment.root)
    )
    environment.install("-c", str(environment.constraints), "-e", kit)
    mark_finished(environment.stamp, environment.inputs)
    return True


def _create(environment: Environment) -> None:
    if environment.uv:
        # With pip in it (--seed), for `pip install` by hand later.
        command = [environment.uv, "venv", "--seed", "--allow-existing", "--python", sys.executable]
    else:
        command = [sys.executable, "-m", "venv"]
    run_logged(
        [*command, str(environment.directory)],
        environment.root / ".venv" / "create.log",
        what="The virtual environment could not be made",
        fix="on Debian and Ubuntu: apt install python3-venv; or install uv; then run the same command again",
        environment=uv_settings(sys.executable) if environment.uv else None,
    )


def _check_python(environment: Environment) -> None:
    """Refuse a `.venv` that another Python made: its packages are of another version too."""
    shown = _output([str(environment.python), "-c", "import sys; print(*sys.version_info[:2], sep='.')"])
    if shown != environment.inputs["python"]:
        raise UserError(
            f"The virtual environment has Python {shown or 'that does not start'}, not {environment.inputs['python']}",
            str(environment.directory),
            f"rm -r {environment.directory}; then run the same command again",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _prefer_cpu_torch(environment: Environment) -> None:
    """Without an NVIDIA GPU, get PyTorch's CPU build before the rest asks for the one with CUDA.

    Three tries: where the configured indexes offer a CPU build, nothing is to be done; otherwise uv, which
    knows where PyTorch publishes it; otherwise, as configured.
    """
    choice = os.environ.get("TORCH", "auto")
    if choice not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"TORCH={choice} is not a build of PyTorch", "the environment", "use auto, cpu or cuda"
        )
    if choice == "cuda" or (choice == "auto" and has_gpu()) or _installed_torch(environment):
        return
    pin = next(
        line for line in environment.constraints.read_text().splitlines() if line.startswith("torch==")
    )
    if not _brings_cuda(environment, pin):
        return
    try:
        helper = environment if environment.uv else _with_uv(environment)
        helper.install("--torch-backend", "cpu", pin, fallback=True)
    except UserError:
        say(
            "      PyTorch's CPU build cannot be fetched from here; going on with the CUDA build (about 3 GB)"
        )


def has_gpu() -> bool:
    """Say whether this machine has an NVIDIA GPU and a driver for it."""
    return Path("/proc/driver/nvidia/version").exists() or bool(_output(["nvidia-smi", "-L"]))


def _installed_torch(environment: Environment) -> str:
    shown = "import importlib.metadata as m; print(m.version('torch'))"
    return _output([str(environment.python), "-c", shown])


def _brings_cuda(environment: Environment, pin: str) -> bool:
    """Ask the installer, without installing, whether `pin` as configured brings CUDA packages."""
    if environment.uv:
        command = [environment.uv, "pip", "install", "--dry-run", "--python", str(environment.python), pin]
        settings = {**os.environ, **uv_settings(sys.executable)}
        shown = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
        return "+ nvidia-" in shown.stderr
    command = [str(environment.python), "-m", "pip", "install", "--dry-run", "--no-deps", "--quiet"]
    shown = subprocess.run([*command, "--report", "-", pin], capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        return False  # the installation proper fails likewise, and says why
    (package,) = json.loads(shown.stdout)["install"]
    return any(
        "nvidia" in needed or "cuda" in needed for needed in package["metadata"].get("requires_dist", [])
    )


def _with_uv(environment: Environment) -> Environment:
    environment.install("uv", fallback=True)
    return Environment(environment.root, environment.extras, str(environment.directory / "bin" / "uv"))


def _output(command: list[str]) -> str:
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown.stdout.strip() if shown.returncode == 0 else ""


def main(arguments: list[str], make: Callable[[Environment], bool] = make) -> int:
    environment = Environment(ROOT, tuple(sorted(arguments)), shutil.which("uv"))
    tool = "uv" if environment.uv else "pip"
    say(
        f"environment  {environment.directory} with {tool}: up to 0.6 GB to download, 1-3 minutes the first time"
    )
    start = time.monotonic()
    try:
        worked = make(environment)
    except UserError as error:
        say(str(error))
        return int(error.exit_code)
    say(f"      ready after {time.monotonic() - start:.0f} s" if worked else "      finished before")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
