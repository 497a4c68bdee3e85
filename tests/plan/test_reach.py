"""Places of a run file that cannot be looked at are told with what keeps them, before anything is read there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sft.config.loader import load_run
from sft.errors import ExitCode, UserError
from sft.plan.hardware import Hardware
from sft.plan.plan import make_plan
from sft.plan.reach import is_there, unreachable
from tests.check.corpus.spoil import as_anybody


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A directory of somebody else's, which holds one more."""
    (tmp_path / "theirs" / "model").mkdir(parents=True)
    (tmp_path / "theirs").chmod(0)
    with as_anybody():
        yield tmp_path / "theirs"
    (tmp_path / "theirs").chmod(0o755)


def told(words: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(load_run(None, [*words, "--use_cpu"]), Hardware((), (), 1, 0))
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    return str(caught.value)


GOOD = {"model_name_or_path": "org/model", "dataset_name": "org/rows", "output_dir": "out"}


@pytest.mark.parametrize("key", ["model_name_or_path", "dataset_name", "launch.accelerate_config"])
def test_what_lies_in_a_locked_directory_is_told(locked: Path, key: str) -> None:
    place = locked / "model"
    words = [word for name, value in {**GOOD, key: str(place)}.items() for word in (f"--{name}", value)]
    assert told(words) == (
        f"{place} cannot be looked at: permission denied in {locked}\n  where: --{key}\n"
        f"  fix:   ask the owner for `chmod a+rx {locked}`, or name another place"
    )


def test_a_locked_directory_itself_is_told_and_several_are_told_together(locked: Path) -> None:
    words = [
        "--model_name_or_path",
        "org/model",
        "--dataset_name",
        str(locked),
        "--output_dir",
        f"{locked}/a/b",
    ]
    assert told(words) == (
        f"{locked} cannot be looked at: permission denied\n  where: --dataset_name\n"
        f"  fix:   ask the owner for `chmod a+rx {locked}`, or name another place\n"
        f"{locked}/a/b cannot be looked at: permission denied in {locked}\n  where: --output_dir\n"
        "  fix:   set output_dir to a directory of yours"
    )


def test_a_directory_that_cannot_be_listed_is_told(locked: Path) -> None:
    locked.chmod(0o311)
    words = ["--model_name_or_path", "org/model", "--dataset_name", str(locked), "--output_dir", "out"]
    assert told(words).startswith(f"{locked} cannot be looked at: permission denied\n")
    assert is_there(str(locked / "model"))


@pytest.mark.parametrize("name", ["org/model", "/not/there", "x" * 300, "a\0b", "/dev/null/below"])
def test_what_is_not_there_is_left_to_who_needs_it(name: str) -> None:
    words = ["--model_name_or_path", name, "--dataset_name", "org/rows", "--output_dir", "out"]
    assert unreachable(load_run(None, words)) == {}
    assert not is_there(name)


def test_what_may_be_there_is_not_said_to_be_absent(locked: Path) -> None:
    assert is_there(str(locked / "model"))
