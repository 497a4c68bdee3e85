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

EXPERTS_BY_NAME: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    **dict.fromkeys(("mixtral", "minimax", "minimax_m2"), (frozenset({"w1", "w3"}), frozenset({"w2"}))),
    **dict.fromkeys(
        ("qwen3_moe", "qwen3_next", "olmoe", "flex_olmo", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1",
         "ernie4_5_moe", "glm4_moe", "glm4_moe_lite", "afmoe", "longcat_flash", "hunyuan_v1_moe", "exaone_moe", "cohere2_moe",
         "solar_open"),
        (frozenset({"gate_proj", "up_proj"}), frozenset({"down_proj"})),
    ),
}  # fmt: skip
"""Family -> the names by which one expert's matrices are asked for: the two that are held as one, and the third.

transformers holds the matrices of all experts as two tensors. For these families PEFT adapts those where all of a tensor's
names are asked for, also by all-linear; for others it leaves experts alone.

Source:
    peft/utils/transformers_weight_conversion.py, _convert_peft_config_moe, of PEFT 0.21.
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


def adapted_experts(family: str, targets: Targets) -> tuple[bool, bool]:
    """Whether an adapter is laid on the experts' first tensor, gate and up together, and on their second."""
    names = EXPERTS_BY_NAME.get(family)
    if names is None or targets is None:
        return False, False
    if isinstance(targets, (list, tuple)) and len(targets) == 1:
        targets = targets[0]
    if targets == "all-linear":
        return True, True
    first, second = (
        all(is_target(f"model.layers.0.mlp.experts.{name}", targets) for name in group) for group in names
    )
    return first, second
