"""The operators of a transformer's layer on the tape, each as the libraries run it.

Source, and where a formula is from:
    transformers/models/llama/modeling_llama.py (RMSNorm, rotary embedding, SwiGLU);
    transformers/integrations/sdpa_attention.py; peft/tuners/lora/layer.py, Linear.forward;
    torch/aten/src/ATen/autocast_mode.cpp (what is cast, and what of it is kept);
    torch/tools/autograd/derivatives.yaml (what each operator saves for its backward).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sft.plan.memory.ledger import Buffer, Parameter
from sft.plan.memory.tape import Tape, Tensor

FLOAT = 4
SPELT_OUT = ("gelu_new", "gelu_fast")
"""Activations that are several operators, each of which keeps what its backward reads."""


@dataclass(slots=True)
class Operators:
    """Operators under one precision on one kind of device.

    Attributes:
        autocast: bytes of a number that products are computed in; None without mixed precision.
        liger: norms, rotations and gates are Liger's kernels, which keep their inputs alone (liger_kernel/ops).
        keeps_inputs: a product keeps its input even where its matrix is frozen, as DeepSpeed's own linear function does under
            ZeRO-3 (deepspeed/runtime/zero/linear.py).
        trains: False in an evaluation, where nothing is dropped.
        casts: parameters whose casts autocast keeps until its context ends.
    """

    tape: Tape
    device: Literal["cpu", "gpu"]
    autocast: int | None
    keeps_inputs: bool = False
    liger: bool = False
    trains: bool = True
    casts: dict[int, Tensor] = field(default_factory=dict)

    def leave_autocast(self) -> None:
        """Drop the casts that autocast has kept."""
        self.casts.clear()

    def cast(self, x: Tensor, width: float) -> Tensor:
        """Convert to another type; nothing happens to what is of that type."""
        if x.width == width:
            return x
        return self.tape.op([x], x.numbers, width)

    def _weight(self, parameter: Parameter, width: float) -> Parameter | Tensor:
        """Return a weight in the type of a product; a cast of a trained one is made once in a forward."""
        if parameter.width == width:
            return parameter
        known = self.casts.get(id(parameter))
        if known is not None:
            return known
        made = self.tape.op([parameter], parameter.numbers, width)
        if parameter.needs_grad:
            self.casts[id(parameter)] = made
        return made

    def product(self, x: Tensor, parameter: Parameter, inputs: int, outputs: int) -> Tensor:
        """Multiply rows by a matrix."""
        rows = x.numbers // inputs
        width = self.autocast or x.width
        x = self.cast(x, width)
        weight = self._weight(parameter, width)
        saves: list[Buffer | Tensor | None] = [x if weight.needs_grad or self.keeps_inputs else None]
        if isinstance(weight, Tensor) and x.needs_grad:
            saves.append(weight)
        return self.tape.op([x, weight], rows * outputs, width, saves=saves)

    def dropout(self, x: Tensor, probability: float) -> Tensor:
        """Drop numbers: one kernel with a mask of bytes on a GPU, a product with a mask of x's type elsewhere."""
        if not probability or not self.trains:
            return x
        mask = self.tape.buffer(x.numbers * (1 if self.device == "gpu" else x.width), "activations")
        return self.tape.op([x], x.numbers, x.width, saves=[mask])

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Add two tensors of one shape; the wider type wins."""
        width = max(a.width, b.width)
        if a.width != b.width:
            return self._add_casting(a, b, width)
        return self.tape.op([a, b], a.numbers, width, passes=True)

    def _add_casting(self, a: Tensor, b: Tensor, width: float) -> Tensor:
        return self.tape.op([a, b], a.numbers, width)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply two tensors of one shape."""
        return self.tape.op(
            [a, b],
            a.numbers,
            max(a.width, b.width),
            saves=[b if a.needs_grad else None, a if b.needs_grad else None],
        )

    def activation(self, x: Tensor, name: str = "silu") -> Tensor:
        """Apply a function of one number: one kernel, which keeps its input; or several, where Python spells it out."""
        tape = self.tape
        if self.liger:  # within the product that follows, which keeps what goes in here
            return tape.op([x], x.numbers, x.width, saves=[x], passes=True, out=x.buffer)
        if name not in SPELT_OUT:
            return tape.op([x], x.numbers, x.width, saves=[x])
        # 0.5 * x * (1 + tanh(a * (x + b * x^3)))
        cubed = tape.op([x], x.numbers, x.width, saves=[x])
        made = tape.buffer(x.size, "activations")
        bent = tape.op([cubed], x.numbers, x.width, saves=[made], out=made)
        del cubed, made
        raised = tape.op([bent], x.numbers, x.width)
        del bent
        half = tape.op([x], x.numbers, x.width)
        return self.multiply(half, raised)

    def rms_norm(self, x: Tensor, weight: Parameter, size: int, *, wide: bool = False) -> Tensor:
        """Divide by the root mean square over `size` numbers, in float32, and multiply with a weight.

        Args:
            wide: the weight is multiplied in float32 as well, as Gemma does.
        """
        tape, rows, width = self.tape, x.numbers // size, x.width
        if self.liger:
            statistics = tape.buffer(rows * FLOAT, "activations")
            return tape.op([x, weight], x.numbers, width, saves=[x, statistics])
        x = self.cast(x, FLOAT)
        squared = tape.op([x], x.numbers, FLOAT, saves=[x], temporary=2 * x.numbers * FLOAT)
        mean = tape.op([squared], rows, FLOAT)
        del squared
        root = tape.op([mean], rows, FLOAT, saves=[])
        normed = tape.op([x, root], x.numbers, FLOAT, saves=[x, root], temporary=x.numbers * FLOAT)
        del x, root, mean
        if wide:
            return self.cast(self._scaled(normed, weight), width)
        normed = self.cast(normed, width)
        return self._scaled(normed, weight)

    def _scaled(self, x: Tensor, weight: Parameter) -> Tensor:
        """Multiply with a weight for each column; its gradient is a sum over the rows of a product of full size."""
        width = max(x.width, weight.width)
        temporary = x.numbers * width if weight.needs_grad else 0
        saves: list[Buffer | Tensor | None] = [x if weight.needs_grad else None]
        return self.tape.op([x, weight], x.numbers, width, saves=saves, temporary=temporary)

    def layer_norm(self, x: Tensor, weight: Parameter | None, bias: Parameter | None, size: int) -> Tensor:
        """Run torch's own layer norm: one kernel, which keeps its input and two numbers a row."""
        wide = self.cast(x, FLOAT if self.autocast else x.width)
        rows = x.numbers // size
        statistics = self.tape.buffer(2 * rows * FLOAT, "activations")
        inputs: list[Tensor | Parameter] = [wide, *(one for one in (weight, bias) if one is not None)]
        return self.tape.op(inputs, x.numbers, wide.width, saves=[wide, statistics])

    def rotate(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Turn pairs of numbers by their position: x * cos + half(x) * sin."""
        width = max(x.width, tables[0].width)
        if self.liger:
            return self.tape.op([x], x.numbers, width, passes=True)
        first = self.tape.op([x], x.numbers, width)
        turned = self.tape.op([x], x.numbers, x.width)
        second = self.tape.op([turned], x.numbers, width)
        del turned
        return self.tape.op([first, second], x.numbers, width, passes=True)
