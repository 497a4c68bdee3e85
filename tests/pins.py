"""Write constraints.txt from what is installed: `python -m tests.pins > constraints.txt`.

It pins the kit with its development extra, and whatever those need: nothing else that happens to be there.
Extras that need CUDA to be built or to run are left open.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# What was tested together, on Linux x86_64 with Python 3.11. Written by: python -m tests.pins > constraints.txt
#   pip install -c constraints.txt -e ".[dev]"
# The ranges that are meant to work are in pyproject.toml. flash-attn and liger-kernel have no pin: they need CUDA.
"""


def installed_closure(name: str, extra: str) -> dict[str, str]:
    """Return name -> version of everything that `name[extra]` needs here, without `name` itself."""
    found: dict[str, str] = {}
    asked: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(name), ""), (canonicalize_name(name), extra)]
    while waiting:
        wanted = waiting.pop()
        if wanted in asked:
            continue
        asked.add(wanted)
        package, of_extra = wanted
        try:
            installed = distribution(package)
        except PackageNotFoundError:
            raise SystemExit(f"{package} is needed and not installed: pip install -e '.[dev]'") from None
        found[package] = installed.version.partition("+")[0]
        for line in installed.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": of_extra}):
                waiting += [(canonicalize_name(needed.name), also) for also in ("", *needed.extras)]
    del found[canonicalize_name(name)]
    return found


def constraints() -> str:
    """Return the whole file."""
    pins = sorted(installed_closure("sft", "dev").items())
    return HEADER + "".join(f"{name}=={version}\n" for name, version in pins)


if __name__ == "__main__":
    print(constraints(), end="")
