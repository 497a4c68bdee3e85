"""What an optimizer keeps of the weights that it trains, and what one of its steps holds beside that.

Source:
    torch/optim (moments of a weight's own type, and a count of steps of 4 bytes a tensor; `_multi_tensor_*` for what a step
    holds where all tensors are worked on at once, which torch does on a GPU unless the optimizer is fused);
    bitsandbytes/optim/optimizer.py, ademamix.py (float32, or 8 bits from 4096 numbers on with a float32 scale a block of 256);
    transformers/optimization.py, Adafactor (sums over rows and columns of a matrix); transformers/trainer_optimizer.py (what
    `optim` and `optim_args` stand for), trainer.py, create_optimizer (embeddings in 32 bits); galore_torch/galore_projector.py and apollo_torch/random_projector.py (a projection
    of each matrix, and moments of what it leaves); torchao/optim/subclass_8bit.py, subclass_4bit.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sft.plan.memory.ledger import Parameter

FLOAT = 4
STEP = 4
"""Bytes of the count of steps that torch's optimizers keep beside each tensor."""
SMALLEST_QUANTISED = 4096
"""Numbers of a tensor from which on bitsandbytes and torchao keep its moments in fewer bits."""
BLOCK_OF_8_BIT = 256
BLOCK_OF_4_BIT = 128
CODES_OF_8_BIT = 2 * 256 * FLOAT
"""The two tables of what the 256 codes stand for; once for all tensors."""
PROJECTED_RANK = 128
"""GaLore's and APOLLO's, where optim_args says none."""

COPIES: Mapping[str, int] = {
    "adamw_torch": 2, "adamw_torch_fused": 2, "adamw_torch_xla": 2, "adamw_torch_npu_fused": 2, "stable_adamw": 2,
    "rmsprop": 1, "adagrad": 1, "grokadamw": 3, "schedule_free_radam": 2, "schedule_free_adamw": 2, "schedule_free_sgd": 1,
}  # fmt: skip
"""How many tensors of a weight's own type and shape stay of each weight; `sgd` and `lomo` keep none."""
SQUARE_ROOTS = ("adamw_torch", "rmsprop", "adagrad")
"""Optimizers that make one more copy of all moments in a step on a GPU."""


def is_low_rank(name: str) -> bool:
    """Whether an optimizer projects gradients: GaLore and APOLLO."""
    return name.startswith(("galore_", "apollo_"))


