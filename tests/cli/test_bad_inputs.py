"""Every bad input through the command line: one message that names file, row and fix, its exit code, no traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sft.cli.main import main
from tests.data import tables
from tests.data.bad_files import BAD_FILES, BadFile
from tests.data.bad_rows import BAD_ROWS, BadRowCase
from tests.data.bad_settings import BAD_SETTINGS, BadSettings


def prepare(tmp_path: Path, model: Path, settings: dict[str, Any], *words: str) -> int:
    from ruamel.yaml import YAML

    if settings.pop("evaluates", False):
        settings |= {"eval_strategy": "steps", "eval_steps": 5}
    whole = {
        "model_name_or_path": str(model),
        "output_dir": str(tmp_path / "out"),
        "data_cache": str(tmp_path / "cache"),
        **settings,
    }
    with (tmp_path / "run.yaml").open("w", encoding="utf-8") as stream:
        writer = YAML(typ="safe")
        writer.default_flow_style, writer.width = False, 1000
        writer.dump(whole, stream)
    return main(["data", "prepare", str(tmp_path / "run.yaml"), *words])


def told(message: str, tmp_path: Path) -> str:
    """Give a key back its name where the command line says the line of the run file that it stands at."""
    place = re.escape(str(tmp_path / "run.yaml"))
    lines = (tmp_path / "run.yaml").read_text().splitlines()

    def key(found: re.Match[str]) -> str:
        number = int(found[1])
        above = [line for line in lines[:number] if not line.startswith((" ", "-"))]
        return above[-1].partition(":")[0]

    return re.sub(rf"(?<=where: ){place}:(\d+)(?=\n|$)", key, message)


@pytest.mark.parametrize("case", BAD_FILES, ids=lambda case: case.name)
def test_a_bad_file_is_told(
    case: BadFile, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if case.skip:
        pytest.skip(case.skip)
    here = tmp_path / "data"
    here.mkdir()
    settings = dict(case.build(here))
    capsys.readouterr()  # what writing it has printed
    code = prepare(tmp_path, tiny_model, settings)
    shown = capsys.readouterr()
    assert told(shown.err.strip(), tmp_path) == case.message.replace("{here}", str(here))
    assert (code, shown.out) == (case.exit_code, "")


@pytest.mark.parametrize("case", BAD_ROWS, ids=lambda case: case.name)
def test_a_bad_row_is_told(
    case: BadRowCase, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = case.in_folder(tmp_path)
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in case.rows))
    settings = {**case.settings, "dataset_name": str(data)}
    code = prepare(tmp_path, tiny_model, settings, *([] if case.malformed else ["--strict"]))
    message = told(capsys.readouterr().err.strip(), tmp_path)

    place = f"{data}:{len(case.rows)}"
    if case.reason is None:  # the user's own code
        expected = f"{place}: {case.what}\n  where: {case.where}\n  fix:   {case.fix}"
    else:
        expected = f"{case.what}\n  where: {place}\n  fix:   {case.fix}"
    assert (code, message) == (2, expected)


@pytest.mark.parametrize("case", BAD_SETTINGS, ids=lambda case: case.name)
def test_bad_settings_are_told(
    case: BadSettings, tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "data"
    here.mkdir()
    settings = case.build(here, tiny_model)
    code = prepare(tmp_path, tiny_model, settings, *case.words)
    message = case.message.replace("{here}", str(here)).replace("{model}", settings["model_name_or_path"])
    assert (code, told(capsys.readouterr().err.strip(), tmp_path)) == (2, message)


def test_the_page_of_bad_inputs_is_made_of_these_lists() -> None:
    assert len(BAD_FILES) + len(BAD_ROWS) + len(BAD_SETTINGS) >= 60
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(), "run: python -m tests.data.tables"
