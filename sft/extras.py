"""Optional packages: which extra brings one, and the command that installs it. Imports no torch."""

from __future__ import annotations

import sys
from pathlib import Path

from sft.errors import ExitCode, UserError

# import name or distribution -> extra; the extras are pyproject.toml's
EXTRAS = {
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "gguf": "gguf",
    "galore_torch": "galore",
    "apollo_torch": "apollo",
    "flash_attn": "flash-attn",
    "liger_kernel": "liger",
    "rouge_score": "eval",
    "gradio": "demo",
    "metaflow": "metaflow",
    "metaflow_checkpoint": "metaflow",
}


def missing_extra(package: str) -> UserError:
    """Say that an optional package is missing, and which command brings it.

    Args:
        package: its import name, or its name on a package index.
    """
    extra = EXTRAS[package.replace("-", "_")]
    return UserError(
        f"the package {package} is not installed",
        where=sys.prefix,
        fix=install_command(extra),
        exit_code=ExitCode.ENVIRONMENT,
    )


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this environment, from a clone with its pins."""
    words = [_spelled(Path(sys.executable)), "-m", "pip", "install"]
    constraints = Path(__file__).resolve().parents[1] / "constraints.txt"
    if constraints.is_file():
        words += ["-c", _spelled(constraints)]
    return " ".join([*words, f'"sft[{extra}]"'])


def _spelled(path: Path) -> str:
    """Spell a path from the working directory, where it lies below."""
    try:
        short = str(path.relative_to(Path.cwd()))
    except ValueError:
        short = str(path)
    return f'"{short}"' if " " in short else short
