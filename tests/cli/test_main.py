"""What only the whole command can get wrong: its output cannot be written, nobody reads it, a file may not be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft.cli.main import main
from sft.errors import ExitCode
from tests.check.corpus.spoil import as_anybody

SFT = [sys.executable, "-m", "sft.cli.main"]
FULL = """\
nothing more can be written: No space left on device
  where: standard output, or a file
  fix:   make room there, or send the output elsewhere
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--version",), ("schema",)], ids=["short", "long"])
def test_output_that_cannot_be_written_is_the_environments_fault(
    words: tuple[str, ...], unbuffered: str
) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SFT, *words], stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (ExitCode.ENVIRONMENT, FULL)


@pytest.mark.parametrize("words", [("--version",), ("schema",)], ids=["short", "long"])
def test_a_reader_that_has_gone_is_no_news(words: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([*SFT, *words], stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_the_terminal_has_not_are_escaped(
    encoding: str, tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    words = ["--model_name_or_path", str(tiny_model), "--dataset_name", str(tiny_chats), "--use_cpu"]
    words += [
        "--output_dir",
        str(tmp_path / "out"),
        "--report_to",
        "none",
        "--run_name",
        "caf\u00e9 \u6a21\u578b",
    ]
    (tmp_path / "run.yaml").write_text("max_length: 128\n")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "SFT_CACHE": str(tmp_path)}
    done = subprocess.run(
        [*SFT, "check", tmp_path / "run.yaml", *words], capture_output=True, env=environment, check=True
    )
    named = "run_name: caf\u00e9 \u6a21\u578b  (--run_name)".encode(encoding, "backslashreplace")
    assert named in done.stdout.splitlines()


def test_a_file_that_may_not_be_used_is_the_environments_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no module says it better: the rows of a data set in a directory of somebody else's."""
    place = tmp_path / "theirs"
    place.mkdir()
    place.chmod(0)
    words = ["--model_name_or_path", "org/model", "--dataset_name", str(place), "--output_dir", str(tmp_path)]
    (tmp_path / "run.yaml").write_text("max_length: 128\n")
    with as_anybody():
        code = main(["data", "show", str(tmp_path / "run.yaml"), *words])
    place.chmod(0o755)
    told = capsys.readouterr().err
    assert code == ExitCode.ENVIRONMENT
    assert told.startswith(f"a file or a directory cannot be used: Permission denied\n  where: {place}")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(words: list[str]) -> int:
        raise FileNotFoundError(2, "No such file or directory", "/not/there")

    monkeypatch.setattr("sft.cli.main._dispatch", broken)
    with pytest.raises(FileNotFoundError):
        main(["check"])
