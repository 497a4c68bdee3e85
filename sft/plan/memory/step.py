"""Run a training step on the tape, and say what it held when it held most."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sft.plan.memory.job import Job
from sft.plan.memory.ledger import Ledger
from sft.plan.memory.loss import fused_loss
from sft.plan.memory.model import Model
from sft.plan.memory.operators import Operators
from sft.plan.memory.sharding import Sharding
from sft.plan.memory.tape import Tape
from sft.plan.shape import Shape

INPUT_BYTES = 3 * 8
"""A position's token, label and mask, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one rank holds on its device.

    Attributes:
        parts: bytes by kind, at the moment when there are most.
        weights, gradients, optimizer: bytes that stay, whatever the moment.
    trained: how many numbers are trained.
    """

    parts: dict[str, int]
    weights: int
    gradients: int
    optimizer: int
    trained: int

    @property
    def peak(self) -> int:
        """Bytes, all together."""
        return sum(self.parts.values())


def held_by(shape: Shape, job: Job) -> Held:
    """Run a step in the middle of a run: the optimizer has its state already."""
    ledger = Ledger()
    tape = Tape(ledger)
    model = Model(shape, job)
    on = Operators(tape, job.device, job.autocast, keeps_inputs=job.strategy.zero_stage == 3)
    sharding = Sharding(tape, job, shape.hidden, model.parameters, model.layers, shape.buffer_bytes)
    sharding.hold()
    if job.strategy.shards_parameters:
        model.sharding = sharding
    weights, optimizer = ledger.live.get("weights", 0), ledger.live.get("optimizer", 0)
    # A second micro-batch finds the gradients of the first one; a third holds no more than a second.
    for _ in range(min(2, job.micro_batches)):
        _micro_batch(on, model, sharding)
        sharding.end_backward()
    sharding.step()
    if job.eval_rows:
        for parameter in model.trained:
            parameter.grad = None  # transformers drops them behind each step
        _evaluate(on, model, sharding)
    return Held(
        parts={kind: size for kind, size in ledger.at_peak.items() if size},
        weights=weights,
        gradients=sum(parameter.size for parameter in model.trained),
        optimizer=optimizer,
        trained=sum(parameter.numbers for parameter in model.trained),
    )


def _micro_batch(on: Operators, model: Model, sharding: Sharding) -> None:
    tape, job = on.tape, model.job
    batch = tape.buffer(job.tokens * INPUT_BYTES, "batch")
    # FSDP2 keeps what is outside the layers whole for the whole pass; ZeRO-3 gathers the head for the loss.
    keeps = job.strategy.is_fsdp or sharding.keeps_all
    rest = sharding.gather_rest(model.outside if keeps else [model.embedding])
    hidden = model.forward(on)
    if not keeps:
        rest = sharding.gather_rest([model.head])
    node = hidden.node
    grad = fused_loss(on, hidden, model.head, model.shape.hidden, model.shape.vocabulary)
    del hidden
    if not keeps:
        rest = None
    if node is not None and grad is not None:
        tape.backward(node, grad)
    del batch, rest


def _evaluate(on: Operators, model: Model, sharding: Sharding) -> None:
    """Run a batch of the evaluation: forward alone, and nothing is kept."""
    job, tape = model.job, on.tape
    model.job = dataclasses.replace(job, rows=job.eval_rows, checkpointing=False)
    on.trains = False
    batch = tape.buffer(model.job.tokens * INPUT_BYTES, "batch")
    with tape.without_grad():
        rest = sharding.gather_rest(model.outside)
        hidden = model.forward(on)
        fused_loss(on, hidden, model.head, model.shape.hidden, model.shape.vocabulary, trains=False)
    del batch, rest, hidden
    sharding.end_backward()
