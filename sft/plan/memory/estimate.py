"""From a run file and its plan to the bills: of a rank's device, and of a machine's memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sft.config.run import RunConfig
from sft.plan.adapter import targets_of
from sft.plan.gpus import GpuModel
from sft.plan.joined import attention, is_flash, joins_rows
from sft.plan.memory.bill import Basis, Bill, Line
from sft.plan.memory.job import BUCKET_NUMBERS, Job
from sft.plan.memory.optimizers import Optimizer
from sft.plan.memory.step import Held, Hold, held_by
from sft.plan.own_file import read_own_file
from sft.plan.plan import Plan
from sft.plan.shape import Shape
from sft.units import gib

CONTEXT_BYTES = 700 << 20
"""What CUDA, cuBLAS and the libraries' own kernels take of a GPU before the first tensor; not measured here."""
NCCL_BYTES = 400 << 20
"""Channels' buffers of one communicator; not measured here."""
FRAGMENTED = 0.06
"""Share of the tensors' bytes that the caching allocator holds beside them: likely; twice that at most."""
DEFAULT_LENGTH = 1024
"""TRL's max_length."""

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run needs of memory.

    Attributes:
        device: of one rank's GPU; of its share of host memory where it trains on the CPU.
        assumed: what had to be taken for granted, in words.
    """

    job: Job
    held: Held
    device: Bill
    assumed: tuple[str, ...]

    def stages_lines(self) -> list[str]:
        """Say what each stage of a run holds of tensors; the lines of the bill are those of the stage with most."""
        stages = sorted(self.held.stages.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {gib(size)}" for name, size in stages)
        return [f"  tensors at most: {parts}"]


def job_of(config: RunConfig, plan: Plan, shape: Shape) -> tuple[Job, list[str]]:
    """Take from a run what decides about memory, and say what had to be assumed."""
    training, model = config.training, config.model
    assumed = [*shape.assumed]
    length = training.max_length or shape.positions or DEFAULT_LENGTH
    if training.max_length is None:
        assumed.append(f"rows of {length:,} tokens, the model's longest, since max_length is null")
    mixed = plan.mixed_precision if plan.mixed_precision != "auto" else config.mixed_precision
    autocast = None if mixed == "no" else 2
    stored = round(shape.stored_bytes / max(1, shape.numbers))
    width = WIDTHS.get(str(model.dtype), stored if stored in (2, 4) else 4)
    loaded_width = width
    if plan.strategy.is_deepspeed and autocast:
        width, autocast = 2, None  # DeepSpeed converts the model, and nothing is cast any more
    own_width = None
    is_gathered_narrow = plan.strategy.is_fsdp and autocast is not None
    if is_gathered_narrow:
        # In bfloat16, and nothing is cast any more. What is trained is kept in float32, whatever it was loaded as
        # (accelerate/utils/fsdp_utils.py, fsdp2_prepare_model).
        own_width = 4 if width == 4 or not model.use_peft else None
        width, autocast = 2, None
    bits: Literal[4, 8] | None = 4 if model.load_in_4bit else 8 if model.load_in_8bit else None
    return Job(
        device="cpu" if plan.device == "cpu" else "gpu",
        rows=plan.micro_batch,
        length=length,
        eval_rows=training.per_device_eval_batch_size if training.eval_strategy != "no" else 0,
        weight_width=width,
        own_width=own_width,
        loaded_width=loaded_width,
        autocast=autocast,
        bits=bits,
        double_quantised=model.use_bnb_nested_quant,
        adapter_width=2
        if bits or is_gathered_narrow or (plan.strategy.is_deepspeed and mixed != "no")
        else 4,
        adapter_own_width=4 if is_gathered_narrow and not bits else None,
        rank=model.lora_r if model.use_peft else 0,
        targets=targets_of(shape.family, model.lora_target_modules) if model.use_peft else None,
        saved_whole=tuple(model.lora_modules_to_save or ()) if model.use_peft else (),
        dropout=model.lora_dropout if model.use_peft else 0.0,
        dora=model.use_peft and model.use_dora,
        checkpointing=bool(training.gradient_checkpointing),
        attention=_attention(attention(config)),
        joined=joins_rows(config),
        micro_batches=plan.accumulation,
        optimizer=Optimizer(
            name=str(training.optim),
            arguments=_arguments(training.optim_args),
            targets=training.optim_target_modules,
        ),
        strategy=plan.strategy,
        processes=plan.processes,
        offload=plan.offload if plan.strategy.value.endswith("offload") else None,
        all_logits=training.label_smoothing_factor > 0 and training.loss_type == "nll",
        eval_logits=_eval_logits(config),
        liger=training.use_liger_kernel and plan.device == "gpu",
        offloads_activations=bool(training.activation_offloading),
        bucket_numbers=_bucket_numbers(plan, shape),
    ), assumed


def _attention(implementation: str | None) -> Literal["flash", "kernel", "eager"]:
    return "flash" if is_flash(implementation) else "eager" if implementation == "eager" else "kernel"


def _arguments(words: str | None) -> dict[str, str]:
    """Read optim_args, "rank=64,scale=0.25", as transformers does."""
    pairs = (word.partition("=") for word in (words or "").replace(" ", "").split(",") if word)
    return {name: value for name, _, value in pairs}


def _eval_logits(config: RunConfig) -> int:
    """Return of how many batches the logits are kept; of all of them where that is not limited, which may be many."""
    if config.kit.compute_metrics is None or config.training.prediction_loss_only:
        return 0
    return config.training.eval_accumulation_steps or 1


def _bucket_numbers(plan: Plan, shape: Shape) -> int:
    """Return DeepSpeed's reduce_bucket_size: of a file of the user's own, where the run has one."""
    if plan.accelerate_file is None or not plan.strategy.is_deepspeed:
        return BUCKET_NUMBERS
    own = read_own_file(plan.accelerate_file)
    zero = own.deepspeed.root.get("zero_optimization", {}) if own.deepspeed is not None else {}
    size = zero.get("reduce_bucket_size", BUCKET_NUMBERS)
    return shape.hidden**2 if size == "auto" else int(size)


def estimate(
    config: RunConfig, plan: Plan, shape: Shape, gpu: GpuModel | None, hold: Hold = held_by
) -> Estimate:
    """Make the bill of a run.

    Args:
        gpu: what it runs on; None on the CPU, or where nobody knows.
    """
    job, assumed = job_of(config, plan, shape)
    held = hold(shape, job)
    bill = _bill(shape, job, held, gpu.memory_bytes if gpu is not None else None)
    return Estimate(job, held, bill, tuple(assumed))


def bill_of_job(shape: Shape, job: Job, capacity: int | None = None) -> Bill:
    """Make the bill of a job, which need not be a run's."""
    return _bill(shape, job, held_by(shape, job), capacity)


