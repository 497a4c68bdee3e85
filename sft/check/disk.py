"""What a run will need on disk, before it starts: checkpoints, the final and the merged model, the prepared data.

An estimate from the headers of the model's weights, rounded up where it cannot be exact; tests/check/test_disk.py holds
it against checkpoints of every strategy. What a checkpoint holds is told in tests/checkpoint/test_exact.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.check.filesystem import Room, gib, room
from sft.check.needs import data_needs
from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.errors import Problem
from sft.plan.adapter import is_target
from sft.plan.memory.ledger import Parameter
from sft.plan.memory.optimizers import Optimizer
from sft.plan.plan import Plan
from sft.plan.read_shape import unpacked
from sft.plan.weights import Tensor, read_tensors

DEEPSPEED_BYTES = 12
"""Master weights and Adam's two moments, in float32, of each trained number."""
ADAPTER_BYTES = 4
"""An adapter is trained in float32 (in bfloat16 on a 4-bit base, which is less)."""
BESIDE_BYTES = 1 << 20
"""The trainer's state, schedule, random numbers and manifest of a checkpoint, without the tokenizer."""
TEXT_TO_PREPARED = 2.0
COMPRESSED_TO_PREPARED = 6.0
"""Prepared data holds eight bytes a token, of which text takes some four; Parquet and gzip hold it in less."""


@dataclass(frozen=True, slots=True)
class Bill:
    """Bytes on the file system of output_dir.

    Attributes:
        kept: the most checkpoints at one time; None where the number of steps is not known and all are kept.
        here: what of all this lies there already.
    """

    checkpoint_bytes: int
    kept: int | None
    model_bytes: int
    merged_bytes: int
    here: int = 0

    @property
    def total(self) -> int:
        """The sum, with two checkpoints where nobody knows how many there will be."""
        checkpoints = (2 if self.kept is None else self.kept) * self.checkpoint_bytes
        return checkpoints + self.model_bytes + self.merged_bytes

    @property
    def to_come(self) -> int:
        """What still has to be written."""
        return max(0, self.total - self.here)

    def line(self) -> str:
        """Say the sum for people."""
        each = f"{gib(self.checkpoint_bytes)} each"
        many = "checkpoint" if self.kept == 1 else "checkpoints"
        parts = [
            f"{self.kept} {many} of {each}" if self.kept is not None else f"checkpoints of {each}, all kept"
        ]
        parts.append(f"the model {gib(self.model_bytes)}")
        if self.merged_bytes:
            parts.append(f"merged {gib(self.merged_bytes)}")
        least = "at least " if self.kept is None else ""
        return f"disk: {' + '.join(parts)} = {least}{gib(self.total)}"


def look_at_disk(
    loaded: LoadedRun,
    plan: Plan,
    *,
    model: str | None = None,
    tensors: Sequence[Tensor] | None = None,
    rows: int | None = None,
    trained: int | None = None,
) -> tuple[list[str], list[Problem]]:
    """Hold what a run will write against what there is room for.

    Args:
        model: the directory of the model, where it is known.
        tensors: of a model that is not on this machine, where the Hub has told them.
        rows: how many rows it trains on, where they are prepared.
        trained: how many numbers are trained, where that is known.

    Returns:
        Lines for people, and what does not fit. Of a model whose safetensors nobody has seen nothing is known.
    """
    config = loaded.config
    lines, problems = [], []
    directory = _directory(config, model)
    tensors = (read_tensors(directory) if directory is not None else None) or tensors
    output = config.run.output_dir
    if tensors is not None:
        beside = _beside(directory) if directory is not None else 0
        bill = bill_of(config, plan, tensors, rows=rows, beside=beside, here=_here(output), trained=trained)
        have = room(output)
        lines.append(f"{bill.line()} on {have.place} ({gib(have.bytes)} {have.bound})")
        if bill.to_come > have.bytes:
            problems.append(_does_not_fit(bill, have, loaded))
    size = prepared_bytes(config) if rows is None else 0
    if size > 1 << 20:
        have = room(Path(config.kit.data_cache or _default_cache()))
        lines.append(
            f"disk: prepared data, at most {gib(size)} on {have.place} ({gib(have.bytes)} {have.bound})"
        )
        if size / 2 > have.bytes:
            what = f"the prepared data needs about {gib(size)}, and {gib(have.bytes)} {have.bound}"
            fix = "set data_cache to a place that has room and that every node sees"
            problems.append(Problem(what, str(have.place), fix))
    return lines, problems


