"""Find keys that accelerate or DeepSpeed would pass over.

accelerate refuses an unknown key at the top of its file, but sets a nested one as an attribute that nothing
reads; DeepSpeed passes over unknown sections. The known ones are in `known_keys.json`, which
`sft.plan.generate_known_keys` takes from the libraries, so that nothing here imports torch.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from sft.config.libraries import cache_directory
from sft.errors import ExitCode, Problem, UserError
from sft.plan.document import Document

PINNED = Path(__file__).with_name("known_keys.json")


def _installed(names: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def known_keys() -> dict[str, Any]:
    """Return the keys of the installed libraries, or of the pinned ones where they are not installed.

    For versions other than the pinned ones they are taken once by a child process, and cached.

    Raises:
        UserError: the installed libraries could not be read.
    """
    pinned: dict[str, Any] = json.loads(PINNED.read_text(encoding="utf-8"))
    installed = _installed(pinned["versions"])
    if all(pinned["versions"][name] == version for name, version in installed.items()):
        return pinned
    tag = "-".join(f"{name}{version}" for name, version in sorted(installed.items()))
    path = cache_directory() / f"known-keys-{tag}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        child = subprocess.run(
            [sys.executable, "-P", "-m", "sft.plan.generate_known_keys", "--output", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode:
            raise UserError(
                f"the keys of the installed {tag} could not be read: {child.stderr.strip().splitlines()[-1:]}",
                where=str(path),
                fix="install the versions of constraints.txt",
                exit_code=ExitCode.ENVIRONMENT,
            )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _unknown(
    values: Mapping[str, Any], tree: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], str | None]]:
    """Yield the path of each unknown key, with the nearest known one beside it."""
    for key, value in values.items():
        if key not in tree:
            near = difflib.get_close_matches(str(key), list(tree), n=1, cutoff=0.6)
            yield (str(key),), near[0] if near else None
        elif isinstance(tree[key], dict) and isinstance(value, Mapping):
            for path, close in _unknown(value, tree[key]):
                yield (key, *path), close


def _problems(document: Document, library: str) -> list[Problem]:
    known = known_keys()
    problems = []
    for path, close in _unknown(document.root, known[library]):
        key = ".".join(path)
        if close:
            fix = f"did you mean {close}?"
        else:
            fix = f"remove it: {library} {known['versions'][library]} reads no such key there"
        problems.append(Problem(f"unknown {library} key {key}", document.where(path), fix))
    return problems


def unknown_accelerate_keys(document: Document) -> list[Problem]:
    """Tell each key of an accelerate file that accelerate does not read."""
    return _problems(document, "accelerate")


def unknown_deepspeed_keys(document: Document) -> list[Problem]:
    """Tell each key of a DeepSpeed file that DeepSpeed does not read."""
    return _problems(document, "deepspeed")
