"""The range, the pins, the conda files and what is installed say the same."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from sft.errors import ExitCode
from sft.extras import EXTRAS, missing_extra
from tests.pins import constraints

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# They are built or run with CUDA, which the pins do not come with.
WITHOUT_PIN = {"flash-attn", "liger-kernel"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "sft"]


def conda(name: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load((ROOT / name).read_text(encoding="utf-8")))


def test_every_declared_package_is_pinned_within_its_range() -> None:
    found = pins()
    for requirement in declared():
        name = canonicalize_name(requirement.name)
        if name in WITHOUT_PIN:
            assert name not in found
        else:
            assert requirement.specifier.contains(found[name]), f"{requirement} does not allow {found[name]}"


def test_every_declared_range_has_a_lower_bound() -> None:
    for requirement in declared():
        assert ">=" in str(requirement.specifier), f"{requirement} allows any old version"


def test_what_is_installed_is_what_is_pinned() -> None:
    different = {}
    for name, pin in pins().items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "nothing"
        if Version(installed.partition("+")[0]) != Version(pin) if installed != "nothing" else True:
            different[name] = f"{installed} is installed, {pin} is pinned"
    assert different == {}, "bash launch/setup.sh dev"


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the pins are written with Python 3.11")
def test_pins_are_those_of_the_development_extra_and_nothing_else() -> None:
    written = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert constraints() == written, "make pins"


def test_pins_bring_no_cuda() -> None:
    # nvidia-ml-py asks a driver what is there; it brings no library.
    found = [name for name in pins() if re.match(r"nvidia|cuda|triton|liger|flash", name)]
    assert found == ["nvidia-ml-py"]
    assert "+" not in pins()["torch"]


def test_every_third_party_import_is_declared() -> None:
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    owners = packages_distributions()
    undeclared = set()
    for source in (ROOT / "sft").rglob("*.py"):
        for module in imported(ast.parse(source.read_text(encoding="utf-8"))):
            if module in sys.stdlib_module_names or module == "sft":
                continue
            of = {canonicalize_name(owner) for owner in owners.get(module, [module])}
            if not of & names:
                undeclared.add(f"{source.relative_to(ROOT)}: {module}")
    assert undeclared == set()


def imported(tree: ast.Module) -> set[str]:
    """Return the top-level modules that a source imports, wherever in it."""
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.partition(".")[0])
    return modules


@pytest.mark.parametrize(
    ("file", "name", "conda_part"),
    [
        ("environment.yml", "sft-dev", ["python=3.11", "pip", "c-compiler", "cxx-compiler"]),
        ("peft.yml", "peft", ["python=3.11", "pip", "c-compiler", "cxx-compiler", "cuda-toolkit"]),
    ],
)
def test_conda_files_take_everything_but_the_ground_from_the_pins(
    file: str, name: str, conda_part: list[str]
) -> None:
    content = conda(file)
    *ground, pip_part = content["dependencies"]
    assert content["name"] == name
    assert ground == conda_part
    constraint, kit = pip_part["pip"]
    assert constraint == "-c constraints.txt"
    asked = re.fullmatch(r"-e \.\[([a-z,-]+)\]", kit)
    assert asked is not None
    assert set(asked[1].split(",")) <= set(PROJECT["optional-dependencies"])
    assert Version("3.11") in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_every_optional_package_has_a_message_that_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "executable", str(ROOT / ".venv/bin/python"))
    assert set(EXTRAS.values()) == set(PROJECT["optional-dependencies"]) - {"dev"}
    for package, extra in EXTRAS.items():
        brought = {Requirement(line).name for line in PROJECT["optional-dependencies"][extra]}
        assert package.replace("_", "-") in brought
    error = missing_extra("galore-torch")
    assert error.exit_code == ExitCode.ENVIRONMENT
    assert str(error) == (
        "the package galore-torch is not installed\n"
        f"  where: {sys.prefix}\n"
        '  fix:   .venv/bin/python -m pip install -c constraints.txt "sft[galore]"'
    )
