"""Tell uv which package indexes pip is set to use: uv reads none of pip's settings. Standard library only."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Mapping

# pip's setting -> uv's environment variable
COUNTERPARTS = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
}


def uv_settings(python: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables that make uv look where pip would. What is set for uv already stays."""
    environment = os.environ if environment is None else environment
    shown = subprocess.run(
        [python, "-m", "pip", "config", "list"], capture_output=True, text=True, env=environment, check=False
    )
    # A Python without pip has no `pip config`; the variables are there all the same.
    settings = from_pip_config(shown.stdout) if shown.returncode == 0 else {}
    for name, counterpart in COUNTERPARTS.items():
        value = environment.get(f"PIP_{name.upper().replace('-', '_')}")
        if value:
            settings[counterpart] = _spelled(name, value)
    if "UV_INDEX" in settings:
        # pip takes the best version of all indexes; uv would take the first index that has the name.
        settings["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in settings.items() if name not in environment}


def from_pip_config(listing: str) -> dict[str, str]:
    """Read the lines of `pip config list`, such as `global.find-links='/wheels'`; later sources win."""
    settings: dict[str, str] = {}
    for line in listing.splitlines():
        key, _, quoted = line.partition("=")
        name = key.rpartition(".")[2]
        if name in COUNTERPARTS and quoted:
            settings[COUNTERPARTS[name]] = _spelled(name, str(ast.literal_eval(quoted)))
    return settings


def _spelled(name: str, value: str) -> str:
    """Join a list as uv takes it: find-links by commas, indexes by spaces."""
    return ("," if name == "find-links" else " ").join(value.split())
