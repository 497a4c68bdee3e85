"""Make adapters with random weights that change the model, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_adapter(
    base: Path, directory: Path, *, resize_to: int | None = None, std: float = 0.05, **settings: Any
) -> Path:
    """Save an adapter for `base` whose every weight is random (seed 1), as training would leave it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    if resize_to is not None:
        model.resize_token_embeddings(resize_to)
    torch.manual_seed(1)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
    peft_model = get_peft_model(model, LoraConfig(**settings))
    for name, parameter in peft_model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data.add_(torch.randn_like(parameter) * std)
    peft_model.save_pretrained(directory)
    return directory


def write_run(output_dir: Path, **settings: Any) -> Path:
    """Leave beside an adapter what a run leaves there: the resolved run file."""
    import json

    (output_dir / "_sft").mkdir(parents=True)
    # JSON is YAML
    (output_dir / "_sft" / "run.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return output_dir