def bill_of(
    config: RunConfig,
    plan: Plan,
    tensors: Sequence[Tensor],
    *,
    rows: int | None = None,
    beside: int = 0,
    here: int = 0,
    trained: int | None = None,
) -> Bill:
    """Add up what a run writes below output_dir.

    Args:
        tensors: of the model that it starts from.
        rows: the rows of an epoch.
        beside: bytes of the tokenizer, which every checkpoint holds.
        here: bytes that lie there already.
        trained: how many numbers are trained, where that is known; else they are counted by the adapter's targets.
    """
    tensors = [*unpacked(tensors)]
    numbers = sum(tensor.count for tensor in tensors)
    own_bytes = sum(tensor.count * tensor.bytes_each for tensor in tensors)
    dtype = config.model.dtype
    each = (
        own_bytes / numbers
        if dtype == "auto" and numbers
        else 2.0
        if dtype in ("bfloat16", "float16")
        else 4.0
    )
    full = config.method == "full"
    if full and plan.strategy.is_fsdp and plan.mixed_precision in ("bf16", "fp16"):
        each = 4.0  # accelerate keeps what FSDP2 trains in float32, whatever it was loaded as
    if trained is None:
        trained = numbers if full else adapter_numbers(config, tensors)
    each = each if full else ADAPTER_BYTES
    saved = each
    if plan.strategy.is_deepspeed and plan.mixed_precision in ("bf16", "fp16"):
        saved = 2.0  # DeepSpeed computes with, and saves, weights in that type
    model_bytes = math.ceil(trained * saved) + beside
    if config.training.save_only_model:
        state = 0.0
    elif plan.strategy.is_deepspeed:
        # ZeRO-3 keeps no copy of the weights that it computes with beside its master weights.
        state = DEEPSPEED_BYTES + (0.0 if plan.strategy.shards_parameters else saved)
    elif plan.strategy.is_fsdp:
        state = each + moments_bytes(config.training.optim, each)
    else:
        state = moments_bytes(config.training.optim, each)
    return Bill(
        checkpoint_bytes=model_bytes + math.ceil(trained * state) + BESIDE_BYTES,
        kept=most_checkpoints(config, plan, rows),
        model_bytes=model_bytes,
        merged_bytes=math.ceil(own_bytes) + beside if config.kit.merge else 0,
        here=here,
    )


def adapter_numbers(config: RunConfig, tensors: Iterable[Tensor]) -> int:
    """Count what an adapter trains; where PEFT's own choice of modules is taken, at most that.

    Source:
        LoRA, arXiv:2106.09685, section 4.1: r x (inputs + outputs) for each matrix.
    """
    model = config.model
    kept = set(model.lora_modules_to_save or ())
    total = 0
    for tensor in tensors:
        path, _, leaf = tensor.name.rpartition(".")
        if leaf != "weight":
            continue
        if path.rpartition(".")[2] in kept:
            total += tensor.count
        elif len(tensor.shape) == 2 and is_target(path, model.lora_target_modules):
            total += model.lora_r * sum(tensor.shape)
    return total


def moments_bytes(optim: str, each: float) -> float:
    """Return how much an optimizer keeps of each trained number, at most.

    Args:
        each: bytes of the number itself.
    """
    if "adafactor" in optim:
        return 0.0
    # Of what two sizes differ by, so that what is kept once a tensor, or once in all, does not count.
    small, large = (Parameter(numbers, each, trained=True) for numbers in (1 << 20, 1 << 21))
    optimizer = Optimizer(name=optim)
    return (optimizer.kept([large]) - optimizer.kept([small])) / (large.numbers - small.numbers)


