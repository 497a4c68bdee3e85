"""Attention on the tape: by a kernel, spelt out, or as torch does where no kernel can.

Source:
    transformers/integrations/sdpa_attention.py; torch/aten/src/ATen/native/transformers/attention.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sft.plan.memory.ledger import Buffer
from sft.plan.memory.operators import FLOAT, Operators
from sft.plan.memory.tape import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """How a layer attends. `length` is a sequence's; "math" is what torch does where no kernel can: dropout on a CPU.

    Attributes:
        masked: the kernel is given a mask, of which each layer makes numbers and keeps them: where rows are joined, or a layer
            looks back less far than a row is long. FlashAttention needs none.
    """

    heads: int
    kv_heads: int
    head_size: int
    length: int
    kind: Literal["flash", "kernel", "eager", "math"] = "kernel"
    masked: bool = False
    dropout: float = 0.0


def attend(on: Operators, query: Tensor, key: Tensor, value: Tensor, form: Attention) -> Tensor:
    """Attend: rows x heads x size numbers in, as many out.

    A kernel keeps its inputs, its output and one number a row and head; eager attention keeps the weights.
    """
    if form.kind == "math":
        return _attend_by_math(on, query, key, value, form)
    if form.kind == "eager":
        return _attend_eagerly(on, query, key, value, form)
    width = on.autocast or query.width
    query, key, value = (on.cast(x, width) for x in (query, key, value))
    logsumexp = on.tape.buffer(query.numbers / form.head_size * FLOAT, "activations")
    made = on.tape.buffer(query.numbers * width, "activations")
    saves: list[Buffer | Tensor | None] = [query, key, value, made, logsumexp]
    if form.masked and form.kind == "kernel":
        rows = query.numbers / (form.heads * form.head_size * form.length)
        saves.append(on.tape.buffer(rows * form.length**2 * width, "activations"))
    return on.tape.op([query, key, value], query.numbers, width, saves=saves, out=made)


def _attend_by_math(on: Operators, query: Tensor, key: Tensor, value: Tensor, form: Attention) -> Tensor:
    tape, scores, width = (
        on.tape,
        query.numbers // form.head_size * form.length,
        on.autocast or query.width,
    )
    query, key, value = (on.cast(on.cast(x, width), FLOAT) for x in (query, key, value))
    query, key = (tape.op([x], x.numbers, FLOAT) for x in (query, key))
    product = tape.op([query, key], scores, FLOAT, saves=[query, key])
    del query, key
    product = tape.op([product], scores, FLOAT, passes=True)
    made = tape.buffer(scores * FLOAT, "activations")
    weights = tape.op([product], scores, FLOAT, saves=[made], out=made)
    del product, made
    weights = on.dropout(weights, form.dropout)
    attended = tape.op(
        [weights, value], weights.numbers // form.length * form.head_size, FLOAT, saves=[weights, value]
    )
    return on.cast(attended, width)


def _attend_eagerly(on: Operators, query: Tensor, key: Tensor, value: Tensor, form: Attention) -> Tensor:
    width = on.autocast or query.width
    tape, scores = on.tape, query.numbers // form.head_size * form.length
    if form.heads > form.kv_heads:
        key, value = (tape.op([x], query.numbers, x.width) for x in (key, value))
    query, key = on.cast(query, width), on.cast(key, width)
    product = tape.op([query, key], scores, width, saves=[query, key])
    product = tape.op([product], scores, width)  # times 1 / sqrt(size)
    product = tape.op([product], scores, width, passes=True, out=tape.buffer(scores * width, "activations"))
    made = tape.buffer(scores * FLOAT, "activations")
    weights = tape.op([product], scores, FLOAT, saves=[made], out=made)
    del product, made
    weights = on.cast(on.cast(weights, query.width), width)
    value = on.cast(value, width)
    return tape.op([weights, value], query.numbers, width, saves=[weights, value])
