"""Places that permissions keep from the user: told once, with exit code 4, and the other checks go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.errors import ExitCode
from tests.check.corpus.bench import Bench, make_bench
from tests.check.corpus.spoil import forbid


@pytest.fixture
def bench(tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(tmp_path, tiny_model, tiny_chats, monkeypatch)


@pytest.mark.parametrize("below", ["", "/place", "/place/checkpoint-3"])
@pytest.mark.parametrize("key", ["model_name_or_path", "dataset_name", "output_dir"])
def test_a_locked_place_is_told_once(bench: Bench, key: str, below: str) -> None:
    locked = bench.directory / "theirs"
    (locked / "place").mkdir(parents=True)
    bench.settings[key] = f"{locked}{below}"
    forbid(bench, locked)
    with bench.stack:
        found = bench.look().of("error")
    within = f" in {locked}" if below else ""
    yours = "set output_dir to a directory of yours"
    assert [str(one) for one in found] == [
        f"{locked}{below} cannot be looked at: permission denied{within}\n"
        f"  where: {bench.directory / 'run.yaml'}:1\n"
        f"  fix:   {yours if key == 'output_dir' else f'ask the owner for `chmod a+rx {locked}`, or name another place'}"
    ]
    assert {one.exit_code for one in found} == {ExitCode.ENVIRONMENT}


@pytest.mark.parametrize(("key", "what"), [("dataset_name", "data set"), ("model_name_or_path", "model")])
@pytest.mark.parametrize("name", ["a--b", "org/x..y", "-x", "x" * 97])
def test_a_name_that_the_hub_does_not_take_is_told(bench: Bench, key: str, what: str, name: str) -> None:
    bench.settings[key] = name
    told = [str(one) for one in bench.look(["paths"]).of("error")]
    assert told == [
        f"the {what} {name} is not there, and no name that the Hub takes either\n"
        f"  where: {bench.directory / 'run.yaml'}:1\n"
        "  fix:   check the name: at most 96 letters, digits, -, _ and ., not two of - or . in a row"
    ]
