"""The places that a run file names can be looked at: not in a directory of somebody else's, nor on a file server that is gone."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from sft.config.loader import LoadedRun
from sft.errors import ExitCode, Problem, UserError

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""What is told as a place that is not there, by whoever needs it."""


def require_reachable(loaded: LoadedRun) -> None:
    """Look at every place once, before anything is read there.

    Raises:
        UserError: some cannot be looked at; all of them together.
    """
    found = unreachable(loaded)
    if found:
        raise UserError.of(found.values(), exit_code=ExitCode.ENVIRONMENT)


def unreachable(loaded: LoadedRun) -> dict[str, Problem]:
    """Say of every place that cannot be looked at what is wrong."""
    found = {name: _unreachable(name, key, loaded.where(key)) for key, name in _places(loaded)}
    return {name: problem for name, problem in found.items() if problem is not None}


def is_there(name: str) -> bool:
    """Whether something is there, as far as that can be told: what cannot be looked at may be."""
    try:
        os.stat(name)
    except ValueError:
        return False
    except OSError as failure:
        return failure.errno not in ABSENT
    return True


def _places(loaded: LoadedRun) -> Iterator[tuple[str, str]]:
    """List keys and what they name; that names of the Hub are no places here does no harm."""
    config = loaded.config
    named = {
        "model_name_or_path": config.model.model_name_or_path,
        "dataset_name": config.script.dataset_name,
        "output_dir": str(config.run.output_dir),
        "launch.accelerate_config": config.launch.accelerate_config,
    }
    yield from ((key, name) for key, name in named.items() if name)
    yield from (("datasets", source.path) for source in config.mixture.datasets)


def _unreachable(name: str, key: str, where: str) -> Problem | None:
    """Say why a file cannot be found out about, or a directory not be listed."""
    try:
        if os.path.isdir(name):
            os.stat(f"{name}/.")
            os.scandir(name).close()
        else:
            os.stat(name)
    except ValueError:
        return None  # no name of any file
    except OSError as failure:
        if failure.errno in ABSENT:
            return None
        reason = (failure.strerror or str(failure)).lower()
        if not isinstance(failure, PermissionError):
            return Problem(f"{name} cannot be looked at: {reason}", where, "name another place")
        locked = _locked(Path(name).absolute())
        what = f"{name} cannot be looked at: {reason}" + ("" if str(locked) == name else f" in {locked}")
        fix = f"ask the owner for `chmod a+rx {locked}`, or name another place"
        return Problem(what, where, "set output_dir to a directory of yours" if key == "output_dir" else fix)
    return None


def _locked(path: Path) -> Path:
    """Return the first directory on the way that lets nobody through; the last, where it only cannot be listed."""
    for place in reversed(path.parents):
        try:
            os.stat(f"{place}/.")
        except OSError:
            return place
    return path