def _bill(shape: Shape, job: Job, held: Held, capacity: int | None) -> Bill:
    on_gpu = job.device == "gpu"
    basis: Basis = "extrapolated" if on_gpu else "measured"
    states: Basis = "exact" if not job.strategy.is_deepspeed and not job.strategy.is_fsdp else basis
    parts = held.parts
    working = parts.get("working", 0) + parts.get("batch", 0)
    lines = [
        _line("weights", parts.get("weights", 0), _weights_formula(job), states),
        _line("optimizer", parts.get("optimizer", 0), job.optimizer.name, states),
        _line("gradients", parts.get("gradients", 0), "of what is trained", states),
        _line(
            "activations",
            parts.get("activations", 0),
            _activations_formula(job),
            basis,
            1.03,
            more=_masks_of_padding(shape, job),
        ),
        _line("head and loss", parts.get("loss", 0), "tiles of 4096 x 32768", basis, 1.03),
        _line("at work", working, "gradients on their way, the batch", basis, 1.03),
        _line(
            "strategy",
            parts.get("strategy", 0),
            f"{job.strategy.value}: buckets, gathered weights",
            basis,
            1.1,
        ),
    ]
    if on_gpu:
        tensors = sum(line.likely for line in lines)
        fragmented = Line(
            name="allocator",
            likely=int(tensors * FRAGMENTED),
            at_most=int(tensors * 2 * FRAGMENTED),
            formula=f"{FRAGMENTED:.0%} of the above; twice at most",
            basis="extrapolated",
        )
        lines += [
            fragmented,
            _line("CUDA and libraries", CONTEXT_BYTES, "before the first tensor", "extrapolated", 1.3),
        ]
        if job.processes > 1:
            lines.append(_line("NCCL", NCCL_BYTES, "its channels", "extrapolated", 1.5))
    title = "memory of one GPU" if on_gpu else "memory of one process"
    return Bill(title=title, lines=tuple(lines), capacity=capacity)


def _masks_of_padding(shape: Shape, job: Job) -> int:
    """Return what masks take once a row of a micro-batch is shorter than another: rows of full length need none.

    Source:
        transformers/masking_utils.py, sdpa_mask; torch/aten/src/ATen/native/transformers/attention.cpp,
        convert_boolean_attn_mask: each layer makes numbers of it, which the backward reads.
    """
    if job.rows == 1 or job.joined or job.attention != "kernel":
        return 0
    layers = 1 if job.checkpointing else sum(layer.window is None for layer in shape.layers)
    return layers * job.rows * job.length**2 * (job.autocast or job.weight_width)


def _line(name: str, size: int, formula: str, basis: Basis, slack: float = 1.0, *, more: int = 0) -> Line:
    return Line(name=name, likely=size, at_most=int(size * slack) + more, formula=formula, basis=basis)


def _weights_formula(job: Job) -> str:
    if job.bits:
        return f"{job.bits} bits; embeddings, head {job.weight_width} bytes"
    return f"{job.weight_width} bytes a number"


def _activations_formula(job: Job) -> str:
    kept = "layers again" if job.checkpointing else "all kept"
    return f"{job.rows} x {job.length:,} positions, {kept}"
