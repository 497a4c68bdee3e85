"""Load a base to be tried: in 4 or 8 bits where the run held it so, on a GPU where there is one."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, BitsAndBytesConfig

from sft.errors import ExitCode, UserError
from sft.export.base import first_lines, model_class, reading
from sft.export.subject import Subject

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def load_model(subject: Subject, device: torch.device, dtype: str) -> Any:
    """Load the base, in 4 or 8 bits where the run held it so.

    Raises:
        UserError: it cannot be loaded, or does not fit.
    """
    hub = {"revision": subject.revision or "main", "trust_remote_code": subject.trust_remote_code}
    wanted = _dtype(subject, device, dtype)
    settings: dict[str, Any] = {}
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where PEFT puts an adapter's weights
    with reading(subject):
        try:
            config = AutoConfig.from_pretrained(subject.base, **hub)
            held = subject.quantization
            if held is not None and getattr(config, "quantization_config", None) is None:
                compute = wanted if isinstance(wanted, torch.dtype) else torch.bfloat16
                settings["quantization_config"] = BitsAndBytesConfig(
                    load_in_4bit=held.bits == 4,
                    load_in_8bit=held.bits == 8,
                    bnb_4bit_quant_type=held.quant_type,
                    bnb_4bit_use_double_quant=held.double,
                    bnb_4bit_compute_dtype=compute,
                )
            return (
                model_class(config)
                .from_pretrained(
                    subject.base,
                    dtype=wanted,
                    device_map={"": device if device.type == "cpu" else torch.cuda.current_device()},
                    **settings,
                    **hub,
                )
                .eval()
            )
        except torch.OutOfMemoryError as error:
            raise no_room(error, subject.base) from error


def _dtype(subject: Subject, device: torch.device, asked: str) -> torch.dtype | str:
    trained = (subject.quantization.load_dtype if subject.quantization else subject.dtype) or "auto"
    if asked == "auto":
        # Most CPUs compute in float32 several times faster than in bfloat16.
        fast = PRECISIONS.get(subject.precision or "") if device.type == "cuda" else torch.float32
        found: torch.dtype | str = fast or trained
    else:
        found = trained if asked == "trained" else asked
    return found if isinstance(found, torch.dtype) or found == "auto" else getattr(torch, found)


def no_room(error: BaseException, base: str) -> UserError:
    return UserError(
        f"out of memory: {first_lines(error, 1)}",
        base,
        "end what else is on the GPU, ask for fewer rows or tokens at once, or use --device cpu",
        exit_code=ExitCode.DOES_NOT_FIT,
    )
