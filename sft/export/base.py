"""Load the base model in the form that the adapter is merged into.

Every weight is held in a compute type (float32 wherever it fits), so that a merge rounds once, when the
weights go back to the type that `Base` remembers. Knows nothing of adapters.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from sft.errors import ExitCode, UserError
from sft.export.output import gib
from sft.export.source import AdapterSource, Quantization
from sft.machine import available_memory_bytes

# Room for the logits, the adapter and one layer's delta beside the weights.
MEMORY_SLACK = 1.15


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What is known of a base before its weights are loaded."""

    source: AdapterSource
    config: PretrainedConfig
    dtype: torch.dtype
    parameters: int
    compute_dtype: torch.dtype
    # bitsandbytes' settings where the merge starts from quantised weights
    quantization: Quantization | None
    prequantized: bool

    @property
    def bytes_on_disk(self) -> int:
        """The size that the merged weights will have."""
        return self.parameters * self.dtype.itemsize


def inspect_base(source: AdapterSource, *, dtype: str) -> Base:
    """Read the base's configuration, and choose the type to compute in by the memory that there is.

    Args:
        dtype: `auto` keeps the base's own.
    Raises:
        UserError: the base cannot be read, its quantisation cannot be undone, or it does not fit.
    """
    with reading(source):
        config = AutoConfig.from_pretrained(source.base, **_hub(source))
    quantization, prequantized = _own_quantization(source, config)
    own = config.dtype or _dtype_of_weights(source, config)
    wanted = own if dtype == "auto" else getattr(torch, dtype)
    parameters = _count_parameters(source, config)
    compute = _compute_dtype(parameters, wanted)
    return Base(
        source=source,
        config=config,
        dtype=wanted,
        parameters=parameters,
        compute_dtype=compute,
        quantization=quantization,
        prequantized=prequantized,
    )


def load(base: Base, dtype: torch.dtype | str) -> PreTrainedModel:
    """Load the base's original weights."""
    with reading(base.source):
        model = model_class(base.config).from_pretrained(base.source.base, dtype=dtype, **_hub(base.source))
    return model.eval()


def load_quantized(base: Base) -> PreTrainedModel:
    """Load the base as bitsandbytes held it in training, with everything unquantised in the compute type."""
    quantization = base.quantization
    assert quantization is not None
    settings: dict[str, Any] = {}
    if not base.prequantized:
        # The compute type has no part in the quantised values; in float32 it adds no noise to the logits.
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=quantization.bits == 4,
            load_in_8bit=quantization.bits == 8,
            bnb_4bit_quant_type=quantization.quant_type,
            bnb_4bit_use_double_quant=quantization.double,
            bnb_4bit_compute_dtype=base.compute_dtype,
        )
    # One line a layer and prompt, about a cast that is meant.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    with reading(base.source):
        model = model_class(base.config).from_pretrained(
            base.source.base,
            dtype=quantization.load_dtype,
            device_map={"": "cpu"},
            **settings,
            **_hub(base.source),
        )
    cast(model, lambda _: base.compute_dtype)
    return model.eval()


def dequantize(model: PreTrainedModel, base: Base) -> PreTrainedModel:
    """Undo the quantisation in place: the values that the adapter was trained against, as plain weights."""
    model = model.dequantize(dtype=base.compute_dtype)
    # What marks a model as quantised outlives the weights, and save_pretrained would refuse.
    for name in (
        "hf_quantizer",
        "is_loaded_in_4bit",
        "is_loaded_in_8bit",
        "is_quantized",
        "quantization_method",
    ):
        if name in vars(model):
            delattr(model, name)
    if "quantization_config" in vars(model.config):
        del model.config.quantization_config
    # A base stored quantised was read by a conversion that save_pretrained would try to run backwards.
    model._weight_conversions = [
        conversion
        for conversion in model._weight_conversions or []
        if not any(
            type(step).__module__.endswith("bitsandbytes") for step in getattr(conversion, "operations", [])
        )
    ] or None
    return model


