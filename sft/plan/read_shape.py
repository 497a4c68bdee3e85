"""Read the shape of a decoder from config.json and the headers of the weights.

Families differ in names, not in kind: a layer is what goes into attention, what comes out of it, and the same of a
feed-forward network, found by the names of matrices. What is not found there is taken from the configuration, and said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sft.plan.model_shape import MOST_LAYERS
from sft.plan.shape import Experts, LayerShape, Linear, Shape
from sft.plan.usual_layout import usual_layout
from sft.plan.weights import Tensor

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.")
ATTENTION = re.compile(r"attn|attention")
EXPERT = re.compile(r"\.experts?\.(?:\d+\.)?")
INTO_ATTENTION = (
    "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "q", "k", "v", "query", "key", "value",
)  # fmt: skip
INTO_NETWORK = (
    "gate_proj", "up_proj", "gate_up_proj", "dense_h_to_4h", "c_fc", "fc1", "fc_in", "w1", "w3", "gate", "up", "linear_1",
)  # fmt: skip
OUT_OF_NETWORK = ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "fc_out", "w2", "down", "linear_2")
ALIASES: dict[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_size": ("head_dim", "attention_head_dim"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "chosen": ("num_experts_per_tok", "moe_topk", "top_k"),
    "expert_intermediate": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "positions": ("max_position_embeddings", "n_positions", "n_ctx"),
    "window": ("sliding_window",),
}
"""What is asked for -> the keys of config.json under which families keep it."""


def read_shape(config: Mapping[str, Any], tensors: Sequence[Tensor] | None) -> Shape | None:
    """Read a model's shape; None where the configuration names no layers, heads or sizes, or a layer is of another kind
    than attention and a feed-forward network: latent attention, a state space.

    Args:
        config: config.json, of the language model within a model.
        tensors: names and shapes of the weights; a layout as Llama's is assumed without.
    """
    value = {name: _first(config, keys) for name, keys in ALIASES.items()}
    if any(value[name] is None for name in ("hidden", "layers", "heads", "vocabulary")):
        return None
    if tensors is None and (value["layers"] or 0) > MOST_LAYERS:
        return None
    if packed_by(config) is not None:
        return None
    hidden, heads = value["hidden"] or 0, value["heads"] or 0
    kv_heads = value["kv_heads"] or (1 if config.get("multi_query") else heads)
    head_size = value["head_size"] or hidden // heads
    assumed = []
    if tensors is None:
        tensors = tuple(usual_layout(config, value, kv_heads, head_size))
        assumed.append("the weights' names and shapes, as Llama's are")
    tensors = _language_model(tensors)
    by_layer: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        found = LAYER.search(tensor.name)
        if found:
            by_layer.setdefault(int(found[1]), []).append(tensor)
    layers = tuple(_layer(index, by_layer[index], value, config) for index in sorted(by_layer))
    if not layers or not all(layer.is_known for layer in layers):
        return None
    tied = bool(config.get("tie_word_embeddings", True))
    if "tie_word_embeddings" not in config and any(_is_head(tensor.name) for tensor in tensors):
        tied = False
    kept = [tensor for tensor in tensors if not (tied and _is_head(tensor.name))]
    norms = [tensor.name for tensor in tensors if "norm" in tensor.name or ".ln_" in tensor.name]
    has_bias = any(name.endswith(".bias") for name in norms)
    learned = sum(t.count for t in tensors if re.search(r"wpe|embed_positions|position_embeddings", t.name))
    return Shape(
        family=str(config.get("model_type", "unknown")),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=next((t.shape[0] for t in tensors if _is_embedding(t)), value["vocabulary"] or 0),
        layers=layers,
        norm="layer" if has_bias or ("rms_norm_eps" not in config and "layer_norm_eps" in config) else "rms",
        tied=tied,
        learned_positions=learned,
        numbers=sum(tensor.count for tensor in kept),
        stored_bytes=int(sum(tensor.count * tensor.bytes_each for tensor in kept)),
        tensors=tuple(kept),
        assumed=tuple(assumed),
        positions=value["positions"],
        dropout=_share(config, ("resid_pdrop", "hidden_dropout", "residual_dropout")),
        attention_dropout=_share(config, ("attention_dropout", "attn_pdrop")),
        activation=str(config.get("hidden_act") or config.get("activation_function") or "silu"),
        turned=0 if learned else _turned(config, head_size),
        parallel=bool(config.get("use_parallel_residual", config.get("parallel_attn", False))),
    )


def packed_by(config: Mapping[str, Any]) -> str | None:
    """Return what has packed a model's weights, so that their shapes are not the matrices'; MXFP4 and FP8 keep them."""
    packed = config.get("quantization_config")
    method = packed.get("quant_method") if isinstance(packed, Mapping) else None
    return str(method) if method is not None and method not in ("mxfp4", "fp8") else None


def why_unknown(config: Mapping[str, Any]) -> str:
    """Say why `read_shape` knows no shape of a model."""
    if not config:
        return "there is no config.json here that can be read"
    kind = str(config.get("model_type", "no named type"))
    missing = [
        ALIASES[name][0]
        for name in ("hidden", "layers", "heads", "vocabulary")
        if _first(config, ALIASES[name]) is None
    ]
    if missing:
        return f"its config.json, of the type {kind}, has no number for {', '.join(missing)}"
    if (_first(config, ALIASES["layers"]) or 0) > MOST_LAYERS:
        return f"its config.json names more than {MOST_LAYERS:,} layers"
    if packed_by(config) is not None:
        return (
            f"its weights are packed by {packed_by(config)}, and their shapes are not those of the matrices"
        )
    return f"layers of the type {kind} are not the attention and feed-forward network that the plan can count"


def _first(config: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    for key in keys:
        found = config.get(key)
        if isinstance(found, int) and not isinstance(found, bool) and found > 0:
            return found
    return None


def _turned(config: Mapping[str, Any], head_size: int) -> int:
    rope = config.get("rope_parameters")
    named = rope if isinstance(rope, Mapping) else {}
    share = named.get(
        "partial_rotary_factor", config.get("partial_rotary_factor", config.get("rotary_pct", 1.0))
    )
    is_share = isinstance(share, (int, float)) and 0 <= share <= 1
    return int(head_size * share) if is_share else head_size


def _share(config: Mapping[str, Any], keys: Iterable[str]) -> float:
    """Return a probability; 0 where the configuration has none."""
    return next((float(config[key]) for key in keys if isinstance(config.get(key), (int, float))), 0.0)


def _language_model(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Leave out what training does not load or run: buffers that older checkpoints hold. Unpack what is loaded unpacked."""
    return tuple(
        t
        for t in unpacked(tensors)
        if not re.search(r"rotary_emb\.inv_freq$|\.attn\.(?:masked_)?bias$|attention\.masked_bias$", t.name)
    )


