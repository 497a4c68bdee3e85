"""What bitsandbytes stores of a matrix in place of its numbers."""

from __future__ import annotations

import math


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
