"""The model is of a kind that is trained here: a causal language model, of a type that is known, not an adapter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sft.check import installed
from sft.check.checks.model_files import POINTER
from sft.check.finding import Finding, error, errors, warning
from sft.check.subject import Subject
from sft.errors import ExitCode
from sft.json_file import UnreadableError, read_json
from sft.plan.model_shape import MOST_LAYERS

NAME = "model's kind"
COST = "config.json, and what transformers' source says of it"
NEEDS = "nothing"

OTHER_HEADS = re.compile(
    r"\w+For(?:MaskedLM|SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice|PreTraining"
    r"|NextSentencePrediction|ImageClassification|ObjectDetection|AudioClassification|CTC|SpeechSeq2Seq|TextEncoding)"
    r"|\w+(?:Model|TextModel|Encoder)"
)
"""Architectures without the head of a causal language model; its own names are looked up before."""
NEVER_TRAINED = frozenset({"auto-round", "fbgemm_fp8", "gemma", "gguf", "higgs", "metal", "spqr", "vptq"})
"""Quantisations of which transformers says that they support no training."""
WITH_ADAPTER = frozenset({"aqlm", "awq", "bitsandbytes", "eetq", "gptq", "hqq", "quanto"})
"""Quantisations under which an adapter is trained, and nothing else."""
ON_SOME_GPUS = frozenset({"fp8", "mxfp4", "mxfp8"})
"""Quantisations that are undone as they are loaded, where the GPU has no kernels for them."""
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def look(subject: Subject) -> Iterator[Finding]:
    """Read config.json as AutoConfig and TRL do."""
    directory = subject.model_directory
    if directory is None:
        return
    name = str(subject.config.model.model_name_or_path)
    where = f"{subject.where('model_name_or_path')}, {directory}"
    yield from _adapter(subject, directory, name, where)
    file = directory / "config.json"
    try:
        config = read_json(file)
    except UnreadableError as broken:
        if not _is_told(file, broken):
            yield from errors([broken.problem()])
        return
    if config is None:
        return  # told by the check of paths
    yield from _type(subject, config, name, str(file))
    yield from _layers(config, name, str(file))
    yield from _architecture(config, name, str(file))
    yield from _quantization(subject, config, name, str(file))


def _is_told(file: Path, broken: UnreadableError) -> bool:
    """Whether the check of the model's files says it."""
    if broken.exit_code is ExitCode.ENVIRONMENT or not file.is_file():
        return True
    with file.open("rb") as stream:
        return stream.read(len(POINTER)) == POINTER


def _adapter(subject: Subject, directory: Path, name: str, where: str) -> Iterator[Finding]:
    """Tell an adapter that is named as the model, or lies in the model's directory."""
    file = directory / "adapter_config.json"
    try:
        adapter = read_json(file)
    except UnreadableError:
        return
    if adapter is None:
        return
    base = adapter.get("base_model_name_or_path")
    if not (directory / "config.json").is_file():
        yield error(
            f"{name} is an adapter, and not a model: it holds adapter_config.json, made for {base}",
            where,
            f"name its base, {base}; or merge the adapter into it first with `sft merge`, and name the merged model",
        )
        return
    has_weights = any(directory.glob("adapter_model.*"))
    if has_weights:
        yield warning(
            f"an adapter lies in the directory of the model {name}: transformers loads it over the weights, unasked",
            where,
            "move adapter_config.json and adapter_model.safetensors elsewhere; a merged model does not need them",
        )


def _type(subject: Subject, config: dict[str, Any], name: str, where: str) -> Iterator[Finding]:
    kind = config.get("model_type")
    auto_map = config.get("auto_map")
    has_code = isinstance(auto_map, dict) and "AutoConfig" in auto_map
    trusts = subject.config.training.trust_remote_code
    if has_code and trusts:
        return
    if not isinstance(kind, str | None):
        fix = "fetch the model again; or write the name of its family, such as llama"
        yield error(f"the model_type in config.json of {name} is no name", where, fix)
        return
    if kind is None and not has_code:
        fix = "fetch the model again; or add the model_type of its family, such as llama"
        yield error(f"config.json of {name} has no model_type, so nobody knows what it is", where, fix)
        return
    types = installed.model_types()
    if not types or kind in types:
        return
    if has_code:
        yield error(
            f"{name} is of the type {kind}, which is defined by code of its own",
            subject.where("trust_remote_code"),
            "look at its Python files, and set trust_remote_code: true if you trust them",
        )
        return
    yield error(
        f"{name} is of the type {kind}, which transformers {installed.version('transformers')} does not know",
        where,
        "pip install --upgrade transformers, if the model is newer; else check model_type",
    )