def unpacked(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Return tensors as transformers loads them for training: MXFP4, two numbers a byte and a scale a group, as bfloat16.

    Source:
        transformers/integrations/mxfp4.py, convert_moe_packed_tensors: (experts, rows, groups, 16 bytes) of 4 bits.
    """
    for tensor in tensors:
        if tensor.name.endswith("_scales") and tensor.dtype == "U8":
            continue
        if tensor.name.endswith("_blocks") and tensor.dtype == "U8" and len(tensor.shape) > 2:
            *before, groups, size = tensor.shape
            yield Tensor(tensor.name.removesuffix("_blocks"), (*before, groups * size * 2), "BF16")
        else:
            yield tensor


def _is_embedding(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and bool(
        re.search(r"(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$", tensor.name)
    )


def _is_head(name: str) -> bool:
    return bool(re.search(r"(?:^|\.)(?:lm_head|embed_out|output_layer)\.weight$", name))


def _layer(
    index: int, tensors: list[Tensor], value: Mapping[str, int | None], config: Mapping[str, Any]
) -> LayerShape:
    biases = {t.name.removesuffix(".bias") for t in tensors if t.name.endswith(".bias")}
    into_attention, into_network = list[Linear](), list[Linear]()
    out_of_attention = out_of_network = router = None
    strange = list[str]()
    expert_numbers, expert_name, other, norms = 0, "", 0, 0
    head_norms: list[int] = []
    transposed = config.get("model_type") == "gpt2"  # Conv1D keeps its matrix the other way round
    for tensor in tensors:
        path = tensor.name.removesuffix(".weight")
        leaf = path.rpartition(".")[2]
        if EXPERT.search(tensor.name):
            expert_numbers += tensor.count
            expert_name = path.partition("experts")[0] + "experts"
            continue
        if len(tensor.shape) != 2 or tensor.name.endswith(".bias"):
            if tensor.name.endswith(".weight") and re.search(r"norm|ln_", leaf):
                if leaf in ("q_norm", "k_norm", "q_layernorm", "k_layernorm"):
                    head_norms.append(tensor.count)
                else:
                    norms += 1
            other += tensor.count
            continue
        outputs, inputs = tensor.shape[::-1] if transposed else tensor.shape
        linear = Linear(path, inputs, outputs, path in biases)
        if ATTENTION.search(path.rpartition(".")[0].rpartition(".")[2]) or leaf == "query_key_value":
            if leaf in INTO_ATTENTION:
                into_attention.append(linear)
            elif out_of_attention is None:
                out_of_attention = linear
            else:
                strange.append(leaf)
        elif leaf in OUT_OF_NETWORK:
            out_of_network = linear
        elif leaf in ("gate", "router", "wg") and value["experts"]:
            router = linear
        elif leaf in INTO_NETWORK:
            into_network.append(linear)
        else:
            other += tensor.count
    order = ("gate", "w1", "up", "w3")
    into_network.sort(
        key=lambda item: next((i for i, part in enumerate(order) if part in item.name.rpartition(".")[2]), 9)
    )
    into_attention.sort(key=lambda item: "qkv".find(item.name.rpartition(".")[2][0]))
    gated = len(into_network) == 2 or (
        bool(into_network)
        and out_of_network is not None
        and into_network[0].outputs == 2 * out_of_network.inputs
    )
    experts = None
    if expert_numbers:
        experts = Experts(
            count=value["experts"] or 1,
            chosen=value["chosen"] or 1,
            intermediate=value["expert_intermediate"] or value["intermediate"] or 0,
            numbers=expert_numbers,
            name=expert_name,
        )
    return LayerShape(
        into_attention=tuple(into_attention),
        out_of_attention=out_of_attention,
        into_network=tuple(into_network),
        out_of_network=out_of_network,
        norms=norms,
        head_norms=tuple(sorted(head_norms, reverse=True)),
        gated=gated,
        experts=experts,
        router=router,
        window=_window(index, value["window"], config),
        other=other,
        strange=tuple(strange),
    )


def _window(index: int, window: int | None, config: Mapping[str, Any]) -> int | None:
    """Return how far a layer looks back, where it does not see all that came before."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and index < len(kinds):
        return window if kinds[index] == "sliding_attention" else None
    return window if config.get("use_sliding_window", True) else None
