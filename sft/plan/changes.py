"""What would make a run fit that does not: the fewest changes, each as small as it can be, and what each costs.

A change is made to the settings and the plan, and the bill is made anew from them, so that its price is what the plan would
say of the changed run, and nothing is told that the kit would refuse.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sft.config.kit import Strategy
from sft.config.run import RunConfig
from sft.plan.adapter import EXPERTS_BY_NAME
from sft.plan.decide import Option, option
from sft.plan.gpus import GpuModel
from sft.plan.plan import Plan
from sft.plan.shape import Shape
from sft.units import gib

SHORTEST = 512
LENGTH_SHARES = (0.75, 0.5, 0.25, 0.125)
MORE_GPUS = (2, 4, 8)
MOST_CHANGES = 3

Run = tuple[RunConfig, Plan]


@dataclass(frozen=True, slots=True)
class Change:
    """One change to a run, and what it costs.

    Attributes:
        words: what to write in the run file.
        price: what is lost by it.
        apply: the run with it.
        gentle: how little it changes what is trained: 0 changes nothing but time.
    """

    words: str
    price: str
    apply: Callable[[Run], Run]
    gentle: int


@dataclass(frozen=True, slots=True)
class Way:
    """Changes that together make a run fit.

    Attributes:
        saved: bytes that the bound is lower by; of each change, what it saves beside those named before it.
        host: bytes that a machine's own memory has to hold then; 0 where it holds nothing of the model.
    """

    changes: tuple[Change, ...]
    saved: tuple[int, ...]
    host: int = 0

    def line(self) -> str:
        """Say it for people."""
        parts = [
            f"{change.words}: {gib(size)} less" + (f" ({change.price})" if change.price else "")
            for change, size in zip(self.changes, self.saved, strict=True)
        ]
        host = [f"{gib(self.host)} of each machine's memory are needed then"] if self.host else []
        return "; and ".join(parts) + "".join(f"; {words}" for words in host)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's own types."""
        changes = [
            {"change": change.words, "price": change.price, "saved_bytes": size}
            for change, size in zip(self.changes, self.saved, strict=True)
        ]
        return {"changes": changes, "host_bytes": self.host or None}


def ways_to_fit(config: RunConfig, plan: Plan, shape: Shape, gpu: GpuModel, *, most: int = 5) -> list[Way]:
    """Find the fewest changes that make a run fit, none stronger than it must be; of equally few, the gentlest first."""
    kinds = [*_kinds(config, plan, shape)]
    for count in range(1, MOST_CHANGES + 1):
        found = []
        for chosen in itertools.combinations(kinds, count):
            if (way := _weakest((config, plan), shape, gpu, chosen)) is not None:
                found.append(way)
        if found:
            found.sort(key=lambda way: (sum(change.gentle for change in way.changes), -sum(way.saved)))
            return found[:most]
    return []


def _weakest(run: Run, shape: Shape, gpu: GpuModel, kinds: Sequence[Sequence[Change]]) -> Way | None:
    """Return changes of these kinds that make a run fit, each as weak as the others leave it; None if the strongest do not.

    Args:
        kinds: of each kind its strengths, the weakest first.
    """
    taken = [strengths[-1] for strengths in kinds]
    if not _with(run, shape, gpu, taken).fits:
        return None
    for index, strengths in enumerate(kinds):
        for weaker in strengths[:-1]:
            tried = [*taken[:index], weaker, *taken[index + 1 :]]
            if _with(run, shape, gpu, tried).fits:
                taken = tried
                break
    made = [_with(run, shape, gpu, taken[:index]) for index in range(len(taken) + 1)]
    needed = [one.estimate.device.at_most for one in made]
    saved = tuple(before - after for before, after in itertools.pairwise(needed))
    host = made[-1].host.likely if made[-1].estimate.job.offload else 0
    return Way(tuple(taken), saved, host)


def _with(run: Run, shape: Shape, gpu: GpuModel, changes: Sequence[Change]) -> Option:
    for change in changes:
        run = change.apply(run)
    return option(*run, shape, gpu)


