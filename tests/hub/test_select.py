"""What the installed libraries really save is what goes."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from sft.hub.outbox import request_push
from sft.hub.select import model_files
from sft.hub.settings import HubSettings
from sft.rundir import RunDirectory
from tests.hub.conftest import Push
from tests.loopback.hub import Hub


def test_everything_that_a_real_model_saves_arrives_byte_for_byte(
    hub: Hub, run: RunDirectory, push: Push, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, run.output_dir, dirs_exist_ok=True)
    request_push(run, HubSettings(repo="team/tiny", strategy="end"), "end", 6)
    assert push().problem is None
    assert hub.files("team/tiny") == {path.name: path.read_bytes() for path in tiny_model.iterdir()}


def test_the_vocabulary_files_of_every_tokenizer_in_transformers_are_known(tmp_path: Path) -> None:
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    names = {
        name
        for source in (Path(spec.origin).parent / "models").glob("*/tokenization_*.py")
        for table in re.findall(
            r"VOCAB_FILES_NAMES\s*=\s*\{(.*?)\}", source.read_text(encoding="utf-8"), re.DOTALL
        )
        for name in re.findall(r":\s*\"([^\"]+)\"", table)
    }
    assert len(names) > 10
    for name in names:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert {path.name for path in model_files(tmp_path)} == names
