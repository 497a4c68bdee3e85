"""Linear layers on the tape, with what is trained beside them: quantised bases, LoRA, DoRA, all experts at once.

Source:
    peft/tuners/lora/layer.py (Linear.forward, ParamWrapper); peft/tuners/lora/dora.py; bitsandbytes/nn/modules.py, Linear4bit;
    transformers/integrations/moe.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from sft.plan.memory.ledger import Parameter
from sft.plan.memory.operators import Operators
from sft.plan.memory.tape import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A matrix of the model and what is trained of it.

    Attributes:
        stored_bits: of each number, where it is quantised; its matrix is made anew for every product then.
        rank: of the adapter beside it; 0 without.
        magnitude: of DoRA, a number an output.
    """

    parameter: Parameter
    inputs: int
    outputs: int
    bias: Parameter | None = None
    stored_bits: int | None = None
    rank: int = 0
    adapter: tuple[Parameter, Parameter] | None = None
    magnitude: Parameter | None = None
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Adapted:
    """A tensor of all experts, and the two matrices that are trained beside it, if any are."""

    tensor: Parameter
    adapter: tuple[Parameter, ...] = ()


def linear(on: Operators, x: Tensor, weight: Weight) -> Tensor:
    """Apply a linear layer, with its adapter."""
    made = _base(on, x, weight)
    if weight.adapter is None:
        return made
    down, up = weight.adapter
    if weight.magnitude is not None:
        return _with_magnitude(on, x, made, weight, down, up, weight.magnitude)
    a = on.product(on.dropout(on.cast(x, down.width), weight.dropout), down, weight.inputs, weight.rank)
    b = on.product(a, up, weight.rank, weight.outputs)
    del a
    b = on.tape.op([b], b.numbers, b.width)  # times alpha / r
    return on.add(made, b)


def _with_magnitude(
    on: Operators,
    x: Tensor,
    made: Tensor,
    weight: Weight,
    down: Parameter,
    up: Parameter,
    magnitude: Parameter,
) -> Tensor:
    """Apply DoRA (peft/tuners/lora/dora.py): the product of both adapter matrices is made in full, to take its norm.

    Without dropout the base's own result is used; with it, the base is applied once more to what was not dropped.
    """
    tape, numbers = on.tape, weight.inputs * weight.outputs
    width = on.autocast or down.width
    dropped = on.dropout(on.cast(x, down.width), weight.dropout)
    # The identity, the product, its copy in the rows' type, and the weights with it; all but the identity gone by the end.
    held = tape.buffer(weight.inputs**2 * down.width + weight.inputs * weight.rank * width)
    full = tape.buffer(numbers * (width + 2 * max(x.width, weight.parameter.width)))
    del held, full
    a = on.product(dropped, down, weight.inputs, weight.rank)
    b = on.product(a, up, weight.rank, weight.outputs)
    del a
    base = made
    if weight.dropout and on.trains:
        base = on.product(dropped, weight.parameter, weight.inputs, weight.outputs)
    scale = tape.op([magnitude], weight.outputs, magnitude.width)
    wide = max(magnitude.width, base.width)
    first = tape.op([scale, base], base.numbers, wide, saves=[base, scale if base.needs_grad else None])
    second = tape.op([scale, b], b.numbers, wide, saves=[b, scale])
    del b, base
    second = tape.op([second], second.numbers, wide)  # times alpha / r
    return on.add(made, on.cast(tape.op([first, second], first.numbers, wide, passes=True), made.width))


def _base(on: Operators, x: Tensor, weight: Weight) -> Tensor:
    if weight.stored_bits is None:
        return on.product(x, weight.parameter, weight.inputs, weight.outputs)
    # The matrix is unpacked in the model's own type for the product, and dropped; the backward unpacks it again.
    given, own = x.width, weight.parameter.width
    width = on.autocast or own
    x = on.cast(x, own)
    unpacked = weight.inputs * weight.outputs * own
    casts = (weight.inputs * weight.outputs + x.numbers) * width if width != own else 0
    hold = on.tape.buffer(unpacked + casts)
    made = on.tape.op([x], x.numbers // weight.inputs * weight.outputs, width, temporary=unpacked)
    del hold
    return on.cast(made, given)


def experts(
    on: Operators,
    x: Tensor,
    matrices: tuple[Adapted, Adapted],
    hidden: int,
    inner: int,
    chosen: int,
    name: str,
) -> Tensor:
    """Send each row through the experts that are chosen for it, in groups, and add up what they make.

    Not under autocast: the rows take the type of the matrices (transformers/integrations/moe.py).

    Args:
        matrices: gate and up of all experts together, and down.
        inner: the width of one expert; `chosen` experts work on a row.
    """
    tape, rows, width = on.tape, x.numbers // hidden * chosen, matrices[0].tensor.width
    outside = x.width
    into, out_of = (_all_experts(on, matrix) for matrix in matrices)
    x = on.cast(tape.op([x], rows * hidden, x.width), width)
    made = tape.op(
        [x, into], rows * 2 * inner, width, saves=[x if into.needs_grad else None, *_if_made(into)]
    )
    del x
    gate, up = (Tensor(made.buffer, made.numbers // 2, width, made.node) for _ in range(2))
    del made
    active = on.activation(gate, name)
    del gate
    inside = on.multiply(active, up)
    del active, up
    out = tape.op(
        [inside, out_of],
        rows * hidden,
        width,
        saves=[inside if out_of.needs_grad else None, *_if_made(out_of)],
    )
    del inside
    weighted = tape.op([out], out.numbers, width, saves=[out])
    del out
    weighted = tape.op([weighted], weighted.numbers, width)
    return on.cast(tape.op([weighted], weighted.numbers // chosen, width), outside)


def _all_experts(on: Operators, matrix: Adapted) -> Parameter | Tensor:
    """Return the experts' tensor, or a whole new one with what the adapter adds (peft/tuners/lora/layer.py, ParamWrapper)."""
    if not matrix.adapter:
        return matrix.tensor
    width = matrix.tensor.width
    factors = [
        factor if factor.width == width else on.tape.op([factor], factor.numbers, width)
        for factor in matrix.adapter
    ]
    saves = [factor for factor in factors if isinstance(factor, Tensor)]
    return on.tape.op(factors, matrix.tensor.numbers, width, saves=saves)


def _if_made(matrix: Parameter | Tensor) -> list[Tensor]:
    """Name a matrix that was made for this forward, and so is kept for the backward by nobody else."""
    return [matrix] if isinstance(matrix, Tensor) else []
