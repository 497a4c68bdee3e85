"""The library sections for the versions that are installed.

`library.py` in the package is right for the pinned versions. For other ones it is generated once, into
the user's cache, by a child process: this module itself never imports torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from sft.config import library
from sft.errors import ExitCode, UserError


def installed_versions() -> dict[str, str]:
    """Return the installed versions of the libraries whose settings a run file holds; absent ones are left out."""
    found = {}
    for name in library.VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cache_directory() -> Path:
    """Where generated files are kept for the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sft"


def load_library() -> ModuleType:
    """Return the module with the sections of the installed libraries.

    On a login node without the libraries, the pinned versions' sections serve.

    Raises:
        UserError: other versions are installed and their settings could not be read.
    """
    versions = installed_versions()
    if all(versions.get(name, pinned) == pinned for name, pinned in library.VERSIONS.items()):
        return library
    tag = "-".join(f"{name}{version}" for name, version in sorted(versions.items()))
    path = cache_directory() / f"library-{tag}.py"
    if not path.exists():
        print(f"Reading the settings of {tag} once, into {path}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        child = subprocess.run(
            [sys.executable, "-m", "sft.config.generate", "--output", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode:
            raise UserError(
                f"the settings of the installed {tag} could not be read: {child.stderr.strip().splitlines()[-1:]}",
                where=str(path),
                fix="install the versions of constraints.txt",
                exit_code=ExitCode.ENVIRONMENT,
            )
    spec = importlib.util.spec_from_file_location("sft.config.library_installed", path)
    if spec is None or spec.loader is None:
        raise UserError(f"cannot load {path}", fix="delete it and try again", exit_code=ExitCode.ENVIRONMENT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
