"""What one key of a run file says about another, as far as no hardware is needed to know it."""

from __future__ import annotations

from collections.abc import Mapping, Set

from sft.config.entry import Entry
from sft.config.kit import EVAL_METRICS
from sft.config.run import RunConfig
from sft.errors import Problem

AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "lora_r",
)
"""Keys whose zero the libraries would read as a default, or meet with a traceback."""
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY")


def check_rules(
    config: RunConfig, entries: Mapping[str, Entry], source: str, wrong: Set[str] = frozenset()
) -> list[Problem]:
    """Return what cannot be, over the whole tree.

    Args:
        source: where something missing should have stood.
        wrong: keys whose value is a problem already; nothing more is concluded from them.
    """
    problems: list[Problem] = []

    def problem(what: str, fix: str, *about: str) -> None:
        """Tell a problem of these keys, at the first that was given."""
        if wrong.isdisjoint(about):
            place = next((entries[key].where for key in about if key in entries), source)
            problems.append(Problem(what, place, fix))

    model, training, kit = config.model, config.training, config.kit
    bits = "load_in_8bit" if model.load_in_8bit else "load_in_4bit"
    if model.model_name_or_path is None:
        fix = "set model_name_or_path: a Hub id or a local directory"
        problem("no model is named", fix, "model_name_or_path")
    if config.script.dataset_name is None and not config.mixture.datasets and kit.dataset_mixture is None:
        fix = "set dataset_name: a Hub id or a local file or directory"
        problem("no data set is named", fix, "dataset_name", "datasets", "dataset_mixture")
    for key, given in (("dataset_name", config.script.dataset_name), ("datasets", config.mixture.datasets)):
        if given and kit.dataset_mixture is not None:
            problem(f"dataset_mixture and {key} both name the data", "keep one", "dataset_mixture", key)
    if model.load_in_4bit and model.load_in_8bit:
        problem("load_in_4bit and load_in_8bit are both set", "keep one", "load_in_8bit", "load_in_4bit")
    elif config.is_quantized and not model.use_peft:
        problem(f"{bits} without an adapter trains nothing", "set use_peft: true", bits, "use_peft")
    if kit.prepare_model_for_kbit_training and not config.is_quantized:
        key = "prepare_model_for_kbit_training"
        what = f"{key} has no effect on a base that is not quantised"
        problem(what, "remove it, or set load_in_4bit: true", key, "load_in_4bit", "load_in_8bit")
    if training.bf16 and training.fp16:
        problem("bf16 and fp16 are both set", "keep one", "fp16", "bf16")
    if kit.merge and not model.use_peft:
        problem("merge needs an adapter", "set use_peft: true, or remove merge", "merge", "use_peft")
    if kit.validation_fraction is not None and training.eval_strategy == "no":
        what = "validation_fraction has no effect: the run does not evaluate"
        problem(
            what, "set eval_strategy: steps or epoch, or remove it", "validation_fraction", "eval_strategy"
        )
    unknown = [
        name for name in kit.eval_metrics if name not in EVAL_METRICS and not all(name.rpartition(":"))
    ]
    if unknown:
        fix = f"one of: {', '.join(EVAL_METRICS)}; or a function of your own, as file.py:name or module:name"
        problem(f"there is no metric {unknown[0]!r}", fix, "eval_metrics")
    held_out = training.eval_strategy != "no" or "dataset_test_split" in config.script.model_fields_set
    if kit.eval_metrics and not held_out:
        what = "eval_metrics needs rows that are not trained on, and the run holds none out"
        fix = "set eval_strategy: epoch, with validation_fraction: 0.05 where the data set has no test split"
        problem(what, fix, "eval_metrics", "eval_strategy", "dataset_test_split")
    if kit.eval_metrics and config.script.dataset_streaming:
        what = "eval_metrics cannot be measured on rows that are streamed"
        problem(what, "remove dataset_streaming, or eval_metrics", "eval_metrics", "dataset_streaming")
    for key in AT_LEAST_ONE:
        value = getattr(model if key == "lora_r" else training, key)
        if value is not None and value < 1:
            problem(f"{key} must be at least 1, not {value}", "give a positive number", key)
    for name in SECRETS:
        if kit.env.get(name):
            what = f"{name} under env: would be written into the run directory"
            problem(what, f"remove it, and export {name} before the launch", "env")
    return problems


def check_conditional(
    config: RunConfig, conditional: Mapping[str, Entry], wrong: Set[str] = frozenset()
) -> tuple[list[str], list[Problem]]:
    """Accept a conditional name with a note where its value is what happens anyway, refuse it otherwise."""
    notes: list[str] = []
    problems: list[Problem] = []
    entry = conditional.get("mixed_precision")
    if entry is not None and not wrong & {"bf16", "fp16"}:
        value = "no" if entry.value is False else str(entry.value).lower()
        why = f"the trainer's precision is {config.mixed_precision}, as bf16 and fp16 say"
        if value == config.mixed_precision:
            notes.append(f"mixed_precision is not needed: {why} ({entry.where})")
        else:
            fixes = {"no": "set bf16: false", "fp16": "set fp16: true", "bf16": "set bf16: true"}
            fix = fixes.get(value, "use no, bf16 or fp16")
            problems.append(
                Problem(f"mixed_precision: {entry.value} cannot take effect: {why}", entry.where, fix)
            )
    entry = conditional.get("bnb_4bit_compute_dtype")
    if entry is not None and not wrong & {"dtype", "load_in_4bit"}:
        dtype = config.model.dtype or "auto"
        if not config.model.load_in_4bit:
            notes.append(f"bnb_4bit_compute_dtype has no effect: nothing is in 4 bits ({entry.where})")
        elif str(entry.value) == dtype:
            notes.append(
                f"bnb_4bit_compute_dtype is not needed: 4-bit layers compute in dtype ({entry.where})"
            )
        else:
            problems.append(
                Problem(
                    f"bnb_4bit_compute_dtype: {entry.value} cannot take effect: 4-bit layers compute in dtype, "
                    f"which is {dtype}",
                    entry.where,
                    f"set dtype: {entry.value}, in which the rest of the model is loaded too",
                )
            )
    return notes, problems
