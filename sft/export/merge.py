"""Merge an adapter into its base, and prove on the written files that the result is the same model.

A QLoRA adapter goes into the dequantised base, which is what it was trained against. One copy of the model
is held at a time. Does not push, and does not evaluate answers.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sft.errors import ExitCode, UserError
from sft.export import adapter as adapters
from sft.export import verify
from sft.export.base import (
    Base,
    cast,
    dequantize,
    float_tensors,
    inspect_base,
    load,
    load_quantized,
    model_class,
)
from sft.export.output import gib, refuse_output, require_disk, staged
from sft.export.package import load_tokenizer, write_package
from sft.export.source import Quantization, find_adapter

Into = Literal["dequantized", "original"]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """What was merged, and how far it is from base and adapter. Differences are between float logits."""

    output: Path
    adapter: Path
    base: str
    into: Into
    quantization: str | None
    dtype: str
    parameters: int
    bytes_written: int
    tied_embeddings: bool
    max_difference: float
    bound: float
    # how far the adapter itself moves the logits of its base
    adapter_effect: float
    # before the weights were rounded to their type; None where memory did not allow float32
    unrounded_difference: float | None
    # to the adapter on its quantised base, run by bitsandbytes in float32: information, no bound
    trained_difference: float | None
    seconds: float


def merge(
    source: Path,
    output: Path,
    *,
    into: Into | None = None,
    base: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    quantization: Quantization | None = None,
    trust_remote_code: bool = False,
    max_difference: float | None = None,
    overwrite: bool = False,
    say: Say = lambda text: print(text, file=sys.stderr, flush=True),
) -> MergeReport:
    """Write the merged model to `output`, whole or not at all.

    Args:
        source: a run directory, a checkpoint or an adapter directory.
        into: None is what the adapter was trained against.
        dtype: of the merged weights; `auto` keeps the base's.
        quantization: how the base was held in training, where the source does not say.
        max_difference: replaces the bound that is worked out from the type and the scale of the logits.
    Raises:
        UserError: something is missing or does not fit together, or the result differs by more than the
            bound (exit code 5: doing it again would fail again). Nothing is left at `output` then.
    """
    started = time.monotonic()
    found = find_adapter(
        source, base=base, revision=revision, quantization=quantization, trust_remote_code=trust_remote_code
    )
    forbidden = [*found.forbidden_outputs, *([found.base_path.resolve()] if found.base_path else [])]
    output = refuse_output(output, forbidden=forbidden, overwrite=overwrite)
    for note in found.notes:
        say(note)
    peft_config = adapters.read_config(found)
    plan = inspect_base(found, dtype=dtype)
    form = _form(plan, into)
    require_disk(output, plan.bytes_on_disk)
    tokenizer = load_tokenizer(found)
    prompts, described = verify.encode_prompts(
        getattr(tokenizer, "tokenizer", tokenizer), plan.config.get_text_config().vocab_size
    )
    say(
        f"merging {found.adapter} ({getattr(peft_config.peft_type, 'value', peft_config.peft_type)!s}) into {found.base} ({_words(plan, form)}), "
        f"{plan.parameters / 1e6:,.1f} M parameters, {gib(plan.bytes_on_disk)} as {_name(plan.dtype)}"
    )
    if plan.compute_dtype is not torch.float32:
        say(f"computing in {_name(plan.compute_dtype)}: the model does not fit in memory as float32")

    model, dtypes, trained = _load_form(plan, form, peft_config, prompts)
    peft_model = adapters.attach(model, found, peft_config)
    reference = verify.logits_of(peft_model, prompts)
    with peft_model.disable_adapter():
        effect = verify.largest_difference(verify.logits_of(peft_model, prompts), reference)
    if effect == 0:
        say("the adapter changes nothing: its weights are those of an untrained one")
    exact = plan.compute_dtype is torch.float32
    model = adapters.merge_weights(peft_model, in_float32=exact)
    del peft_model
    unrounded = None
    if exact:
        unrounded = verify.largest_difference(verify.logits_of(model, prompts), reference)
        _enforce(
            unrounded,
            verify.bound(reference, torch.float32, torch.float32),
            "before rounding",
            max_difference,
        )
    cast(model, lambda name: dtypes.get(name, plan.dtype))
    tied = bool(model.config.get_text_config().tie_word_embeddings)

    with staged(output) as directory:
        for note in write_package(model, tokenizer, directory, found):
            say(note)
        del model
        gc.collect()
        size = sum(path.stat().st_size for path in directory.rglob("*.safetensors"))
        say(
            f"wrote {gib(size)}; loading it again to compare with base and adapter on {len(prompts)} {described}"
        )
        written = verify.logits_of(_reload(plan, directory), prompts)
        difference = verify.largest_difference(written, reference)
        bound = (
            verify.bound(reference, plan.dtype, plan.compute_dtype)
            if max_difference is None
            else max_difference
        )
        say(
            f"largest logit difference {difference:.2g} (bound {bound:.2g}); the adapter itself moves them by {effect:.2g}"
        )
        if unrounded is not None:
            say(f"  of which {unrounded:.2g} before the weights were rounded to {_name(plan.dtype)}")
        from_trained = None
        if trained is not None:
            from_trained = verify.largest_difference(written, trained)
            say(f"  to the adapter on the {plan.quantization} base it was trained on: {from_trained:.2g}")
        _enforce(difference, bound, "after writing and loading", max_difference)
    return MergeReport(
        output=output,
        adapter=found.adapter,
        base=found.base,
        into=form,
        quantization=str(plan.quantization) if plan.quantization else None,
        dtype=_name(plan.dtype),
        parameters=plan.parameters,
        bytes_written=size,
        tied_embeddings=tied,
        max_difference=difference,
        bound=bound,
        adapter_effect=effect,
        unrounded_difference=unrounded,
        trained_difference=from_trained,
        seconds=time.monotonic() - started,
    )


def _form(plan: Base, into: Into | None) -> Into:
    if plan.quantization is None:
        if into == "dequantized":
            raise UserError(
                "--into dequantized needs an adapter that was trained on a quantised base",
                str(plan.source.adapter),
                "leave --into out, or say how the base was loaded with --load_in_4bit or --load_in_8bit",
            )
        return "original"
    if into == "original" and plan.prequantized:
        raise UserError(
            f"--into original needs the original weights, and {plan.source.base} is stored quantised",
            plan.source.base_told_by,
            "give the unquantised model that it was made from with --base, or leave --into out",
        )
    return into or "dequantized"


def _words(plan: Base, form: Into) -> str:
    if plan.quantization is None:
        return "its original weights"
    if form == "dequantized":
        return f"dequantised from {plan.quantization}, as trained"
    return f"its original weights, though trained on {plan.quantization}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _load_form(
    plan: Base, form: Into, peft_config: Any, prompts: list[Tensor]
) -> tuple[PreTrainedModel, dict[str, torch.dtype], list[Tensor] | None]:
    """Return the base to merge into, the types that its tensors go back to, and the logits as trained."""
    trained = None
    if plan.quantization is not None:
        model = load_quantized(plan)
        adapters.fit_embeddings(model, plan.source)
        peft_model = adapters.attach(model, plan.source, peft_config)
        trained = verify.logits_of(peft_model, prompts, as_in_training=True)
        model = adapters.detach(peft_model)
        if form == "dequantized":
            return dequantize(model, plan), {}, trained
        del model, peft_model
        gc.collect()
    own = plan.config.dtype == plan.dtype
    model = load(plan, "auto" if own else plan.dtype)
    # Some architectures keep a few tensors in float32 whatever the type of the rest.
    dtypes = {name: tensor.dtype for name, tensor in float_tensors(model)}
    cast(model, lambda _: plan.compute_dtype)
    adapters.fit_embeddings(model, plan.source)
    return model, dtypes, trained


def _reload(plan: Base, directory: Path) -> PreTrainedModel:
    model = model_class(plan.config).from_pretrained(
        directory,
        dtype=plan.compute_dtype,
        local_files_only=True,
        trust_remote_code=plan.source.trust_remote_code,
    )
    return model.eval()


def _enforce(difference: float, bound: float, when: str, told: float | None) -> None:
    if difference <= bound:
        return
    shown = "NaN" if math.isnan(difference) else f"{difference:.2g}"
    raise UserError(
        f"the merged model differs from base and adapter by {shown} in the logits {when} (bound {bound:.2g})",
        "--max-difference" if told is not None else None,
        "nothing was written; merge with --dtype float32, or allow more with --max-difference",
        exit_code=ExitCode.TRAINING_FAILED,
    )
