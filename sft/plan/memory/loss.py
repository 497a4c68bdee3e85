"""The language-model head and the loss on the tape, as TRL runs them: in tiles, or all logits at once where it must.

Source:
    trl/kernels/chunked_logprob.py, ChunkedLogProbFunction: tiles of 4096 rows by 32768 columns, made anew in the backward,
    which adds up the gradients of the hidden states and of the head in float32; trl/trainer/utils.py, add_fused_lm_head;
    trl/trainer/sft_trainer.py, compute_loss and prediction_step (who asks for all logits: label smoothing, and metrics of one's
    own); transformers/trainer_pt_utils.py, LabelSmoother; accelerate/utils/operations.py, convert_outputs_to_fp32.
"""

from __future__ import annotations

from sft.plan.memory.ledger import Buffer, Parameter
from sft.plan.memory.operators import FLOAT, Operators
from sft.plan.memory.tape import Tensor

ROWS = 4096
COLUMNS = 32768
STATISTICS = 7
"""Numbers that are kept of each row while the tiles pass by."""
FORWARD_TILES = 3
BACKWARD_TILES = 7
"""Tiles in float32 that are alive at once where torch's operators fold a tile, in place of one Triton kernel."""


def without_last(on: Operators, x: Tensor, length: int) -> Tensor:
    """Copy all positions but the last of each sequence, which has nothing to predict."""
    return on.tape.op([x], x.numbers // length * (length - 1), x.width)


def all_logits(on: Operators, hidden: Tensor, head: Parameter, size: int, vocabulary: int) -> Tensor:
    """Run the head on every position. Under mixed precision accelerate hands the logits out in float32."""
    logits = on.product(hidden, head, size, vocabulary)
    logits = logits if on.autocast is None else on.cast(logits, FLOAT)
    on.leave_autocast()
    return logits


def smoothed_loss(on: Operators, logits: Tensor, length: int) -> Tensor:
    """Run the loss with label smoothing, which reads the logarithms of all probabilities."""
    tape = on.tape
    logits = without_last(on, logits, length)
    made = tape.buffer(logits.size, "loss")
    logs = tape.op([logits], logits.numbers, logits.width, saves=[made], out=made)
    del logits, made
    logs = tape.op([logs], logs.numbers, logs.width)  # minus
    # What is picked of them, whose backward reads them, and their sum: two gradients of full size.
    return tape.op([logs], 1, FLOAT, saves=[logs], temporary=logs.size)


def fused_loss(
    on: Operators, hidden: Tensor, head: Parameter, size: int, vocabulary: int, *, trains: bool = True
) -> Buffer | None:
    """Run head and loss in tiles, forward and backward; the forward's mixed precision ends between the two.

    Args:
        hidden: rows x size numbers, of all positions but the last of each sequence.
        trains: whether there is a backward.

    Returns:
        The gradient of `hidden`, None where none flows to it.
    """
    tape = on.tape
    rows = hidden.numbers // size
    width = on.autocast or hidden.width
    tile_rows, tile_columns = min(rows, ROWS), min(vocabulary, COLUMNS)
    statistics = tape.buffer(STATISTICS * rows * FLOAT, "loss")
    tile = tape.buffer(tile_rows * COLUMNS * width, "loss")
    _fold(on, tile_rows, tile_columns, size, width, head, FORWARD_TILES)
    del tile, statistics
    on.leave_autocast()
    if not trains:
        return None
    kept = tape.buffer(5 * rows * FLOAT, "loss")
    grad_hidden = tape.buffer(rows * size * FLOAT, "loss") if hidden.needs_grad else None
    grad_head = tape.buffer(head.numbers * FLOAT, "loss") if head.needs_grad else None
    tile = tape.buffer(tile_rows * COLUMNS * width, "loss")
    _fold(on, tile_rows, tile_columns, size, width, head, BACKWARD_TILES)
    del tile
    if grad_hidden is not None and hidden.width != FLOAT:
        narrow = tape.buffer(rows * size * hidden.width)
        grad_hidden = narrow
        del narrow
    if grad_head is not None:
        if head.width != FLOAT:
            grad_head = tape.buffer(head.size)
        head.accumulate(grad_head)
    del kept
    return grad_hidden


def _fold(
    on: Operators, rows: int, columns: int, size: int, width: float, head: Parameter, tiles: int
) -> None:
    """Hold what one tile takes beside its own bytes: the part of the head, and what torch's operators make of it."""
    casts = columns * size * width if head.width != width else 0
    held = on.tape.buffer(casts, "loss")
    if on.device == "cpu":
        on.tape.buffer(rows * columns * (tiles * FLOAT + 1), "loss")
        on.tape.buffer((rows + size) * columns * FLOAT if width != FLOAT else 0, "loss")
    del held