def float_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers that a change of type concerns, quantised ones excepted."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point() and type(tensor).__name__ not in ("Params4bit", "Int8Params"):
            yield name, tensor


def cast(model: nn.Module, dtype_of: Callable[[str], torch.dtype]) -> None:
    """Change types tensor by tensor, so that two whole copies never exist; tied weights stay tied."""
    for name, tensor in float_tensors(model):
        tensor.data = tensor.data.to(dtype_of(name))


def model_class(config: PretrainedConfig) -> Any:
    """Return the class to load with: the one in the configuration, for models that are not plain causal ones."""
    if type(config) in AutoModelForCausalLM._model_mapping or "AutoModelForCausalLM" in (
        getattr(config, "auto_map", None) or {}
    ):
        return AutoModelForCausalLM
    name = (config.architectures or [""])[0]
    if not hasattr(transformers, name):
        raise UserError(
            f"transformers has no model class for the base ({config.model_type}, {name or 'unnamed'})"
        )
    return getattr(transformers, name)


class reading:
    """Turn what libraries raise on a missing or broken base into a UserError."""

    def __init__(self, source: AdapterSource) -> None:
        self.source = source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, SafetensorError, ValueError, RuntimeError)):
            raise UserError(
                f"the base model {self.source.base} cannot be loaded: {first_lines(error)}",
                self.source.base_told_by,
                "give a base that loads with --base (its directory, or its name on the Hub)",
                exit_code=ExitCode.ENVIRONMENT,
            ) from error


def first_lines(error: BaseException, count: int = 3) -> str:
    """Shorten a library's message to what a person reads."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:count])[:400] or type(error).__name__


def _hub(source: AdapterSource) -> dict[str, Any]:
    return {"revision": source.revision or "main", "trust_remote_code": source.trust_remote_code}


def _own_quantization(source: AdapterSource, config: PretrainedConfig) -> tuple[Quantization | None, bool]:
    own = getattr(config, "quantization_config", None)
    if own is None:
        return source.quantization, False
    settings = own if isinstance(own, dict) else own.to_dict()
    method = str(settings.get("quant_method"))
    if method != "bitsandbytes":
        raise UserError(
            f"the base {source.base} is stored quantised with {method}, which cannot be undone without loss",
            source.base_told_by,
            "give the unquantised model that it was made from with --base",
        )
    load_dtype = source.quantization.load_dtype if source.quantization else "auto"
    if settings.get("load_in_8bit"):
        return Quantization(bits=8, load_dtype=load_dtype), True
    return Quantization(
        bits=4,
        quant_type=str(settings.get("bnb_4bit_quant_type")),
        double=bool(settings.get("bnb_4bit_use_double_quant")),
        load_dtype=load_dtype,
    ), True


def _dtype_of_weights(source: AdapterSource, config: PretrainedConfig) -> torch.dtype:
    """Read the type off the weights, as `dtype="auto"` does where the configuration names none."""
    with reading(source):
        model = model_class(config).from_pretrained(source.base, dtype="auto", **_hub(source))
    return model.dtype


def _count_parameters(source: AdapterSource, config: PretrainedConfig) -> int:
    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    with reading(source), torch.device("meta"):
        loader = model_class(plain)
        if loader is AutoModelForCausalLM:
            model = loader.from_config(plain, trust_remote_code=source.trust_remote_code)
        else:
            model = loader(plain)
    return sum(parameter.numel() for parameter in model.parameters())


def _compute_dtype(parameters: int, wanted: torch.dtype) -> torch.dtype:
    available = available_memory_bytes()
    for dtype in (torch.float32, wanted):
        if parameters * dtype.itemsize * MEMORY_SLACK <= available:
            return dtype
    raise UserError(
        f"merging needs {gib(int(parameters * wanted.itemsize * MEMORY_SLACK))} of memory, and "
        f"{gib(available)} is available",
        fix="merge on a machine, or in a job, with more memory",
        exit_code=ExitCode.DOES_NOT_FIT,
    )
