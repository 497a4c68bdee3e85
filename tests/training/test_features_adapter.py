"""LoRA: its variants, its targets, and what is trained whole beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from peft.tuners.lora import LoraLayer

from sft.errors import ExitCode, UserError
from sft.training.failure import explain
from tests.training.conftest import Train

LEAVES = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


def adapted(trained: Any) -> set[str]:
    """Name the layers that got an adapter, below `model.layers`."""
    modules = trained.trainer.model.base_model.model.named_modules()
    return {name.removeprefix("model.layers.") for name, module in modules if isinstance(module, LoraLayer)}


def adapter_config(trained: Any) -> dict[str, Any]:
    return json.loads((trained.run.output_dir / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["q_proj"], {"0.self_attn.q_proj", "1.self_attn.q_proj"}),
        (
            ["q_proj", "mlp.up_proj"],
            {f"{n}.{name}" for n in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")},
        ),
        (r".*layers\.1\..*\.[qv]_proj", {"1.self_attn.q_proj", "1.self_attn.v_proj"}),
        ([r".*layers\.1\..*\.[qv]_proj"], {"1.self_attn.q_proj", "1.self_attn.v_proj"}),
    ],
    ids=["list of one", "list", "regex", "regex in a list, as a flag gives it"],
)
def test_targets_are_the_layers_that_are_named(train: Train, targets: Any, names: set[str]) -> None:
    trained = train(use_peft=True, lora_target_modules=targets, max_steps=1)
    assert adapted(trained) == names


@pytest.mark.parametrize("words", [(), ("--lora_target_modules", "all-linear")], ids=["file", "flag"])
def test_all_linear_is_every_linear_layer_but_the_head(train: Train, words: tuple[str, ...]) -> None:
    more = {} if words else {"lora_target_modules": "all-linear"}
    trained = train(*words, use_peft=True, max_steps=1, **more)
    assert {name.rsplit(".", 1)[-1] for name in adapted(trained)} == set(LEAVES.split(", "))
    assert len(adapted(trained)) == 14


@pytest.mark.parametrize(
    ("targets", "missing", "known"),
    [
        (["q_prj", "v_prj"], "q_prj, v_prj", LEAVES),
        (["q_prj"], "q_prj", LEAVES),
        (r".*\.layers\.9\..*", r".*\.layers\.9\..*", LEAVES),
        (["q_proj", "v_prj"], "v_prj", LEAVES),
    ],
    ids=["whole list", "list of one", "regex", "one name of a list"],
)
def test_target_that_matches_nothing_is_refused(train: Train, targets: Any, missing: str, known: str) -> None:
    with pytest.raises(UserError) as caught:
        train(use_peft=True, lora_target_modules=targets)
    assert caught.value.exit_code == ExitCode.USAGE
    assert str(caught.value) == (
        f"lora_target_modules: {missing} matches no module of the model\n"
        "  where: lora_target_modules\n"
        f"  fix:   the model's linear layers are {known}; or use all-linear"
    )


def test_rslora_scales_by_the_root_of_the_rank(train: Train) -> None:
    common = {"use_peft": True, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "learning_rate": 1e-2}
    plain, stabilised = train(**common), train(**common, use_rslora=True)
    scalings = [
        next(
            module.scaling["default"]
            for module in run.trainer.model.modules()
            if isinstance(module, LoraLayer)
        )
        for run in (plain, stabilised)
    ]
    assert scalings == [32 / 16, 32 / 4]
    assert adapter_config(stabilised)["use_rslora"] is True
    # An adapter begins at zero, whatever its scale; from the first update on it matters.
    assert stabilised.losses[0] == plain.losses[0]
    assert stabilised.losses[1] < plain.losses[1] - 0.02


def test_dora_trains_magnitudes_too(train: Train) -> None:
    trained = train(use_peft=True, use_dora=True, lora_target_modules=["q_proj", "v_proj"], lora_r=4)
    assert adapter_config(trained)["use_dora"] is True
    # Two layers; q: 64 -> 64, v: 64 -> 32; a magnitude for each output.
    matrices = 2 * 4 * ((64 + 64) + (64 + 32))
    assert trained.summary["trainable"] == matrices + 2 * (64 + 32)
    assert trained.losses[-1] < trained.losses[0]


def test_modules_to_save_are_trained_whole_and_saved(train: Train) -> None:
    from safetensors.torch import load_file

    trained = train(
        use_peft=True, lora_target_modules=["q_proj"], lora_r=4, lora_modules_to_save=["embed_tokens"]
    )
    assert trained.summary["trainable"] == 2 * 4 * (64 + 64) + 512 * 64
    saved = load_file(trained.run.output_dir / "adapter_model.safetensors")
    assert [tuple(tensor.shape) for name, tensor in saved.items() if "embed_tokens" in name] == [(512, 64)]


def test_module_to_save_that_is_not_there_is_refused(train: Train) -> None:
    with pytest.raises(UserError) as caught:
        train(use_peft=True, lora_modules_to_save=["embed_tokens", "score"])
    assert explain(caught.value)[0] == ExitCode.USAGE
    assert str(caught.value) == (
        "lora_modules_to_save: score matches no module of the model\n"
        "  where: lora_modules_to_save\n"
        "  fix:   the usual ones are embed_tokens and lm_head; print(model) shows the names"
    )


def test_full_fine_tuning_trains_every_parameter(train: Train) -> None:
    summary = train(max_steps=1).summary
    assert summary["trainable"] == summary["parameters"] == 106_816
    assert summary["trainable_percent"] == 100
