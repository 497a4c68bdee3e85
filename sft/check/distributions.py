"""What is installed here, from the files and records of the packages: nothing is imported."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

TORCH_WHEEL = re.compile(r"torch(\d+)\.(\d+)")
"""How the file of a wheel that was built for one torch says so: flash_attn-2.8.3+cu12torch2.8cxx11abiTRUE-cp311..."""

EXTRA = re.compile(r";.*\bextra\b")


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """A build of torch.

    Attributes:
        version: with its local part: 2.9.0+cu128.
        cuda: the CUDA that it was built for; None where it is for the CPU alone, or for ROCm.
    """

    version: str
    cuda: tuple[int, int] | None
    is_rocm: bool = False

    @property
    def is_official(self) -> bool:
        """Whether it is one of PyTorch's own CUDA wheels, whose architectures are known."""
        return re.search(r"\+cu\d+$", self.version) is not None

    @property
    def release(self) -> tuple[int, int]:
        """The first two numbers of its version."""
        numbers = re.findall(r"\d+", self.version)
        return int(numbers[0]), int(numbers[1])


def package_directory(name: str) -> Path | None:
    """Return where a package lies that Python would import; None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def torch_build() -> TorchBuild | None:
    """Read which torch is installed from its version.py; None without one, or one that says it otherwise."""
    directory = package_directory("torch")
    if directory is None:
        return None
    try:
        text = (directory / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    values = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE))
    if not re.match(r"\d+\.\d+", values.get("__version__", "")):
        return None
    cuda = re.match(r"(\d+)\.(\d+)", values.get("cuda", ""))
    numbers = (int(cuda[1]), int(cuda[2])) if cuda else None
    return TorchBuild(values["__version__"], numbers, is_rocm="hip" in values)


@dataclass(frozen=True, slots=True)
class Record:
    """What is written of an installed distribution, as far as its description: reading that would take a second.

    Attributes:
        version: None where the record is broken.
        requires: its requirements, those of its extras aside.
        place: the directory on sys.path that it lies in.
        address: where pip has it from, if it kept that.
    """

    name: str
    version: str | None
    requires: tuple[str, ...]
    place: Path
    address: str

    @property
    def built_for_torch(self) -> tuple[int, int] | None:
        """The torch that its wheel was built for, where the address says it."""
        found = TORCH_WHEEL.search(self.address.rpartition("/")[2])
        return (int(found[1]), int(found[2])) if found else None


def records(name: str) -> list[Record]:
    """List the installed copies of a distribution, the one that Python imports first."""
    found: dict[Path, Record] = {}
    for distribution in importlib.metadata.distributions(name=name):
        place = Path(str(distribution.locate_file(""))).resolve()
        if place not in found:
            found[place] = _read(name, distribution, place)
    return list(found.values())


def _read(name: str, distribution: importlib.metadata.Distribution, place: Path) -> Record:
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = text.partition("\n\n")[0]
    version = re.search(r"^Version: *(\S+)", head, re.MULTILINE)
    requires = re.findall(r"^Requires-Dist: *(.+)", head, re.MULTILINE)
    try:
        address = str(json.loads(distribution.read_text("direct_url.json") or "{}").get("url", ""))
    except (ValueError, AttributeError):
        address = ""
    return Record(
        name=name,
        version=version[1] if version else None,
        requires=tuple(line for line in requires if not EXTRA.search(line)),
        place=place,
        address=address,
    )