def copied_bytes(config: RunConfig, plan: Plan, tensors: Sequence[Tensor], trained: int) -> int:
    """Return what is copied to host memory of a checkpoint, over all ranks, while training goes on; 0 where none is."""
    if not config.kit.background_save or config.training.save_strategy == "no":
        return 0
    return bill_of(config, plan, tensors, trained=trained).checkpoint_bytes


def most_checkpoints(config: RunConfig, plan: Plan, rows: int | None) -> int | None:
    """Return how many checkpoints lie on disk at one time, at most; None where that cannot be known."""
    training = config.training
    limit = training.save_total_limit
    if limit is not None and limit >= 1:
        # A new one is whole before an old one goes; with a limit of 1 the best stays beside the newest.
        limit += 1 + int(limit == 1 and bool(training.load_best_model_at_end))
    else:
        limit = None
    saves = _saves(config, _steps(config, plan, rows))
    if saves is None or limit is None:
        return limit if saves is None else saves
    return min(saves, limit)


def _steps(config: RunConfig, plan: Plan, rows: int | None) -> int | None:
    if config.training.max_steps > 0:
        return config.training.max_steps
    if rows is None:
        return None
    return math.ceil(config.training.num_train_epochs * math.ceil(rows / plan.batch.total))


def _saves(config: RunConfig, steps: int | None) -> int | None:
    """Count the saves of a run, the one at its end among them."""
    training = config.training
    if training.save_strategy == "no":
        return 1  # a stop saves one
    if training.save_strategy == "epoch":
        return math.ceil(training.num_train_epochs) if training.max_steps <= 0 else None
    if training.save_strategy == "best":
        return None
    if training.save_steps < 1:
        return math.ceil(1 / training.save_steps) if training.save_steps > 0 else None
    return None if steps is None else math.ceil(steps / training.save_steps)


def prepared_bytes(config: RunConfig) -> int:
    """Estimate the prepared data of local files; 0 for what is not on this machine."""
    total = 0.0
    for wanted in data_needs(config):
        place = Path(wanted.path)
        files = [place] if place.is_file() else place.rglob("*") if place.is_dir() else []
        for file in files:
            if file.is_file():
                packed = file.suffix.lower() in (".parquet", ".gz", ".zst", ".arrow")
                total += file.stat().st_size * (COMPRESSED_TO_PREPARED if packed else TEXT_TO_PREPARED)
    return math.ceil(total)


def _directory(config: RunConfig, model: str | None) -> Path | None:
    name = model or config.model.model_name_or_path or ""
    if os.path.isdir(name):
        return Path(name)
    from sft.hub.cached import snapshot_of  # huggingface_hub takes a while to start

    return snapshot_of(name, config.model.model_revision)


def _default_cache() -> Path:
    from sft.data.cache import default_cache

    return default_cache()


def _beside(directory: Path) -> int:
    """Add what of a model's directory is not weights."""
    heavy = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")
    return sum(
        path.stat().st_size for path in directory.iterdir() if path.is_file() and path.suffix not in heavy
    )


def _here(output: Path) -> int:
    """Add what a run has left in its directory that counts in its bill."""
    places = [*output.glob("checkpoint-*"), output / "merged"]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in [*files, *output.glob("*.safetensors")])


def _does_not_fit(bill: Bill, have: Room, loaded: LoadedRun) -> Problem:
    beside = bill.model_bytes + bill.merged_bytes
    fits = (have.bytes + bill.here - beside) // max(1, bill.checkpoint_bytes) - 1
    fix = "set output_dir to a file system that has room"
    if fits >= 1:
        fix = f"set save_total_limit: {fits}, or {fix[4:]}"
    least = "at least " if bill.kept is None else ""
    return Problem(
        f"the run will write {least}{gib(bill.to_come)} to {have.place}, and {gib(have.bytes)} {have.bound}"
        f" ({bill.line().removeprefix('disk: ')})",
        loaded.where("output_dir"),
        fix,
    )
