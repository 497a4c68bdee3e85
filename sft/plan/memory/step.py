"""Run a training step on the tape, and say what it held when it held most."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sft.plan.memory.job import Job
from sft.plan.memory.ledger import Buffer, Ledger
from sft.plan.memory.loss import all_logits, fused_loss, smoothed_loss, without_last
from sft.plan.memory.model import Model
from sft.plan.memory.offloading import Offloading
from sft.plan.memory.operators import FLOAT, Operators
from sft.plan.memory.sharding import Sharding
from sft.plan.memory.tape import Node, Tape
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
        stages: the most bytes that are held while a step runs, the weights are updated, a batch is evaluated, a checkpoint is
            saved.
        host: bytes of activations that wait in host memory.
    """

    parts: dict[str, int]
    weights: int
    gradients: int
    optimizer: int
    trained: int
    stages: dict[str, int]
    host: int = 0

    @property
    def peak(self) -> int:
        """Bytes, all together."""
        return sum(self.parts.values())


Hold = Callable[[Shape, Job], Held]
"""Says what a rank holds: `held_by`, or who remembers what that has said."""


def held_by(shape: Shape, job: Job) -> Held:
    """Run a step in the middle of a run: the optimizer has its state already."""
    with _uncollected():
        return _run(shape, job)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep Python's collector off: counted references free all of a tape, and the collector's looks at it take half the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _run(shape: Shape, job: Job) -> Held:
    ledger = Ledger()
    tape = Tape(ledger, Offloading() if job.offloads_activations else None)
    model = Model(shape, job)
    on = Operators(tape, job.device, job.autocast, keeps_inputs=job.strategy.zero_stage == 3)
    sharding = Sharding(tape, job, shape.hidden, model.parameters, model.layers, shape.buffer_bytes)
    sharding.hold()
    if job.strategy.shards_parameters:
        model.sharding = sharding
    weights, optimizer = ledger.live.get("weights", 0), ledger.live.get("optimizer", 0)
    ledger.enter("the step")
    if job.micro_batches > 1:
        # A second micro-batch finds the gradients of the first one, and holds more for it; a third holds as much.
        for parameter in model.trained:
            parameter.accumulate(tape.buffer(parameter.size))
        sharding.end_backward()
    _micro_batch(on, model, sharding)
    sharding.end_backward()
    if tape.offloading is not None:
        tape.offloading.end_backward()
    ledger.enter("updating")
    sharding.step()
    for parameter in model.trained:
        parameter.grad = None  # transformers drops them behind each step
    if job.eval_rows:
        ledger.enter("evaluating")
        _evaluate(on, model, sharding)
    ledger.enter("saving")
    sharding.save()
    ledger.enter("")
    return Held(
        parts={kind: size for kind, size in ledger.at_peak.items() if size},
        weights=weights,
        gradients=0 if job.optimizer.is_layerwise else sum(p.size for p in model.trained),
        optimizer=optimizer,
        trained=sum(parameter.numbers for parameter in model.trained),
        stages=ledger.stages,
        host=tape.offloading.host.peak if tape.offloading is not None else 0,
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
    size, vocabulary = model.shape.hidden, model.shape.vocabulary
    node: Node | None
    grad: Buffer | None
    if job.all_logits:
        logits = all_logits(on, hidden, model.head, size, vocabulary)
        del hidden
        node, grad = smoothed_loss(on, logits, job.length).node, tape.buffer(FLOAT)
        del logits
        with tape.without_grad():  # TRL's own metrics take a forward of their own
            _score(on, model)
    else:
        hidden = without_last(on, hidden, job.length)
        node = hidden.node
        grad = fused_loss(on, hidden, model.head, size, vocabulary)
        del hidden
    if not keeps:
        rest = None
    if node is not None and grad is not None:
        tape.backward(node, grad)
    del batch, rest


def _score(on: Operators, model: Model) -> None:
    """Run the model and the loss in tiles, forward alone."""
    hidden = without_last(on, model.forward(on), model.job.length)
    fused_loss(on, hidden, model.head, model.shape.hidden, model.shape.vocabulary, trains=False)


def _evaluate(on: Operators, model: Model, sharding: Sharding) -> None:
    """Run a batch of the evaluation: forward alone, and nothing is kept."""
    job, tape = model.job, on.tape
    model.job = dataclasses.replace(job, rows=job.eval_rows, checkpointing=False)
    on.trains = False
    batch = tape.buffer(model.job.tokens * INPUT_BYTES, "batch")
    width = model.embedding.width if on.autocast is None else FLOAT
    logits = model.job.tokens * model.shape.vocabulary * width * job.processes
    before = tape.buffer(max(0, job.eval_logits - 1) * logits, "loss")
    with tape.without_grad():
        rest = sharding.gather_rest(model.outside)
        _score(on, model)
        if job.eval_logits:
            _keep_logits(on, model, before)
    del batch, rest, before
    sharding.end_backward()


def _keep_logits(on: Operators, model: Model, before: Buffer) -> None:
    """Run the model once more for all logits, gather them over the ranks, and put them behind those of the batches before."""
    job, shape = model.job, model.shape
    made = all_logits(on, model.forward(on), model.head, shape.hidden, shape.vocabulary)
    gathered = on.tape.buffer(made.size * job.processes, "loss") if job.processes > 1 else made.buffer
    on.tape.buffer(gathered.size + before.size if before.size else 0, "loss")
    del made
