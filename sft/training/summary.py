"""What was really loaded: counted from the parameters themselves, sharded and quantised ones too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


def _count(parameter: Any) -> int:
    """Return the number of weights that a parameter stands for.

    ZeRO-3 leaves an empty tensor and the true count in `ds_numel`; bitsandbytes packs two 4-bit weights a
    byte and keeps the true shape in its quantisation state.
    """
    stored = int(getattr(parameter, "ds_numel", 0) or parameter.numel())
    if type(parameter).__name__ != "Params4bit":
        return stored
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return int(state.shape.numel())
    return stored * 2 * int(parameter.element_size())


def _bytes(parameter: Any) -> int:
    """Return the bytes that a parameter takes, with the scales without which quantised weights mean nothing."""
    stored = int(getattr(parameter, "ds_numel", 0) or parameter.numel()) * int(parameter.element_size())
    return stored + sum(tensor.nbytes for tensor in _scales(parameter))


def _scales(parameter: Any) -> Iterator[Tensor]:
    """Yield bitsandbytes' scales: of 4-bit blocks (themselves quantised, with `nested`), of 8-bit rows."""
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        yield from (tensor for tensor in (state.absmax, state.code, state.offset) if tensor is not None)
        state = state.state2
    rows = getattr(parameter, "SCB", None)
    if rows is not None:
        yield rows


def summarize(model: nn.Module) -> dict[str, Any]:
    """Return parameters, trainable share, dtypes, quantisation and bytes over all ranks together."""
    total = trainable = size = 0
    dtypes: Counter[str] = Counter()
    quantized: Counter[str] = Counter()
    for parameter in model.parameters():
        count = _count(parameter)
        total += count
        size += _bytes(parameter)
        kind = type(parameter).__name__
        if kind == "Params4bit":
            quantized[f"4-bit {getattr(parameter, 'quant_type', '')}".strip()] += count
        elif kind == "Int8Params":
            quantized["8-bit"] += count
        else:
            dtypes[str(parameter.dtype).removeprefix("torch.")] += count
        if parameter.requires_grad:
            trainable += count
    config = getattr(model, "config", None)
    return {
        "parameters": total,
        "trainable": trainable,
        "trainable_percent": round(100 * trainable / total, 4),
        "dtypes": ", ".join(f"{name} {count:,}" for name, count in dtypes.most_common()),
        "quantized": ", ".join(f"{name} {count:,}" for name, count in quantized.items()) or None,
        "weight_bytes": size,
        "attention": getattr(config, "_attn_implementation", None),
    }
