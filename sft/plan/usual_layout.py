"""The layout that a model's weights usually have: Llama's names, for a model whose files are not at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sft.plan.weights import Tensor


def usual_layout(
    config: Mapping[str, Any], value: Mapping[str, int | None], kv_heads: int, head_size: int
) -> Iterator[Tensor]:
    """Lay out a model as Llama's weights are, with a mixture of experts where the configuration has one."""
    dtype = {"bfloat16": "BF16", "float16": "F16"}.get(
        str(config.get("dtype") or config.get("torch_dtype")), "F32"
    )
    hidden, heads = value["hidden"] or 0, value["heads"] or 0
    wide, vocabulary = value["intermediate"] or 4 * hidden, value["vocabulary"] or 0
    yield Tensor("model.embed_tokens.weight", (vocabulary, hidden), dtype)
    for index in range(value["layers"] or 0):
        start = f"model.layers.{index}."
        sizes = {"q_proj": (heads, hidden), "k_proj": (kv_heads, hidden), "v_proj": (kv_heads, hidden)}
        for name, (count, inputs) in sizes.items():
            yield Tensor(f"{start}self_attn.{name}.weight", (count * head_size, inputs), dtype)
        yield Tensor(f"{start}self_attn.o_proj.weight", (hidden, heads * head_size), dtype)
        experts = value["experts"]
        if experts:
            narrow = value["expert_intermediate"] or wide
            yield Tensor(f"{start}mlp.gate.weight", (experts, hidden), dtype)
            yield Tensor(f"{start}mlp.experts.gate_up_proj", (experts, 2 * narrow, hidden), dtype)
            yield Tensor(f"{start}mlp.experts.down_proj", (experts, hidden, narrow), dtype)
        else:
            for name, shape in (
                ("gate_proj", (wide, hidden)),
                ("up_proj", (wide, hidden)),
                ("down_proj", (hidden, wide)),
            ):
                yield Tensor(f"{start}mlp.{name}.weight", shape, dtype)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield Tensor(f"{start}{name}.weight", (hidden,), dtype)
    yield Tensor("model.norm.weight", (hidden,), dtype)
    if not config.get("tie_word_embeddings", True):
        yield Tensor("lm_head.weight", (vocabulary, hidden), dtype)
