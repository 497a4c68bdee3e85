"""`--json` of a command that has no answer to give: the problems, on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sft.cli.main import main


@pytest.mark.parametrize("command", ["check", "plan"])
def test_a_run_file_that_is_refused_is_a_document_too(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text("model_name_or_path: x\ndataset_name: y\nlearnin_rate: 1\n")
    assert main([command, str(run_file), "--json"]) == 2
    out, err = capsys.readouterr()
    (finding,) = json.loads(out)["findings"]
    assert (finding["check"], finding["gravity"]) == ("run file", "error")
    assert finding["what"] == "unknown key learnin_rate"
    assert finding["where"] == f"{run_file}:3"
    assert finding["fix"] in err
    assert main([command, str(run_file)]) == 2
    assert capsys.readouterr().out == ""
