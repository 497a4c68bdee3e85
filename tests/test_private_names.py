"""Every private name of another package that the kit uses, with the reason: an upgrade looks here first."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import sft
from sft.checkpoint.capture import BY_NAME

REASONS = {
    "state.PartialState._prepare_backend": "accelerate runs FSDP on accelerators only; a rehearsal has CPU processes pass"
    " for them",
    "super()._save_checkpoint": "transformers pushes, rotates and calls on_save in one breath, and has no hook around"
    " the writing",
    "Trainer._save_checkpoint": "the same, without TRL's own step of it, which writes a model card",
    "super()._load_from_checkpoint": "PEFT's load_adapter makes float32 of an adapter that was trained in bfloat16",
    "self.deepspeed._zero3_consolidated_16bit_state_dict": "it gathers frozen weights too and broadcasts what it gathered;"
    " transformers and accelerate call it by this name, which is set to the kit's own",
    "DeepSpeedEngine._zero3_consolidated_16bit_state_dict": "used as it is where shards lie on NVMe or are quantized",
    "super()._run_epoch": "it looks whether to stop after a step only: one too many where none is left to take",
    "super()._maybe_log_save_evaluate": "no hook stands between the evaluation that a stop ends and the save after it",
    "model._weight_conversions": "transformers' own record of how a checkpoint's names became the model's",
    "AutoModelForCausalLM._model_mapping": "there is no public way to ask for a class without its weights",
    "self._run._next_step": "trackio counts steps by itself, and a replay has to go on where it stopped",
    "parser._actions": "argparse has no public way to list what a parser takes (the completion script)",
    "argparse._SubParsersAction": "the same",
    "launch_command_parser()._action_groups": "the same, of accelerate's parser (which keys its file may have)",
    "group._group_actions": "the same",
    "reader._initialize_params": "DeepSpeed's configuration reads its keys there and nowhere else",
    "os._exit": "no private name but Python's own way to end without an interpreter's orderly end",
}


INHERITED = {
    "_evaluate": "its public `evaluate` does not step a schedule that goes by a metric",
    "_determine_best_metric": "the best evaluation is found there and nowhere else",
    "_metrics": "TRL would log what a broken-off evaluation has gathered with the next one",
    "_total_train_tokens": "TRL's `num_tokens`, which it neither saves nor restores",
}
"""Private names of SFTTrainer and its bases that the trainer's subclass uses on itself."""


def _uses() -> set[str]:
    found = set()
    for path in sorted(Path(sft.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                not isinstance(node, ast.Attribute)
                or not node.attr.startswith("_")
                or node.attr.startswith("__")
            ):
                continue
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                continue
            found.add(ast.unparse(node))
    return found


def test_every_private_name_is_listed_with_its_reason() -> None:
    # `self._printer._view` is one class of the kit looking into another of the same file.
    assert _uses() - {"self._printer._view"} == set(REASONS)


def test_what_the_trainer_inherits_and_uses_is_listed_with_its_reason() -> None:
    source = Path(sft.__file__).with_name("training").joinpath("trainer.py").read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source)))
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    assert {name for name in used - own if name.startswith("_")} == set(INHERITED)


@pytest.mark.parametrize(("module", "name", "reason"), BY_NAME)
def test_names_that_a_save_replaces_are_there_and_are_what_they_were_taken_for(
    module: str, name: str, reason: str
) -> None:
    import safetensors.torch

    assert getattr(importlib.import_module(module), name) is safetensors.torch.save_file
    assert reason


def test_the_trainer_still_has_what_is_overridden() -> None:
    from trl import SFTTrainer

    for use in REASONS:
        if use.startswith("super()."):
            assert inspect.isfunction(inspect.getattr_static(SFTTrainer, use.removeprefix("super().")))
