"""The packages that train: installed, of versions that go together, and the ones that Python will really import."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.check.answers import remembered, states_of
from sft.check.distributions import Record, records, torch_build
from sft.check.finding import Finding, error, note, warning
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.launch.command import PACKAGE_ROOT

if TYPE_CHECKING:
    from packaging.requirements import Requirement

NAME = "versions"
COST = "the records of installed packages, of which none is imported"
NEEDS = "nothing"

TRAIN = ("torch", "transformers", "trl", "accelerate", "datasets", "peft")
"""Distributions that every training imports."""
PARTNERS = (
    *TRAIN,
    "deepspeed",
    "bitsandbytes",
    "huggingface-hub",
    "tokenizers",
    "torchvision",
    "torchao",
    "triton",
)
"""Distributions whose requirements are held against what is installed."""
CHECKED_AT_IMPORT = frozenset(
    (
        "tqdm",
        "regex",
        "packaging",
        "filelock",
        "numpy",
        "tokenizers",
        "huggingface-hub",
        "safetensors",
        "pyyaml",
    )
)
"""What transformers refuses to be imported beside, in another version than it requires.

Source:
    transformers/dependency_versions_check.py.
"""
LEAST_TORCHAO = "0.16"
"""peft raises for an older one, used or not. Source: peft/import_utils.py, is_torchao_available."""
SHADOWED = (
    "accelerate", "bitsandbytes", "datasets", "deepspeed", "huggingface_hub", "numpy", "peft", "safetensors", "sft",
    "tokenizers", "torch", "transformers", "trl", "wandb",
)  # fmt: skip
"""Names under which people keep files and directories of their own."""


def look(subject: Subject) -> Iterator[Finding]:
    """Hold what is installed against what is needed. What runs in a container is not this installation."""
    if subject.config.launch.wrap:
        return
    yield from remembered(subject.config, _question(subject), lambda: _packages(subject))
    yield from _shadows(subject)


def _question(subject: Subject) -> dict[str, Any]:
    """Return what the records depend on: a package that comes or goes changes the directory that it lies in."""
    model = subject.config.model
    places = [place for place in map(Path, sys.path) if place.is_dir()]
    return {
        "what": "packages",
        "python": sys.version,
        "places": [(str(place), os.stat(place).st_mtime_ns) for place in places],
        "tested": states_of(path for path in [PACKAGE_ROOT / "constraints.txt"] if path.exists()),
        "needed": list(_needed(subject)),
        "peft": model.use_peft,
        "attention": model.attn_implementation,
    }


def _packages(subject: Subject) -> Iterator[Finding]:
    installed = _Installed()
    for name in _needed(subject):
        if not installed.copies(name):
            yield error(
                f"the package {name} is not installed, and the run needs it",
                sys.prefix,
                "install it into this environment: bash launch/setup.sh, or pip install -e . in the kit's directory",
                exit_code=ExitCode.ENVIRONMENT,
            )
    yield from _ranges(installed)
    yield from _among_each_other(installed)
    yield from _known(subject, installed)
    yield from _copies(installed)


class _Installed:
    """The records of distributions, each read once."""

    def __init__(self) -> None:
        self._found: dict[str, list[Record]] = {}

    def copies(self, name: str) -> list[Record]:
        """Return every copy, the one that is imported first."""
        if name not in self._found:
            self._found[name] = records(name)
        return self._found[name]

    def version(self, name: str) -> str | None:
        """Return the version that is imported; None where nothing is installed, or its record says none."""
        copies = self.copies(name)
        return copies[0].version if copies else None

    def requirements(self, name: str) -> Iterator[Requirement]:
        """Read what a distribution requires on this machine."""
        from packaging.requirements import InvalidRequirement, Requirement

        for line in self.copies(name)[0].requires if self.copies(name) else ():
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def _needed(subject: Subject) -> Iterator[str]:
    yield from TRAIN
    config = subject.config
    if subject.plan is not None and subject.plan.strategy.is_deepspeed:
        yield "deepspeed"
    if config.is_quantized or "bnb" in config.training.optim or config.training.optim.startswith("paged_"):
        yield "bitsandbytes"


def _ranges(installed: _Installed) -> Iterator[Finding]:
    """Hold the packages against the range that the kit is made for, and against what was tested."""
    from packaging.version import Version

    tested = _tested()
    others = []
    for requirement in installed.requirements("sft"):
        name = requirement.name.lower().replace("_", "-")
        copies = installed.copies(name)
        if not copies:
            continue
        if copies[0].version is None:
            yield error(
                f"the record of the package {name} is broken: it says no version",
                str(copies[0].place),
                f"pip install --force-reinstall --no-deps {name}",
                exit_code=ExitCode.ENVIRONMENT,
            )
            continue
        version = Version(copies[0].version)
        if requirement.specifier.contains(version, prereleases=True):
            if name in TRAIN and name in tested and version.release[:2] != Version(tested[name]).release[:2]:
                others.append(f"{name} {version} ({tested[name]})")
            continue
        oldest = min(Version(one.version) for one in requirement.specifier)
        what = f"{name} {version} is installed, and the kit is made for {name}{requirement.specifier}"
        fix = f'pip install "{name}{requirement.specifier}"'
        if version.major < oldest.major:
            yield error(what, sys.prefix, fix, exit_code=ExitCode.ENVIRONMENT)
        else:
            yield warning(what, sys.prefix, fix)
    if others:
        yield note(
            f"not the versions that were tested (in brackets), but in their range: {', '.join(others)}"
        )


def _tested() -> dict[str, str]:
    """Read the pins, which lie beside the package in a clone."""
    try:
        lines = (PACKAGE_ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))


def _among_each_other(installed: _Installed) -> Iterator[Finding]:
    """Hold the packages against what they say of each other, as `pip check` does."""
    for name in PARTNERS:
        for requirement in installed.requirements(name):
            other = requirement.name
            wanted = f"{other}{requirement.specifier}"
            if not installed.copies(other):
                what = f"{name} requires {other}, which is not installed"
                yield warning(what, sys.prefix, f'pip install "{wanted}"')
                continue
            version = installed.version(other)
            if version is None or requirement.specifier.contains(version, prereleases=True):
                continue
            what = f"{name} {installed.version(name)} requires {wanted}, and {version} is installed"
            if name == "transformers" and other.lower() in CHECKED_AT_IMPORT:
                what = f"{what}: it refuses to be imported"
                yield error(what, sys.prefix, f'pip install "{wanted}"', exit_code=ExitCode.ENVIRONMENT)
            else:
                yield warning(what, sys.prefix, f'pip install --upgrade {name}, or pip install "{wanted}"')


def _known(subject: Subject, installed: _Installed) -> Iterator[Finding]:
    """Tell pairs of which one refuses the other, though neither says so in its requirements."""
    from packaging.version import Version

    model = subject.config.model
    torchao = installed.version("torchao")
    if model.use_peft and torchao is not None and Version(torchao) < Version(LEAST_TORCHAO):
        yield error(
            f"torchao {torchao} is installed, and peft raises an error for one before {LEAST_TORCHAO}, used or not",
            sys.prefix,
            f'pip install "torchao>={LEAST_TORCHAO}", or pip uninstall torchao',
            exit_code=ExitCode.ENVIRONMENT,
        )
    torch, flash = torch_build(), installed.copies("flash-attn")
    if model.attn_implementation != "flash_attention_2" or torch is None or not flash:
        return
    wanted = flash[0].built_for_torch
    if wanted is not None and wanted != torch.release:
        yield error(
            f"this flash-attn was built for torch {wanted[0]}.{wanted[1]}, and torch {torch.version} is installed: its"
            " library does not load (undefined symbol)",
            str(flash[0].place),
            f"install the wheel for torch {torch.release[0]}.{torch.release[1]}:"
            " https://github.com/Dao-AILab/flash-attention/releases; or set attn_implementation: sdpa",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _copies(installed: _Installed) -> Iterator[Finding]:
    """Tell packages that are installed twice: which one is imported hangs on the order of the places."""
    user = Path(site.getusersitepackages()).resolve()
    for name in (*PARTNERS, "safetensors", "numpy", "wandb"):
        copies = installed.copies(name)
        if len({copy.version for copy in copies}) < 2:
            continue
        used, *others = copies
        told = ", ".join(f"{other.version} in {other.place}" for other in others)
        fix = f"pip uninstall {name}, until one is left"
        if used.place == user:
            fix = f"export PYTHONNOUSERSITE=1, which leaves out {user}; or pip uninstall {name}"
        what = f"{name} is installed twice: {used.version} in {used.place} is used, and not {told}"
        yield warning(what, str(used.place), fix)


def _shadows(subject: Subject) -> Iterator[Finding]:
    """Look for files of the user's that Python would import in place of a package.

    The ranks find modules in the kit's own place, then in PYTHONPATH, and under DeepSpeed, to whose ranks accelerate
    hands the working directory so, in that; all of it before the installed packages.
    """
    places = [] if "PYTHONPATH" in subject.config.kit.env else [PACKAGE_ROOT]
    listed = subject.environment.get("PYTHONPATH") or None
    places += [Path(entry or ".") for entry in (listed.split(":") if listed else [])]
    if subject.plan is not None and subject.plan.strategy.is_deepspeed:
        places.append(Path())
    names = (*SHADOWED, *sorted(sys.stdlib_module_names))
    seen: set[str] = set()
    for place in places:
        listed_there = _listing(place)
        for name in names:
            found = [
                path for path in (f"{name}/__init__.py", f"{name}.py") if path.split("/")[0] in listed_there
            ]
            found = [path for path in found if (place / path).is_file()]
            if found and name not in seen and place != PACKAGE_ROOT:
                yield from _shadow(name, place / found[0], by_path=place != Path())
            seen |= {name} if found else set()


def _listing(place: Path) -> set[str]:
    try:
        return {path.name for path in place.iterdir()}
    except OSError:
        return set()


def _shadow(name: str, found: Path, *, by_path: bool) -> Iterator[Finding]:
    if "site-packages" in found.parts or "dist-packages" in found.parts:
        return  # another installation, which the copies tell
    how = "PYTHONPATH" if by_path else "the working directory, which DeepSpeed's ranks import from"
    if found.name == "__init__.py":
        what = f"{found.parent.absolute()} is imported in place of the installed {name}"
        yield warning(what, how, "rename it, or take its directory off PYTHONPATH, unless that is meant")
    elif name in SHADOWED:
        yield error(
            f"{found.absolute()} is imported in place of the package {name}",
            how,
            f"rename it: mv {found} {found.with_name(f'my_{found.name}')}",
            exit_code=ExitCode.ENVIRONMENT,
        )
    else:
        what = f"{found.absolute()} is imported in place of Python's own module {name}, by every package that uses it"
        yield warning(what, how, f"rename it: mv {found} {found.with_name(f'my_{found.name}')}")
