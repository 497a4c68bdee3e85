"""Run files for checks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_run(directory: Path, **settings: Any) -> Path:
    """Write a run file, as JSON, which is YAML too."""
    path = directory / "run.yaml"
    path.write_text(json.dumps({"output_dir": str(directory / "out"), "report_to": "none", **settings}))
    return path