def _layers(config: dict[str, Any], name: str, where: str) -> Iterator[Finding]:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in LAYERS:
            count = part.get(key)
            if isinstance(count, int) and count > MOST_LAYERS:
                what = f"config.json of {name} tells of {count:,} layers ({key}), and no model has more than"
                fix = f"fetch the model again; or set {key} to what the model has"
                yield error(f"{what} {MOST_LAYERS:,}", where, fix)


def _architecture(config: dict[str, Any], name: str, where: str) -> Iterator[Finding]:
    kind, causal = config.get("model_type"), installed.causal_models()
    wanted = causal.get(str(kind))
    named = config.get("architectures")
    has_code = isinstance(config.get("auto_map"), dict)
    if not named or not isinstance(named, list):
        if not has_code:
            fix = f'add "architectures": ["{wanted}"]' if wanted else "fetch the model again"
            yield error(f"config.json of {name} names no architectures, and TRL takes the first", where, fix)
        return
    found = str(named[0])
    if found in causal.values() or found == wanted:
        return
    if config.get("is_encoder_decoder") is True:
        yield error(
            f"{name} is a {found}, an encoder and a decoder: it learns to turn one text into another, and not to go on"
            " with one",
            where,
            "choose a causal language model, such as Qwen/Qwen3-0.6B",
        )
    elif OTHER_HEADS.fullmatch(found):
        fix = f'"architectures": ["{wanted}"] loads its weights with a head' if wanted else ""
        missing = f"; {fix}, which begins as random numbers unless lm_head is among them" if wanted else ""
        yield error(
            f"{name} is a {found}, which has no head of a causal language model",
            where,
            f"choose a causal language model{missing}",
        )
    elif not has_code and not installed.has_architecture(found):
        yield error(
            f"transformers {installed.version('transformers')} has no {found}, which config.json of {name} names",
            where,
            f'set "architectures": ["{wanted}"]' if wanted else "pip install --upgrade transformers",
        )


def _quantization(subject: Subject, config: dict[str, Any], name: str, where: str) -> Iterator[Finding]:
    """Tell weights that are quantised already and the settings that cannot train them.

    Source:
        transformers/trainer_utils.py, validate_quantization_for_training; quantizers/auto.py, supports_quant_method
        and merge_quantization_configs.
    """
    found = config.get("quantization_config")
    if not isinstance(found, dict) or (subject.config.training.model_init_kwargs or {}):
        return
    is_bnb = bool(found.get("load_in_4bit") or found.get("load_in_8bit"))
    method = "bitsandbytes" if is_bnb else str(found.get("quant_method", ""))
    model = subject.config.model
    unquantised = "fetch the model that it was made of, which is not quantised"
    if not method:
        what = f"quantization_config of {name} names no quant_method"
        yield error(what, where, "remove quantization_config, if the weights are not quantised")
    elif method in NEVER_TRAINED:
        yield error(f"{name} is quantised as {method}, which nothing can train", where, unquantised)
    elif method not in WITH_ADAPTER | ON_SOME_GPUS:
        return
    elif method != "bitsandbytes" and subject.config.is_quantized:
        bits = "load_in_4bit" if model.load_in_4bit else "load_in_8bit"
        yield error(
            f"{name} is quantised already, as {method}: {bits} cannot quantise it again",
            subject.where(bits),
            f"remove {bits}, or {unquantised}",
        )
    elif method in WITH_ADAPTER and not model.use_peft:
        yield error(
            f"{name} is quantised as {method}, and quantised weights are not trained",
            where,
            f"set use_peft: true, or {unquantised}",
        )
    elif method in ON_SOME_GPUS:
        yield warning(
            f"{name} is quantised as {method}: where the GPU has kernels for it, it is not trained; elsewhere it is"
            " unpacked to bfloat16 as it is loaded",
            where,
            unquantised,
        )
