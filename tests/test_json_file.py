"""A JSON file of somebody else's is read, or it is said what is wrong with it; nothing hangs on it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sft.errors import ExitCode, Problem
from sft.json_file import UnreadableError, read_json
from tests.check.corpus.spoil import as_anybody


def test_an_object_is_read_and_no_file_is_none(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    assert read_json(file) is None
    assert read_json(file / "below" / "a file") is None
    file.write_text('{"eos": "\u2603"}', encoding="utf-8")
    assert read_json(file) == {"eos": "\u2603"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"{", "is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b'{"a": "\xff"}', "is not UTF-8 text (byte 7)"),
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b"[" * 100_000, "nests its values too deep"),
        (b'{"a":' * 100_000, "nests its values too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is no JSON: Exceeds the limit (4300 digits) for integer string conversion"),
    ],
)  # fmt: skip
def test_what_is_no_object_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(UnreadableError) as caught:
        read_json(file)
    assert caught.value.reason.startswith(reason)
    assert caught.value.problem() == Problem(
        f"config.json {caught.value.reason}", str(file), "fetch the model again"
    )
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UnreadableError, match=r"^config\.json is not a plain file$"):
        read_json(tmp_path / "config.json")


def test_what_may_not_be_read_is_the_environments_fault(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    file.chmod(0)
    with as_anybody(), pytest.raises(UnreadableError) as caught:
        read_json(file)
    assert caught.value.refusal().exit_code is ExitCode.ENVIRONMENT
    assert str(caught.value.refusal()) == (
        f"config.json cannot be read: Permission denied\n  where: {file}\n"
        "  fix:   ask its owner for `chmod a+r`, or fetch the model again"
    )
