"""The adapter finds what it is to adapt: its targets are matrices of this model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from sft.check import installed
from sft.check.finding import Finding, error, warning
from sft.check.subject import Subject
from sft.plan.adapter import EMBEDDINGS, EXPERTS_BY_NAME, HEADS, adapted_experts

NAME = "adapter"
COST = "the headers of the weights, and PEFT's source"
NEEDS = "nothing"

PREFIXES = ("", "model.", "transformer.", "language_model.", "model.language_model.")
"""What may stand before a name of the weights where the model is loaded: only a pattern over whole paths minds."""
HEAD_NAMES = ("lm_head", "embed_out", "output_layer")
"""Heads that may be tied to the embeddings, so that no weights are written for them."""
SINGLE_EXPERT = re.compile(r"\.experts\.\d+\.")
FUSED = ({"gate_proj", "up_proj"}, {"w1", "w3"})
"""Matrices of an expert that are loaded as one: transformers/conversion_mapping.py."""
PLAIN = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*")


def look(subject: Subject) -> Iterator[Finding]:
    """Look for the names in the headers of the weights."""
    model = subject.config.model
    if not model.use_peft:
        return
    yield from _defaults(subject)
    tensors = subject.tensors
    if not tensors or any(tensor.dtype.startswith(("I", "U")) for tensor in tensors):
        return  # quantised already: shapes and names are others
    shapes = {tensor.name.rpartition(".")[0]: tensor.shape for tensor in tensors if _is_weight(tensor.name)}
    # Experts are written one by one, and loaded as one tensor of all: their names are not the model's.
    is_plain = not any("expert" in path for path in shapes)
    names = sorted(
        {
            path.rpartition(".")[2]
            for path, shape in shapes.items()
            if len(shape) == 2 and not EMBEDDINGS.search(path) and not HEADS.search(path)
        }
    )
    targets = model.lora_target_modules
    if isinstance(targets, (list, tuple)) and len(targets) == 1:
        targets = targets[0]  # TRL makes a pattern, or all-linear, of a list's only member
    if isinstance(targets, str) and targets != "all-linear" and not PLAIN.fullmatch(targets):
        yield from _pattern(subject, targets, shapes, names)
    elif targets is not None and targets != "all-linear":
        given = [targets] if isinstance(targets, str) else list(targets)
        yield from _targets(subject, given, shapes, names, is_plain)
    yield from _saved(subject, shapes)
    yield from _parameters(subject, [tensor.name for tensor in tensors], is_plain)
    yield from _rank(subject, shapes)
    yield from _experts(subject, shapes)


def _experts(subject: Subject, shapes: dict[str, tuple[int, ...]]) -> Iterator[Finding]:
    """PEFT: "lora.ParamWrapper does not work with lora_dropout != 0", once the model is loaded. TRL's dropout is 0.05."""
    model = subject.config.model
    if not any("expert" in path for path in shapes):
        return
    if not any(adapted_experts(str(subject.model_config.get("model_type")), model.lora_target_modules)):
        return
    what = "the experts are adapted, whose matrices are one tensor, and there PEFT takes"
    leave = "or leave the experts out of lora_target_modules"
    if model.lora_dropout:
        where = subject.where("lora_dropout")
        yield error(
            f"lora_dropout {model.lora_dropout}: {what} no dropout", where, f"set lora_dropout: 0; {leave}"
        )
    if model.use_dora:
        where = subject.where("use_dora")
        yield error(f"use_dora: {what} no DoRA", where, f"set use_dora: false; {leave}")


def _defaults(subject: Subject) -> Iterator[Finding]:
    """PEFT has modules of its own for some types: "Please specify `target_modules` in `peft_config`" for the others."""
    model, found = subject.config.model, installed.lora_targets()
    kind = _raw_type(subject)
    if model.lora_target_modules is not None or model.lora_target_parameters or not found or kind is None:
        return
    if (
        kind not in found or kind in EXPERTS_BY_NAME
    ):  # of those PEFT drops its own choice when it converts the names
        yield error(
            f"PEFT {installed.version('peft')} has no target modules of its own for models of the type {kind}, and the"
            " run file names none",
            subject.where("use_peft"),
            "set lora_target_modules: all-linear",
        )


def _raw_type(subject: Subject) -> str | None:
    """Return the model's type, where one model is no part of another."""
    config = subject.model_config
    kind = config.get("model_type")
    return None if "text_config" in config or kind is None else str(kind)


