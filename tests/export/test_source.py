"""Finding an adapter, and every reason not to merge: whole messages, before any weight is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sft.errors import ExitCode, UserError
from sft.export.source import Quantization, find_adapter
from tests.export.adapters import write_adapter, write_run


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture
def own(adapter: Path, tmp_path: Path) -> Path:
    """A copy of the adapter that a test may break."""
    return Path(shutil.copytree(adapter, tmp_path / "own"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(source: Path, **settings: str) -> UserError:
    with pytest.raises(UserError) as caught:
        find_adapter(source, **settings)  # type: ignore[arg-type]
    return caught.value


def test_a_bare_adapter_says_that_its_base_is_taken_as_unquantised(adapter: Path, tiny_model: Path) -> None:
    found = find_adapter(adapter)

    assert (found.base, found.quantization) == (str(tiny_model), None)
    assert found.notes == [
        f"{adapter} does not say how its base was loaded; taken as unquantised "
        "(--load_in_4bit or --load_in_8bit say otherwise)"
    ]


def test_a_run_says_how_its_base_was_held(own: Path) -> None:
    write_run(own, load_in_4bit=True, use_bnb_nested_quant=True, dtype="bfloat16", model_revision="main")

    found = find_adapter(own)

    assert found.quantization == Quantization(bits=4, quant_type="nf4", double=True, load_dtype="bfloat16")
    assert found.notes == []


def test_the_newest_complete_checkpoint_stands_in_for_a_final_adapter(adapter: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", load_in_8bit=True)
    for step in (5, 20, 100):
        shutil.copytree(adapter, run / f"checkpoint-{step}")
    for step in (5, 20):
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")

    found = find_adapter(run)

    assert found.adapter == run / "checkpoint-20"
    assert found.quantization == Quantization(bits=8, load_dtype="float32")
    assert found.notes == [
        f"{run} has no final adapter; merging checkpoint-20, its newest complete checkpoint"
    ]
    assert set(found.forbidden_outputs) == {run, run / "checkpoint-20"}
    assert find_adapter(run / "checkpoint-5").quantization == found.quantization


def test_a_fully_fine_tuned_run_has_nothing_to_merge(tiny_model: Path) -> None:
    assert str(refused(tiny_model)) == (
        f"there is nothing to merge: {tiny_model} holds a whole model, not an adapter\n"
        "  fix:   use it as it is; only a run with use_peft: true leaves an adapter"
    )


def test_a_directory_without_adapter_is_refused(tmp_path: Path) -> None:
    assert str(refused(tmp_path)) == (
        f"there is no adapter in {tmp_path}\n"
        f"  where: {tmp_path}/adapter_config.json is missing, and no checkpoint-N there is complete\n"
        "  fix:   give the output_dir of a run that saved one, or the directory of an adapter"
    )
    assert str(refused(tmp_path / "no")).startswith(f"there is no directory {tmp_path}/no\n")


def test_a_missing_half_of_an_adapter_is_named(own: Path) -> None:
    (own / "adapter_config.json").unlink()
    assert str(refused(own)) == (
        f"adapter_config.json is missing\n  where: {own}\n"
        "  fix:   copy it from where the adapter was trained: the weights alone do not say how to apply them"
    )


def test_missing_weights_are_named(own: Path) -> None:
    (own / "adapter_model.safetensors").unlink()
    assert str(refused(own)) == (
        f"adapter_model.safetensors is missing\n  where: {own}\n"
        "  fix:   take a checkpoint that is complete, or save the adapter again"
    )


def test_torn_weights_are_named(own: Path) -> None:
    weights = own / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    error = refused(own)

    assert error.problems[0].what.startswith("the adapter's weights cannot be read: ")
    assert error.problems[0].where == str(weights)
    assert error.problems[0].fix == "the file is torn or was not copied whole; take another checkpoint"


def test_a_base_that_moved_is_asked_for(own: Path) -> None:
    edit(own / "adapter_config.json", base_model_name_or_path="/models/gone")

    error = refused(own)

    assert str(error) == (
        f"the base model /models/gone is not there\n  where: {own}/adapter_config.json\n"
        "  fix:   give its directory, or its name on the Hub, with --base"
    )
    assert error.exit_code == ExitCode.ENVIRONMENT
    assert refused(own, base="./nope").problems[0].where == "--base"


def test_a_base_that_is_an_adapter_is_refused(own: Path, adapter: Path) -> None:
    (own / "config.json").write_text("{}")
    assert str(refused(adapter, base=str(own))) == (
        f"the base {own} is itself an adapter\n  where: --base\n"
        "  fix:   merge that one first, and give the merged model with --base"
    )


def test_an_adapter_that_names_no_base_needs_one(own: Path) -> None:
    edit(own / "adapter_config.json", base_model_name_or_path=None)
    assert refused(own).problems[0].what == "the adapter does not name its base model"
