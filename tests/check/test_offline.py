"""What the ranks will load is there, or it is said what is missing and what brings it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from sft.check.offline import look_here
from sft.errors import UserError
from tests.check.made import write_run

FETCH = "where there is a network: sft fetch {run} --max_length 64"


@pytest.fixture(autouse=True)
def _no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched or prepared yet."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "prepared"))


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoiled."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def problems(run: Path) -> list[str]:
    """Look, in this process, and return what is said to be wrong."""
    found = look_here(str(run), ["--max_length", "64"], False)
    return [f"{problem['what']} | {problem['fix']}" for problem in found["problems"]]


def shard(model: Path) -> None:
    """Give the model an index of two shards, of which the second is not there."""
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_a_run_that_has_all_says_where(model: Path, tiny_chats: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path, model_name_or_path=str(model), dataset_name=str(tiny_chats))
    found = look_here(str(run), ["--max_length", "64"], False)
    assert found["missing"] == ["the prepared data"]
    assert found["problems"][0]["fix"] == f"sft fetch {run} --max_length 64"
    found = look_here(str(run), ["--max_length", "64"], True)
    assert found["problems"] == []
    assert found["places"][0] == str(model)
    assert (Path(found["places"][1]) / "manifest.json").is_file()
    assert found["rows"] == 200
    assert look_here(str(run), ["--max_length", "64"], False) == found


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda model: (model / "config.json").unlink(), "config.json is not there", id="config"),
        pytest.param(
            lambda model: (model / "model.safetensors").unlink(),
            "model.safetensors is not there",
            id="weights",
        ),
        pytest.param(shard, "model-00002-of-00002.safetensors is not there", id="shard"),
        pytest.param(
            lambda model: (model / "model.safetensors").write_bytes(
                (model / "model.safetensors").read_bytes()[:-10]
            ),
            "model.safetensors is torn: it has {short} bytes, and its header tells of {size}",
            id="torn",
        ),
        pytest.param(
            lambda model: (model / "model.safetensors").write_bytes(b"<html>"),
            "model.safetensors is no safetensors file",
            id="a-proxy's-page",
        ),
    ],
)
def test_a_model_that_is_not_whole_is_told(
    model: Path, tiny_chats: Path, tmp_path: Path, spoil: object, said: str
) -> None:
    size = (model / "model.safetensors").stat().st_size
    spoil(model)  # type: ignore[operator]
    run = write_run(tmp_path, model_name_or_path=str(model), dataset_name=str(tiny_chats))
    said = said.format(short=f"{size - 10:,}", size=f"{size:,}")
    assert problems(run) == [f"the model {model} is not whole: {said} | copy it there again, whole"]


def test_code_that_a_model_refers_to_must_be_there(model: Path, tiny_chats: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_own.Own", "AutoModel": "org/other--modeling.Own"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "configuration_own.py").write_text("from .parts import x\nfrom . import deep\nimport json\n")
    (model / "parts.py").write_text("")
    settings = {"model_name_or_path": str(model), "dataset_name": str(tiny_chats)}
    assert problems(write_run(tmp_path, **settings, trust_remote_code=True)) == [
        f"the model {model} is not whole: {reason} | copy it there again, whole"
        for reason in (
            "deep.py is not there, which its auto_map or its code names",
            "modeling.py of org/other is not in the cache",
        )
    ]
    assert "deep.py" not in str(problems(write_run(tmp_path, **settings)))


def test_names_on_the_hub_are_looked_for_in_its_cache(tiny_model: Path, tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        model_name_or_path="org/model",
        model_revision="v1",
        dataset_name="org/chats",
        chat_template_path="org/template",
    )
    fetch = FETCH.format(run=run)
    assert problems(run) == [
        f"the model org/model at v1 is not in the Hub's cache {tmp_path / 'hub'} | {fetch}",
        f"the tokenizer org/template is not in the Hub's cache {tmp_path / 'hub'} | {fetch}",
        f"the data set org/chats is not in the cache of `datasets` | {fetch}",
    ]


def test_what_can_never_run_offline_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    run = write_run(
        tmp_path,
        model_name_or_path=str(tiny_model),
        dataset_name="org/chats",
        dataset_streaming=True,
        attn_implementation="kernels-community/flash-attn3:flash",
    )
    assert [line.partition(" | ")[0] for line in problems(run)] == [
        "the rows of org/chats are read from the network while the run trains (dataset_streaming: rows are read while"
        " training, so nothing can be prepared or counted)",
        "the attention kernel kernels-community/flash-attn3 is fetched from the Hub when the model is loaded, and is"
        " not in its cache",
    ]


def test_a_cache_that_only_the_ranks_use_is_refused(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path
) -> None:
    run = write_run(
        tmp_path,
        model_name_or_path=str(tiny_model),
        dataset_name=str(tiny_chats),
        env={"HF_HOME": "/work/hub"},
    )
    with pytest.raises(UserError) as raised:
        problems(run)
    assert str(raised.value) == (
        "env: sets HF_HOME for the training processes alone: what is fetched here would not be found there\n"
        "  where: env\n"
        "  fix:   export HF_HOME=/work/hub on the login node and in launch.setup, and remove it from env:"
    )