def _targets(
    subject: Subject, targets: Sequence[str], shapes: dict[str, tuple[int, ...]], names: list[str], sure: bool
) -> Iterator[Finding]:
    where = subject.where("lora_target_modules")
    missing = [target for target in targets if not _any(shapes, target)]
    if missing:
        say = error if sure else warning
        yield say(
            f"lora_target_modules: {', '.join(missing)} matches no module of the model",
            where,
            f"{_near(missing, names)}; or use all-linear",
        )
    experts = {target for target in targets if _only_experts(shapes, target)}
    for pair in FUSED:
        alone = pair & experts
        if alone and alone != pair and int(installed.version("transformers").partition(".")[0] or 0) >= 5:
            yield warning(
                f"lora_target_modules: {', '.join(sorted(alone))} without {', '.join(sorted(pair - alone))}: transformers"
                " holds the two matrices of all experts as one tensor, and PEFT refuses half of it",
                where,
                f"add {', '.join(sorted(pair - alone))}, or leave the experts out",
            )
    wrong = [
        target
        for target in targets
        if target not in missing
        and not any(len(shape) >= 2 for path, shape in shapes.items() if _ends(path, target))
    ]
    wrong = [target for target in wrong if target not in HEAD_NAMES]
    if wrong and sure:
        yield error(
            f"lora_target_modules: {', '.join(wrong)} is no linear layer, and LoRA adapts none but those",
            where,
            f"the model's linear layers are {', '.join(names)}; or use all-linear",
        )


def _pattern(
    subject: Subject, pattern: str, shapes: dict[str, tuple[int, ...]], names: list[str]
) -> Iterator[Finding]:
    """PEFT holds a text against whole paths, as re.fullmatch does."""
    where = subject.where("lora_target_modules")
    try:
        matcher = re.compile(pattern)
    except re.error as broken:
        yield error(
            f"lora_target_modules: {pattern} is no pattern: {broken}",
            where,
            "mend it, or give a list of names",
        )
        return
    if any(matcher.fullmatch(prefix + path) for path in shapes for prefix in PREFIXES):
        return
    inner = any(matcher.search(path) for path in shapes)
    fix = (
        f"set lora_target_modules: '.*{pattern}'"
        if inner
        else f"a list of names: {', '.join(names)}; or all-linear"
    )
    yield error(
        f"lora_target_modules: {pattern} matches no module of the model: a pattern has to match the whole path, such as"
        f" {next(iter(shapes))}",
        where,
        fix,
    )


def _saved(subject: Subject, shapes: dict[str, tuple[int, ...]]) -> Iterator[Finding]:
    wanted = subject.config.model.lora_modules_to_save or ()
    modules = {part for path in shapes for part in path.split(".")}
    missing = [
        name
        for name in wanted
        if name not in HEAD_NAMES and not any(path.endswith(name) for path in _places(shapes))
    ]
    if missing:
        yield error(
            f"lora_modules_to_save: {', '.join(missing)} matches no module of the model",
            subject.where("lora_modules_to_save"),
            _near(missing, sorted(part for part in modules if not part.isdigit())),
        )


def _parameters(subject: Subject, tensors: Sequence[str], sure: bool) -> Iterator[Finding]:
    """A name that matches nothing is passed over in silence."""
    wanted = subject.config.model.lora_target_parameters or ()
    missing = [name for name in wanted if not any(tensor.endswith(name) for tensor in tensors)]
    if missing and sure:
        yield error(
            f"lora_target_parameters: {', '.join(missing)} matches no parameter of the model, and would do nothing",
            subject.where("lora_target_parameters"),
            "remove it; lora_target_modules: all-linear adapts every linear layer",
        )


def _rank(subject: Subject, shapes: dict[str, tuple[int, ...]]) -> Iterator[Finding]:
    """An adapter whose rank is the matrix's own holds more numbers than the matrix."""
    rank = subject.config.model.lora_r
    hidden = subject.model_config.get("hidden_size", subject.model_config.get("n_embd"))
    if isinstance(hidden, int) and rank > hidden:
        yield warning(
            f"lora_r {rank} is larger than the model is wide ({hidden:,}): the adapter holds more numbers than the"
            " matrices that it adapts",
            subject.where("lora_r"),
            "8 to 64 are usual; or use_peft: false, which trains every weight",
        )


def _near(missing: Sequence[str], names: Sequence[str]) -> str:
    """Name what was probably meant, or all there is."""
    found = [near[0] for name in missing if (near := difflib.get_close_matches(name, names, 1, 0.6))]
    return (
        f"did you mean {', '.join(dict.fromkeys(found))}?" if found else f"the model has {', '.join(names)}"
    )


def _only_experts(shapes: dict[str, tuple[int, ...]], name: str) -> bool:
    found = [path for path in shapes if _ends(path, name)]
    return bool(found) and all(SINGLE_EXPERT.search(path) for path in found)


def _is_weight(name: str) -> bool:
    return name.endswith(".weight")


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _places(shapes: dict[str, tuple[int, ...]]) -> set[str]:
    """Return every path, of modules that hold others too."""
    return {
        ".".join(parts[:end])
        for path in shapes
        for parts in [path.split(".")]
        for end in range(1, len(parts) + 1)
    }


def _any(shapes: dict[str, tuple[int, ...]], name: str) -> bool:
    return name in HEAD_NAMES or any(_ends(path, name) for path in _places(shapes))
