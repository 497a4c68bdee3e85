"""What only a GPU can show: that each setting that needs one trains, and is really at work.

Skipped where there is none. No machine that this was written on had one: it has not been run. The CPU's side of the
same settings, that each is refused with a message, is in tests/plan/test_combinations.py and
test_features_precision.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import Train
from tests.training.launching import launch, succeeded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: CUDA is not available")


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs the package {package}")


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The shared settings, on the GPU in bfloat16."""
    return {**settings, "use_cpu": False, "bf16": True}


def test_one_gpu_trains_in_bfloat16(train: Train) -> None:
    trained = train()
    assert next(trained.trainer.model.parameters()).device.type == "cuda"
    assert trained.losses[-1] < trained.losses[0]
    assert trained.logs[-1]["peak_memory_bytes"] == torch.cuda.max_memory_reserved()


def test_fp16_scales_the_loss(train: Train) -> None:
    trained = train(bf16=False, fp16=True)
    assert trained.trainer.accelerator.scaler is not None
    assert trained.losses == pytest.approx(train(bf16=False).losses, abs=0.05)


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
@needs("flash_attn")
def test_flash_attention_trains_as_sdpa_does(train: Train, packing: bool) -> None:
    common = {"dtype": "bfloat16", "packing": packing}
    flash = train(**common, attn_implementation="flash_attention_2")
    assert flash.summary["attention"] == "flash_attention_2"
    assert flash.losses == pytest.approx(train(**common, attn_implementation="sdpa").losses, abs=0.05)


@needs("liger_kernel")
def test_liger_kernels_train_as_the_plain_ones_do(train: Train) -> None:
    liger = train(use_liger_kernel=True)
    assert any("liger" in type(module).__module__ for module in liger.trainer.model.modules()) or any(
        "liger" in getattr(module.forward, "__module__", "") for module in liger.trainer.model.modules()
    )
    assert liger.losses == pytest.approx(train().losses, abs=0.05)


@pytest.mark.parametrize("optim", ["paged_adamw_8bit", "paged_adamw_32bit", "galore_adamw_8bit"])
def test_optimizers_of_bitsandbytes(train: Train, optim: str) -> None:
    more = {"optim_target_modules": "all-linear"} if optim.startswith("galore") else {}
    trained = train(optim=optim, **more)
    assert trained.losses == pytest.approx(train().losses, abs=0.2)
    optimizer = trained.trainer.optimizer.optimizer
    assert getattr(optimizer, "is_paged", False) is optim.startswith("paged")


@needs("torchao")
def test_four_bit_adamw(train: Train) -> None:
    assert train(optim="adamw_torch_4bit").losses == pytest.approx(train().losses, abs=0.05)


def test_activation_offloading_changes_no_loss(train: Train) -> None:
    offloaded = train(activation_offloading=True, gradient_checkpointing=False)
    assert offloaded.losses == pytest.approx(train(gradient_checkpointing=False).losses, abs=1e-3)


def test_compiled_model_trains_the_same(train: Train) -> None:
    assert train(torch_compile=True).losses == pytest.approx(train().losses, abs=0.02)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_qlora_on_the_gpu(train: Train, kind: str) -> None:
    trained = train(
        use_peft=True, load_in_4bit=True, bnb_4bit_quant_type=kind, dtype="bfloat16", learning_rate=1e-2
    )
    assert trained.summary["quantized"] == f"4-bit {kind} 73,728"
    assert trained.losses[-1] < trained.losses[0]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_fsdp2_alone_is_fsdp2_without_any_patch(
    settings: dict[str, Any], tmp_path: Path, method: str
) -> None:
    more = {"use_peft": True, "lora_target_modules": "all-linear"} if method == "lora" else {}
    common = {**settings, **more, "lora_dropout": 0.0} if more else settings
    gpu = {"gpus_per_node": 1}
    single = succeeded(launch(tmp_path / "single", {**common, "launch": {**gpu, "strategy": "single"}}))
    sharded = succeeded(launch(tmp_path / "fsdp2", {**common, "launch": {**gpu, "strategy": "fsdp2"}}))
    assert sharded.losses == pytest.approx(single.losses, abs=0.02)