def is_bitsandbytes(name: str) -> bool:
    """Whether bitsandbytes updates the weights; adamw_torch_8bit is torchao's."""
    names = ("adamw_8bit", "adamw_bnb_8bit", "ademamix", "lion_", "paged_", "rmsprop_bnb")
    return name.startswith(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """What a run file says of its optimizer.

    Attributes:
        name: `optim`.
        arguments: `optim_args`, as names and words.
        targets: `optim_target_modules` of one that projects gradients.
    """

    name: str = "adamw_torch_fused"
    arguments: Mapping[str, str] = field(default_factory=dict)
    targets: str | Sequence[str] | None = None

    @property
    def is_layerwise(self) -> bool:
        """Whether each weight is updated as soon as its gradient is there, which then goes."""
        return self.name.endswith("_layerwise")

    def projects(self, path: str) -> bool:
        """Whether the gradient of a linear layer is projected.

        Source:
            transformers/trainer_utils.py, check_target_module_exists; all-linear includes the head.
        """
        if not is_low_rank(self.name) or self.targets is None:
            return False
        if isinstance(self.targets, str):
            return self.targets.replace("_", "-") == "all-linear" or _matches(self.targets, path)
        return any(target in path or _matches(target, path) for target in self.targets)

    def kept(self, trained: Sequence[Parameter], shards: int = 1) -> int:
        """Add up what stays between steps of the weights that are trained, or of one rank's shards of them."""
        if shards > 1:
            whole = STEP if self._counts_steps else 0
            steps = whole * sum(parameter.tensors for parameter in trained)
            return steps + math.ceil((self.kept(trained) - steps) / shards)
        total = sum(self._kept(parameter) for parameter in trained)
        has_codes = self._bits == 8 and not self.name.startswith("adamw_torch")
        if has_codes and any(
            self._work(p).numbers >= SMALLEST_QUANTISED and not p.is_embedding for p in trained
        ):
            total += CODES_OF_8_BIT // (2 if self._copies == 1 else 1)
        return total

    def updating(self, trained: Sequence[Parameter], device: str) -> int:
        """Return the most that a step holds beside what stays."""
        largest = max((parameter.own_size for parameter in trained), default=0)
        if is_low_rank(self.name):
            return 3 * max(
                (p.numbers * FLOAT for p in trained if p.projected), default=0
            )  # U, s V and the product
        if self.name == "adafactor":
            return 2 * max((parameter.numbers * FLOAT for parameter in trained), default=0)
        if self.name not in SQUARE_ROOTS:
            return 0
        if device == "cpu":
            return largest
        return (2 if self.name == "adagrad" else 1) * sum(parameter.own_size for parameter in trained)

    # --- one tensor

    @property
    def _bits(self) -> int:
        return 8 if "8bit" in self.name else 4 if "4bit" in self.name else 32

    @property
    def _copies(self) -> int:
        """How many moments bitsandbytes keeps."""
        return 3 if "ademamix" in self.name else 1 if "lion" in self.name or "rmsprop" in self.name else 2

    @property
    def _counts_steps(self) -> bool:
        """Whether a tensor of 4 bytes stays of each weight: torch's count of steps, Adafactor's mean size of the weight."""
        if is_low_rank(self.name):
            return self.name.startswith("galore_adafactor")
        return self.name not in ("sgd", "lomo") and not is_bitsandbytes(self.name)

    def _kept(self, parameter: Parameter) -> int:
        steps = STEP * parameter.tensors if self._counts_steps else 0
        work = self._work(parameter)
        if is_bitsandbytes(self.name) or self.name.startswith("galore_adamw_8bit"):
            return self._projector(parameter) + self._of_bitsandbytes(work)
        if self.name.startswith("adamw_torch_") and self._bits < 32:
            return steps + self._of_torchao(parameter)
        if "adafactor" in self.name or self.name == "adalomo":
            sums = (sum(work.sides) or work.numbers) * FLOAT  # of a gradient that is cast first
            return self._projector(parameter) + steps + sums
        if is_low_rank(self.name):
            # APOLLO remembers how large its last update was.
            last = parameter.width if parameter.projected and self.name.startswith("apollo_") else 0
            return self._projector(parameter) + 2 * work.size + math.ceil(last)
        copies = COPIES.get(self.name, 2 if "adam" in self.name else 0)
        copies += float(self.arguments.get("momentum", 0)) > 0
        copies += self.arguments.get("centered", "").lower() in ("true", "1", "yes")
        return steps + copies * parameter.own_size

    def _of_bitsandbytes(self, work: Parameter) -> int:
        if self._bits == 32 or work.is_embedding or work.numbers < SMALLEST_QUANTISED:
            return self._copies * work.numbers * FLOAT
        return self._copies * (work.numbers + math.ceil(work.numbers / BLOCK_OF_8_BIT) * FLOAT)

    def _of_torchao(self, parameter: Parameter) -> int:
        block = BLOCK_OF_8_BIT if self._bits == 8 else BLOCK_OF_4_BIT
        if parameter.numbers < SMALLEST_QUANTISED or parameter.numbers % block:
            return 2 * parameter.own_size
        table = (256 if self._bits == 8 else 16) * FLOAT  # each tensor has its own
        return 2 * (parameter.numbers * self._bits // 8 + parameter.numbers // block * FLOAT + table)

    # --- projections

    def _work(self, parameter: Parameter) -> Parameter:
        """Return what the moments are of: the weight, or what its projection leaves of a gradient."""
        if not parameter.projected:
            return parameter
        inputs, outputs = parameter.sides
        sides = (
            (self._rank(parameter), outputs) if self._is_right(parameter) else (inputs, self._rank(parameter))
        )
        return Parameter(sides[0] * sides[1], parameter.width, trained=True, sides=sides)

    def _rank(self, parameter: Parameter) -> int:
        """Return the rank of a projection: GaLore's singular vectors are no more than a matrix has, APOLLO's are drawn."""
        asked = int(self.arguments.get("rank", PROJECTED_RANK))
        return asked if self._is_drawn else min(asked, *parameter.sides)

    @property
    def _is_drawn(self) -> bool:
        return self.name.startswith("apollo_") and self.arguments.get("proj", "random") == "random"

    def _is_right(self, parameter: Parameter) -> bool:
        inputs, outputs = parameter.sides
        kind = self.arguments.get("proj_type", "std")
        return {"std": outputs >= inputs, "reverse_std": outputs < inputs}.get(kind, kind == "right")

    def _projector(self, parameter: Parameter) -> int:
        """Return the bytes of a weight's projection.

        In float32 GaLore's is a look at some rows of all singular vectors, which stay with it; narrower ones are copied.
        """
        if not parameter.projected:
            return 0
        inputs, outputs = parameter.sides
        rank = self._rank(parameter)
        width = FLOAT if "adafactor" in self.name else parameter.width
        if not self._is_drawn and width == FLOAT:
            rank = min(inputs, outputs)
        return math.ceil(rank * (inputs if self._is_right(parameter) else outputs) * width)


def _matches(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error:
        return False
