"""Names from the user's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.data.user_code import load_object
from sft.errors import ExitCode, UserError


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Mine:\n    value: int = 3\n\n\ndef other(): ...\n"
    )
    return path


def test_name_from_a_file(mine: Path) -> None:
    assert load_object(f"{mine}:Mine", "callbacks")().value == 3


def test_file_relative_to_the_working_directory(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(mine.parent)
    assert load_object("mine.py:other", "callbacks").__name__ == "other"


def test_name_from_a_module() -> None:
    assert load_object("collections.abc:Mapping", "callbacks").__name__ == "Mapping"


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"VALUE = {name!r}\n")
    found = [load_object(f"{tmp_path / name / 'mine.py'}:VALUE", "callbacks") for name in ("a", "b")]
    assert found == ["a", "b"]


def test_file_named_twice_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "once.py").write_text("class Shared: ...\n\n\ndef of():\n    return Shared\n")
    of, shared = (load_object(f"{tmp_path / 'once.py'}:{name}", "callbacks") for name in ("of", "Shared"))
    assert of() is shared


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (
            "mine.py",
            "'mine.py' names nothing\n  where: callbacks\n  fix:   write file.py:name or module:name",
        ),
        (":Mine", "':Mine' names nothing\n  where: callbacks\n  fix:   write file.py:name or module:name"),
        (
            "{here}/gone.py:Mine",
            "there is no file {here}/gone.py\n  where: callbacks\n  fix:   check the path",
        ),
        (
            "{here}/mine.py:Yours",
            "{here}/mine.py has no Yours\n  where: callbacks\n  fix:   it has: dataclass, Mine, other",
        ),
        (
            "no_such_module_at_all:Mine",
            "no_such_module_at_all cannot be imported: ModuleNotFoundError: No module named 'no_such_module_at_all'\n"
            "  where: callbacks\n  fix:   mend the file",
        ),
        (
            "{here}/raises.py:Mine",
            "{here}/raises.py cannot be imported: ZeroDivisionError: division by zero\n  where: {here}/raises.py:2\n"
            "  fix:   mend the file",
        ),
        (
            "{here}/syntax.py:Mine",
            "{here}/syntax.py cannot be imported: SyntaxError: invalid syntax (syntax.py, line 1)\n"
            "  where: {here}/syntax.py:1\n  fix:   mend the file",
        ),
    ],
    ids=["no name", "no file", "missing file", "missing name", "missing module", "raises", "syntax"],
)
def test_reference_that_leads_nowhere(mine: Path, reference: str, text: str) -> None:
    (mine.parent / "raises.py").write_text("ONE = 1\nTWO = 1 / 0\n")
    (mine.parent / "syntax.py").write_text("class :\n")
    with pytest.raises(UserError) as caught:
        load_object(reference.format(here=mine.parent), "callbacks")
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == text.format(here=mine.parent)


def test_line_is_told_where_the_file_is_named_from_the_working_directory(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine.parent / "raises_here.py").write_text("ONE = 1\nTWO = 1 / 0\n")
    monkeypatch.chdir(mine.parent)
    with pytest.raises(UserError) as caught:
        load_object("raises_here.py:ONE", "callbacks")
    assert caught.value.problems[0].where == "raises_here.py:2"
