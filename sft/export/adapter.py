"""Put an adapter on its base, and merge it into the weights. PEFT does the arithmetic."""

from __future__ import annotations

import re
import warnings
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from sft.errors import UserError
from sft.export.base import first_lines
from sft.export.source import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterSource

PREFIX = "base_model.model."
WRAPPERS = re.compile(r"\.(modules_to_save|original_module|token_adapter\.base_layer)(?=\.weight$)")


def read_config(source: AdapterSource) -> PeftConfig:
    """Read the adapter's configuration, and refuse the kinds that have no place in the weights."""
    where = str(source.adapter / ADAPTER_CONFIG)
    try:
        config = PeftConfig.from_pretrained(str(source.adapter))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the installed peft does not know this adapter: {first_lines(error)}",
            where,
            "install a newer peft",
        ) from error
    if config.is_prompt_learning:
        raise UserError(
            f"a {config.peft_type.value} adapter cannot be merged: it adds to the input, not to the weights",
            where,
            "use it as an adapter, with PeftModel.from_pretrained",
        )
    config.inference_mode = True
    return config


def fit_embeddings(model: PreTrainedModel, source: AdapterSource) -> int | None:
    """Resize the base's embeddings to those that the adapter holds; return the new row count, if any."""
    embeddings = model.get_input_embeddings()
    rows, width = embeddings.weight.shape
    name = next(name for name, module in model.named_modules() if module is embeddings)
    for key, shape in source.shapes.items():
        whole = key.startswith(f"{PREFIX}{name}.") and "lora_" not in key and key.endswith("weight")
        if whole and len(shape) == 2 and shape[1] == width and shape[0] != rows:
            model.resize_token_embeddings(shape[0], mean_resizing=False)
            return shape[0]
    return None


def attach(
    model: PreTrainedModel | PeftModel, source: AdapterSource, config: PeftConfig, name: str = "default"
) -> PeftModel:
    """Load the adapter onto the base, under a name beside those that are there; it becomes the active one.

    Raises:
        UserError: it was made for another base: other shapes, or layers that one has and the other lacks.
    """
    try:
        with warnings.catch_warnings():
            # Both concern what is checked below: missing keys, and tied embeddings.
            warnings.filterwarnings("ignore", message=".*missing adapter keys")
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings|.*weight_tying|.*tied")
            if isinstance(model, PeftModel):
                peft_model = model
                peft_model.load_adapter(str(source.adapter), adapter_name=name)
                peft_model.set_adapter(name)
            else:
                peft_model = PeftModel.from_pretrained(
                    model, str(source.adapter), adapter_name=name, config=config
                )
    except (RuntimeError, ValueError, KeyError) as error:
        raise _another_base(source, first_lines(error)) from error
    expected = set(get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False))
    missing = sorted(expected - set(source.shapes))
    if missing:
        raise _another_base(
            source, f"the base has {missing[0]}, which the adapter lacks ({len(missing)} such)"
        )
    # Embeddings that were saved whole beside the adapter are weights of the base, by the base's names.
    known = expected | {PREFIX + name for name, _ in _base_parameters(model)}
    # Where the vocabulary has grown, PEFT saves its own wrappers around them as well.
    unknown = sorted(key for key in source.shapes if key not in known and WRAPPERS.sub("", key) not in known)
    if unknown:
        raise _another_base(
            source, f"the adapter has {unknown[0]}, which the base lacks ({len(unknown)} such)"
        )
    for name, parameter in peft_model.named_parameters():
        if ("lora_" in name or "modules_to_save" in name) and not torch.isfinite(parameter).all():
            raise UserError(
                f"the adapter holds NaN or infinite weights in {name}",
                str(source.adapter / ADAPTER_WEIGHTS),
                "the training diverged; take an earlier checkpoint",
            )
    _untie_if_adapted(peft_model)
    return peft_model.eval()


def merge_weights(peft_model: PeftModel, *, in_float32: bool) -> PreTrainedModel:
    """Add the adapter to the weights, and return the plain model.

    Args:
        in_float32: the weights are float32 already. If not, each layer becomes it while its delta is added.
    """
    tied = bool(peft_model.get_base_model().config.get_text_config().tie_word_embeddings)
    try:
        if not in_float32:
            for module in peft_model.modules():
                if isinstance(module, BaseTunerLayer):
                    _merge_one_in_float32(module)
        with warnings.catch_warnings():
            # Embeddings that the adapter touches are untied by now, and layers merged above are so on purpose.
            warnings.filterwarnings("ignore", message=".*tie_word_embeddings|.*no longer tied|Already")
            model = peft_model.merge_and_unload()
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise UserError(
            f"peft cannot merge this adapter: {first_lines(error)}", fix="use it as an adapter, unmerged"
        ) from error
    if tied:
        _tie_if_equal(model)
    return model


def detach(peft_model: PeftModel) -> PreTrainedModel:
    """Take the adapter off again, and return the base as it was."""
    tied = bool(peft_model.get_base_model().config.get_text_config().tie_word_embeddings)
    model = peft_model.unload()
    if tied:
        _tie_if_equal(model)
    return model


def _merge_one_in_float32(layer: Any) -> None:
    weights = list(layer.get_base_layer().parameters(recurse=False))
    dtypes = [weight.dtype for weight in weights]
    for weight in weights:
        weight.data = weight.data.float()
    layer.merge()
    for weight, dtype in zip(weights, dtypes, strict=True):
        weight.data = weight.data.to(dtype)


def _base_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters(remove_duplicate=False))


def _another_base(source: AdapterSource, reason: str) -> UserError:
    return UserError(
        f"the adapter does not fit the base {source.base}: {reason}",
        source.base_told_by,
        "give the base that it was trained on with --base",
    )


def _plain_layer(module: Any) -> Any:
    """Step through PEFT's wrappers to the layer whose weight the base shares."""
    while True:
        if isinstance(module, BaseTunerLayer):
            module = module.get_base_layer()
        elif hasattr(module, "original_module"):
            module = module.original_module
        elif hasattr(module, "token_adapter"):
            module = module.token_adapter
        else:
            return module


def _ends(model: Any) -> tuple[Any, Any] | None:
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    return None if outputs is None else (inputs, outputs)


def _untie_if_adapted(peft_model: PeftModel) -> None:
    """Give input and output embeddings a tensor each where the adapter changes one of them.

    PEFT adds to the shared tensor in place, so the other end would change with it, which in training it did not.
    """
    ends = _ends(peft_model.get_base_model())
    if ends is None:
        return
    inputs, outputs = (_plain_layer(end) for end in ends)
    adapted = inputs is not ends[0] or outputs is not ends[1]
    if adapted and inputs.weight is outputs.weight:
        outputs.weight = nn.Parameter(inputs.weight.detach().clone(), requires_grad=False)


def _tie_if_equal(model: Any) -> None:
    """Tie the embeddings again where both ends came out the same; otherwise the configuration says untied."""
    ends = _ends(model)
    if ends is None or ends[0].weight is ends[1].weight:
        return
    if ends[0].weight.shape == ends[1].weight.shape and torch.allclose(
        ends[0].weight, ends[1].weight, rtol=1e-5, atol=1e-7
    ):
        ends[1].weight = ends[0].weight
        model.config.get_text_config().tie_word_embeddings = True
        model.config.tie_word_embeddings = True
