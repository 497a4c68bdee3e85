"""The weights are those of the configuration: as many rows, layers and dimensions, and a head where there must be one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from sft.check.finding import Finding, error, warning
from sft.check.subject import Subject
from sft.plan.model_shape import MOST_LAYERS
from sft.plan.weights import Tensor

NAME = "model's weights"
COST = "config.json and the headers of the weights"
NEEDS = "nothing"

EMBEDDING = re.compile(r"(?:^|\.)(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
LAYER = re.compile(r"^(?P<stack>(?:.*\.)?(?:layers|h))\.(?P<number>\d+)\.")
LAST_NORM = re.compile(r"(?:^|\.)(?:model\.norm|ln_f|final_layer_norm)\.weight$")
HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out|output_layer|output)\.(?:weight|base_layer\.weight)$")
NOT_TEXT = re.compile(r"vision|visual|image|audio|encoder|mtp|speech|tower|adapter")
SHARED_LAYERS = frozenset({"albert", "zamba", "zamba2"})
"""Types whose layers share weights, so that fewer are written than there are."""
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def look(subject: Subject) -> Iterator[Finding]:
    """Compare what transformers would: a tensor of another shape is refused, one that is missing begins at random."""
    tensors, config = subject.tensors, subject.model_config
    if not tensors or not config or config.get("is_encoder_decoder"):
        return
    name = str(subject.config.model.model_name_or_path)
    where = f"{subject.where('model_name_or_path')}, {subject.model_directory}"
    empty = [tensor.name for tensor in tensors if tensor.shape == (0,)]
    if empty:
        yield error(
            f"{len(empty):,} tensors of {name} are empty, such as {empty[0]}: ZeRO-3 saved them without gathering them",
            where,
            "save it again with stage3_gather_16bit_weights_on_model_save: true, or make whole weights of its"
            " checkpoint with zero_to_fp32.py",
        )
        return
    text = [tensor for tensor in tensors if not NOT_TEXT.search(tensor.name)]
    if "auto_map" in config:
        return  # code of its own may lay its layers out as it likes
    yield from _vocabulary(text, config, name, where)
    yield from _width(text, config, name, where)
    yield from _layers(text, config, name, where)
    yield from _head(text, config, name, where)


def _vocabulary(
    tensors: Sequence[Tensor], config: dict[str, Any], name: str, where: str
) -> Iterator[Finding]:
    rows, wanted = embedding_rows(tensors), config.get("vocab_size")
    if rows is None or not isinstance(wanted, int) or "padded_vocab_size" in config or rows == wanted:
        return
    yield error(
        f"the embeddings of {name} have {rows:,} rows, and its config.json tells of {wanted:,} (vocab_size)",
        where,
        f"set vocab_size to {rows} in config.json, if the weights are right; or fetch the model again",
    )


def embedding_rows(tensors: Sequence[Tensor]) -> int | None:
    """Return how many tokens the embeddings have rows for; None where that is not plain."""
    found = [tensor for tensor in tensors if EMBEDDING.search(tensor.name) and len(tensor.shape) == 2]
    return found[0].shape[0] if len(found) == 1 and not found[0].dtype.startswith(("I", "U")) else None


def _width(tensors: Sequence[Tensor], config: dict[str, Any], name: str, where: str) -> Iterator[Finding]:
    wanted = next((config[key] for key in ("hidden_size", "n_embd", "d_model") if key in config), None)
    found = [tensor for tensor in tensors if LAST_NORM.search(tensor.name) and len(tensor.shape) == 1]
    if isinstance(wanted, int) and len(found) == 1 and found[0].shape != (wanted,):
        yield error(
            f"the weights of {name} are {found[0].shape[0]:,} wide, and its config.json tells of {wanted:,}"
            " (hidden_size)",
            where,
            "fetch the model again: config.json is of another size",
        )


def _layers(tensors: Sequence[Tensor], config: dict[str, Any], name: str, where: str) -> Iterator[Finding]:
    wanted = next((config[key] for key in LAYERS if isinstance(config.get(key), int)), None)
    stacks: dict[str, set[int]] = {}
    for tensor in tensors:
        if found := LAYER.match(tensor.name):
            stacks.setdefault(found["stack"], set()).add(int(found["number"]))
    if wanted is None or len(stacks) != 1 or config.get("model_type") in SHARED_LAYERS:
        return
    if wanted > MOST_LAYERS:
        return  # told with the model's kind
    numbers = next(iter(stacks.values()))
    lacking = sorted(set(range(wanted)) - numbers)
    if lacking:
        yield error(
            f"{len(lacking)} of the {wanted} layers that config.json of {name} tells of have no weights, from layer"
            f" {lacking[0]} on: they would begin as random numbers, without a word",
            where,
            f"set num_hidden_layers to {wanted - len(lacking)} in config.json, if the weights are right; or fetch the"
            " model again",
        )
    # Layers that predict several tokens at once lie behind the others, and are not trained here.
    surplus = len(numbers) - wanted - int(config.get("num_nextn_predict_layers") or 0)
    if not lacking and surplus > 0:
        yield warning(
            f"the weights of {name} have {surplus} more layers than its config.json tells of: they are not loaded",
            where,
            f"set num_hidden_layers to {len(numbers)} in config.json, if a smaller model is not meant",
        )


def _head(tensors: Sequence[Tensor], config: dict[str, Any], name: str, where: str) -> Iterator[Finding]:
    """A head that is said to be its own and is not there: transformers makes one of random numbers."""
    is_causal = any(str(one).endswith("ForCausalLM") for one in config.get("architectures") or ())
    has_embedding = embedding_rows(tensors) is not None
    if config.get("tie_word_embeddings") is not False or "text_config" in config:
        return
    if not is_causal or not has_embedding:
        return
    if not any(HEAD.search(tensor.name) for tensor in tensors):
        yield error(
            f"{name} has no weights for lm_head, and tie_word_embeddings is false: its head would begin as random"
            " numbers, without a word",
            where,
            "set tie_word_embeddings to true in config.json, if head and embeddings are one; or save the model again"
            " with its head",
        )
