"""What an adapter is laid beside: the modules of a model that it names."""

from __future__ import annotations

import re
from collections.abc import Sequence

EMBEDDINGS = re.compile(r"embed|wte|wpe|word_embeddings")
HEADS = re.compile(r"(?:^|\.)(?:lm_head|output_layer|score)$")
QUERY_AND_VALUE = ("q_proj", "v_proj")
OWN_CHOICE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("llama", "llama4", "mistral", "mixtral", "stablelm", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "opt",
         "gptj", "gpt_neo"),
        QUERY_AND_VALUE,
    ),
    **dict.fromkeys(("bloom", "gpt_neox", "falcon", "RefinedWebModel", "RefinedWeb", "chatglm"), ("query_key_value",)),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), ("c_attn",)),
    "phi": (*QUERY_AND_VALUE, "fc1", "fc2"),
    "mpt": ("Wqkv",),
    "codegen": ("qkv_proj",),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
}  # fmt: skip
"""Family -> the modules that PEFT takes where none are named.

Source:
    peft/utils/constants.py, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING of PEFT 0.21.
"""

Targets = str | Sequence[str] | None


def targets_of(family: str | None, named: Targets) -> Targets:
    """Return what an adapter is laid beside; None where neither the run file nor PEFT says."""
    if named is not None:
        return named
    return OWN_CHOICE.get(family or "")


def is_target(path: str, targets: Targets) -> bool:
    """Whether a matrix gets an adapter; every one but embeddings and head where nobody says which."""
    if isinstance(targets, (list, tuple)) and len(targets) == 1:
        targets = targets[0]  # TRL makes a pattern, or all-linear, of a list's only member
    if targets is None or targets == "all-linear":
        return not EMBEDDINGS.search(path) and not HEADS.search(path)
    if isinstance(targets, str):
        if path == targets or path.endswith(f".{targets}"):
            return True
        try:
            return re.fullmatch(targets, path) is not None
        except re.error:
            return False
    return any(path == target or path.endswith(f".{target}") for target in targets)
