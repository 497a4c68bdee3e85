"""Precision, attention, checkpointing, noise and optimizers: that the one asked for is the one at work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sft.errors import ExitCode, UserError
from tests.training.conftest import Train


def optimizer(trained: Any) -> torch.optim.Optimizer:
    """The optimizer itself, under accelerate's wrapper."""
    return trained.trainer.optimizer.optimizer


def test_bf16_and_float32(train: Train) -> None:
    single, half = train(), train(bf16=True)
    assert (single.trainer.args.bf16, half.trainer.args.bf16) == (False, True)
    # Mixed precision computes in bfloat16 and keeps the weights in float32.
    assert half.summary["dtypes"] == single.summary["dtypes"] == "float32 106,816"
    assert half.losses != single.losses
    assert half.losses == pytest.approx(single.losses, abs=0.02)


def test_weights_in_bfloat16_are_loaded_and_saved_so(train: Train) -> None:
    from safetensors.torch import load_file

    trained = train(bf16=True, dtype="bfloat16")
    assert trained.summary["dtypes"] == "bfloat16 106,816"
    assert trained.summary["weight_bytes"] == 2 * 106_816
    saved = load_file(trained.run.output_dir / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}


def test_eager_and_sdpa_attention_train_the_same(train: Train) -> None:
    eager, sdpa = train(attn_implementation="eager"), train(attn_implementation="sdpa")
    assert (eager.summary["attention"], sdpa.summary["attention"]) == ("eager", "sdpa")
    assert eager.losses == pytest.approx(sdpa.losses, abs=1e-4)


def test_gradient_checkpointing_is_non_reentrant_and_changes_no_loss(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.modeling_utils

    asked: list[Any] = []
    real = transformers.modeling_utils.checkpoint

    def watched(*arguments: Any, **keywords: Any) -> Any:
        asked.append(keywords.get("use_reentrant"))
        return real(*arguments, **keywords)

    monkeypatch.setattr(transformers.modeling_utils, "checkpoint", watched)
    off = train(gradient_checkpointing=False)
    assert asked == []
    on = train(gradient_checkpointing=True)
    assert asked == [False] * 2 * 3, "two layers, three steps"
    assert on.losses == off.losses
    with_adapter = train(gradient_checkpointing=True, use_peft=True, lora_dropout=0.0)
    assert asked == [False] * 2 * 3 * 2
    assert with_adapter.losses == train(gradient_checkpointing=False, use_peft=True, lora_dropout=0.0).losses


def test_neftune_adds_noise_while_it_trains_and_leaves_none(train: Train) -> None:
    plain, noisy = train(), train(neftune_noise_alpha=5.0)
    assert noisy.losses != plain.losses
    embeddings = noisy.trainer.model.get_input_embeddings()
    assert [hook.__name__ for hook in embeddings._forward_hooks.values()] == ["make_inputs_require_grads"]
    assert not hasattr(embeddings, "neftune_noise_alpha")
    with torch.no_grad():
        rows = torch.tensor([[1, 2, 3]])
        embeddings.train()
        assert torch.equal(embeddings(rows), embeddings.weight[rows])


def test_galore_projects_the_layers_that_are_named(train: Train) -> None:
    from galore_torch import GaLoreAdamW

    trained = train(
        optim="galore_adamw", optim_target_modules=["attn"], optim_args="rank=8, update_proj_gap=2"
    )
    assert isinstance(optimizer(trained), GaLoreAdamW)
    projected = [group for group in optimizer(trained).param_groups if "rank" in group]
    assert [(group["rank"], group["update_proj_gap"], len(group["params"])) for group in projected] == [
        (8, 2, 8)
    ]
    assert trained.losses[-1] < trained.losses[0]


def test_apollo_projects_every_linear_layer(train: Train) -> None:
    from apollo_torch import APOLLOAdamW

    trained = train(optim="apollo_adamw", optim_target_modules="all-linear", optim_args="rank=4")
    assert isinstance(optimizer(trained), APOLLOAdamW)
    projected = [group for group in optimizer(trained).param_groups if "rank" in group]
    assert [(group["rank"], len(group["params"])) for group in projected] == [(4, 14)]
    assert trained.losses[-1] < trained.losses[0]


def test_eight_bit_adamw_keeps_its_moments_in_a_byte(train: Train) -> None:
    from bitsandbytes.optim import AdamW

    plain, small = train(), train(optim="adamw_8bit")
    assert isinstance(optimizer(small), AdamW)
    states = optimizer(small).state
    moments = {len(parameter.view(-1)): state["state1"].dtype for parameter, state in states.items()}
    assert moments[128 * 64] == torch.uint8
    assert moments[64] == torch.float32, "bitsandbytes leaves small tensors alone"
    assert moments[512 * 64] == torch.float32, "and transformers embeddings, for stability"
    assert small.losses == pytest.approx(plain.losses, abs=0.01)


@pytest.mark.parametrize(
    ("more", "package", "extra"),
    [
        ({"attn_implementation": "flash_attention_2"}, "flash_attn", "flash-attn"),
        ({"use_liger_kernel": True}, "liger_kernel", "liger"),
    ],
)
def test_missing_package_names_the_command_that_brings_it(
    train: Train, more: dict[str, Any], package: str, extra: str
) -> None:
    with pytest.raises(UserError) as caught:
        train(**more)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    problem = caught.value.problems[0]
    assert problem.what == f"the package {package} is not installed"
    assert problem.fix is not None
    assert problem.fix.endswith(f'"sft[{extra}]"')


def test_missing_optimizer_without_an_extra_names_the_package(train: Train) -> None:
    with pytest.raises(UserError) as caught:
        train(optim="adamw_torch_4bit")
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == (
        "the package torchao is not installed, which optim: adamw_torch_4bit needs\n"
        "  where: optim\n"
        "  fix:   pip install torchao, or choose another optim"
    )
