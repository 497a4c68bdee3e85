"""What stays between the steps: weights, gradients, the optimizer's state. Exact to the byte where torch keeps them.

Source:
    torch/optim/adamw.py (two moments of a weight's type, a step of 4 bytes a tensor); bitsandbytes/optim/optimizer.py
    (8-bit moments from 4096 numbers on, one float32 scale a block of 256); galore_torch, apollo_torch (moments of a
    projection); transformers/optimization.py, Adafactor (sums over rows and over columns of a matrix); ZeRO, arXiv:1910.02054, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sft.plan.memory.ledger import Parameter

STEP = 4
"""Bytes of the count of steps that torch's AdamW keeps beside each tensor."""
SMALLEST_IN_8_BIT = 4096
BLOCK_OF_8_BIT = 256
CODES_OF_8_BIT = 2 * 256 * 4
"""The two tables of what the 256 codes stand for; once for all tensors."""


def optimizer_bytes(name: str, trained: Sequence[Parameter], shards: int = 1) -> int:
    """Add up what an optimizer keeps of the weights that it trains, or of one rank's shards of them."""
    if shards > 1:
        steps = 0 if name == "sgd" else STEP * sum(parameter.tensors for parameter in trained)
        return steps + math.ceil((optimizer_bytes(name, trained) - steps) / shards)
    if "8bit" in name:
        eight = sum(_in_8_bit(parameter) for parameter in trained)
        return eight + (CODES_OF_8_BIT if any(p.numbers >= SMALLEST_IN_8_BIT for p in trained) else 0)
    return sum(_kept(name, parameter) for parameter in trained)


def _kept(name: str, parameter: Parameter) -> int:
    steps = STEP * parameter.tensors
    if name == "sgd":
        return 0
    if name == "adafactor":
        return (sum(parameter.sides) or parameter.numbers) * 4 + steps
    if "lion" in name:
        return parameter.own_size
    if "adagrad" in name or "rmsprop" in name:
        return parameter.own_size + steps
    return 2 * parameter.own_size + steps


def _in_8_bit(parameter: Parameter) -> int:
    if parameter.numbers < SMALLEST_IN_8_BIT:
        return 2 * parameter.numbers * 4
    return 2 * (parameter.numbers + math.ceil(parameter.numbers / BLOCK_OF_8_BIT) * 4)


def quantised_bytes(rows: int, columns: int, bits: int, *, nested: bool) -> int:
    """Return what bitsandbytes stores of a matrix.

    4 bits: two numbers a byte, a float32 scale a block of 64 and a table of 16; nested, a scale is a byte itself, with a
    float32 a block of 256 of them, a table of 256 and one float32. 8 bits: a byte a number and a float32 a row.

    Source:
        bitsandbytes/functional.py, quantize_4bit and int8_vectorwise_quant; QLoRA, arXiv:2305.14314, section 3.
    """
    numbers = rows * columns
    if bits == 8:
        return numbers + rows * 4
    blocks = math.ceil(numbers / 64)
    if not nested:
        return math.ceil(numbers / 2) + blocks * 4 + 16 * 4
    return math.ceil(numbers / 2) + blocks + math.ceil(blocks / 256) * 4 + 16 * 4 + 256 * 4 + 4