def _kinds(config: RunConfig, plan: Plan, shape: Shape) -> Iterator[tuple[Change, ...]]:
    """Name the changes of each kind, the weakest first."""
    training, model = config.training, config.model
    if not training.gradient_checkpointing:
        yield (
            _training(
                "gradient_checkpointing: true",
                "about a third more arithmetic",
                0,
                gradient_checkpointing=True,
            ),
        )
    if plan.micro_batch > 1:
        fewer = range(plan.micro_batch - 1, 0, -1)
        yield tuple(_fewer_rows(plan, rows) for rows in fewer if plan.micro_batch % rows == 0)
    if plan.strategy in (Strategy.DDP, Strategy.ZERO1, Strategy.ZERO2):
        yield (_strategy(Strategy.ZERO3, "weights are sent three times a step", 1),)
    if not plan.strategy.value.endswith("_offload"):
        offload = Strategy.FSDP2_OFFLOAD if plan.strategy.is_fsdp else Strategy.ZERO3_OFFLOAD
        yield (_strategy(offload, "a step waits for host memory", 2),)
    more = [_more_gpus(plan, times) for times in MORE_GPUS if plan.accumulation % times == 0]
    if more and plan.strategy is not Strategy.DDP:
        yield tuple(more)
    length = training.max_length or shape.positions or 0
    if length > SHORTEST:
        lengths = dict.fromkeys(max(SHORTEST, int(length * share) // 64 * 64) for share in LENGTH_SHARES)
        yield tuple(
            _training(
                f"max_length: {training.max_length or 'null'} -> {shorter}",
                "longer rows are cut",
                3,
                max_length=shorter,
            )
            for shorter in lengths
        )
    if model.use_peft and not config.is_quantized:
        yield (_in_4_bits(plan),)
    if not model.use_peft:
        if training.optim in ("adamw_torch", "adamw_torch_fused"):
            yield (_training("optim: adamw_8bit", "moments of 8 bits", 3, optim="adamw_8bit"),)
        yield (_adapter(shape),)


def _training(words: str, price: str, gentle: int, **values: Any) -> Change:
    def apply(run: Run) -> Run:
        config, plan = run
        return config.model_copy(update={"training": config.training.model_copy(update=values)}), plan

    return Change(words, price, apply, gentle)


def _model(words: str, price: str, gentle: int, **values: Any) -> Change:
    def apply(run: Run) -> Run:
        config, plan = run
        return config.model_copy(update={"model": config.model.model_copy(update=values)}), plan

    return Change(words, price, apply, gentle)


def _strategy(strategy: Strategy, price: str, gentle: int) -> Change:
    return Change(
        f"launch.strategy: {strategy.value}",
        price,
        lambda run: (run[0], dataclasses.replace(run[1], strategy=strategy)),
        gentle,
    )


def _in_4_bits(plan: Plan) -> Change:
    words, storage = "load_in_4bit: true", dict[str, Any]()
    if plan.strategy.is_fsdp:
        words, storage = (
            f"{words} with bnb_4bit_quant_storage: bfloat16",
            {"bnb_4bit_quant_storage": "bfloat16"},
        )
    return _model(words, "a base of 4 bits", 4, load_in_4bit=True, **storage)


def _adapter(shape: Shape) -> Change:
    words, dropout = "use_peft: true with lora_target_modules: all-linear", dict[str, Any]()
    if shape.family in EXPERTS_BY_NAME:
        words, dropout = f"{words} and lora_dropout: 0", {"lora_dropout": 0.0}
    return _model(
        words,
        "an adapter in place of every weight",
        5,
        use_peft=True,
        lora_target_modules="all-linear",
        **dropout,
    )


def _fewer_rows(plan: Plan, rows: int) -> Change:
    times = plan.micro_batch // rows
    return Change(
        f"per_device_train_batch_size: {plan.micro_batch} -> {rows}",
        f"gradient_accumulation_steps {plan.accumulation} -> {plan.accumulation * times}, the same rows a step",
        lambda run: (
            run[0],
            dataclasses.replace(run[1], micro_batch=rows, accumulation=run[1].accumulation * times),
        ),
        0,
    )


def _more_gpus(plan: Plan, times: int) -> Change:
    """Take more GPUs for the same rows a step; one GPU alone shards nothing, so its model is sharded then."""

    def apply(run: Run) -> Run:
        old = run[1]
        strategy = Strategy.ZERO3 if old.strategy is Strategy.SINGLE else old.strategy
        fewer = dataclasses.replace(old, strategy=strategy, accumulation=max(1, old.accumulation // times))
        if old.nodes > 1:
            return run[0], dataclasses.replace(fewer, nodes=old.nodes * times)
        return run[0], dataclasses.replace(fewer, processes_per_node=old.processes_per_node * times)

    with_strategy = " with launch.strategy: zero3" if plan.strategy is Strategy.SINGLE else ""
    return Change(
        f"{plan.processes * (times - 1)} more GPUs{with_strategy}",
        f"gradient_accumulation_steps {plan.accumulation} -> {plan.accumulation // times}, the same rows a step",
        apply,
        1,
    )
