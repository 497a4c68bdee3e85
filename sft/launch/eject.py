"""A run as stock files: what `trl sft`, accelerate and Slurm need to train it with no kit at all.

Pure but for reading the user's own accelerate file: the same run gives the same texts. The rows are `eject_data`'s.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft.config.loader import LoadedRun
from sft.config.run import FLAT_SECTIONS, RunConfig
from sft.errors import Problem, UserError
from sft.launch.command import one_line
from sft.launch.eject_data import EjectedData, data_keys
from sft.plan.plan import Plan

YAML_WORDS = re.compile(r"(?i)y|yes|n|no|true|false|on|off|null|none")
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_/.-]*")
"""What YAML 1.1, which TRL reads, takes as the text that it is, without quotes."""
UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
LOCAL_PATHS = ("model_name_or_path", "dataset_name", "chat_template_path", "resume_from_checkpoint")
"""Keys that hold a path where there is one, and else a name on the Hub."""

CHANGES_TRAINING = {
    "early_stopping_patience": "the stock run trains to its end",
    "callbacks": "TRL's script takes no callbacks of yours, and what they do to the training is not done",
    "prepare_model_for_kbit_training": "norms, embeddings and head stay in the dtype of the base model",
}
"""Keys without which another model comes out, and what happens instead."""


@dataclass(frozen=True, slots=True)
class Ejected:
    """One run to be written as stock files.

    Attributes:
        directory: absolute.
        sbatch: the `#SBATCH` lines.
        written_by: the command, for the headers.
    """

    loaded: LoadedRun
    plan: Plan
    directory: Path
    data: EjectedData
    sbatch: list[str]
    written_by: str

    @property
    def config(self) -> RunConfig:
        """What the run file says."""
        return self.loaded.config


def refusals(loaded: LoadedRun) -> list[Problem]:
    """Tell each key without which something else would be trained, and that TRL's script has no word for."""
    config = loaded.config
    found = [
        Problem(
            f"{key} has no equivalent in stock TRL: {instead}",
            loaded.where(key),
            f"remove {key}, or say --lossy",
        )
        for key, instead in CHANGES_TRAINING.items()
        if getattr(config.kit, key)
    ]
    training = config.training
    chooses = training.load_best_model_at_end or training.save_strategy == "best"
    if config.kit.compute_metrics and (chooses or training.lr_scheduler_type == "reduce_lr_on_plateau"):
        what = "compute_metrics has no equivalent in stock TRL, and the run goes by a metric"
        found.append(Problem(what, loaded.where("compute_metrics"), "remove compute_metrics, or say --lossy"))
    return found


def refuse(loaded: LoadedRun) -> None:
    """Refuse what cannot be ejected at all.

    Raises:
        UserError: the tasks of a job array, which are runs of their own; a name in `env` that is none in a shell.
    """
    for name in loaded.config.kit.env:
        if not VARIABLE.fullmatch(name):
            raise UserError(
                f"env holds {name!r}, which a shell script cannot set",
                loaded.where("env"),
                "use letters, digits and underscores",
            )
    if loaded.config.launch.slurm.array:
        raise UserError(
            "a job array is several runs, and each is ejected by itself",
            loaded.where("launch.slurm.array"),
            "sft eject RUN.yaml --output DIR with the flags of one task, and launch.slurm.array removed",
        )


def trl_settings(ejected: Ejected) -> dict[str, Any]:
    """Return the keys of the TRL file: those that the run file sets, resolved, and what the kit would add to them."""
    config, plan = ejected.config, ejected.plan
    values: dict[str, Any] = {}
    for section in FLAT_SECTIONS:
        if section != "kit":
            values |= getattr(config, section).model_dump(mode="json", exclude_unset=True)
    for holder, keys in [
        (values, LOCAL_PATHS),
        *((part, ("path", "data_files")) for part in values.get("datasets", ())),
    ]:
        for key in keys:
            if isinstance(holder.get(key), str) and Path(holder[key]).exists():
                holder[key] = str(Path(holder[key]).absolute())
    values["output_dir"] = str(config.run.output_dir)
    values["per_device_train_batch_size"] = plan.micro_batch
    values["gradient_accumulation_steps"] = plan.accumulation
    if plan.device == "cpu":
        values["use_cpu"] = True
    if config.kit.chat_template is not None:
        values["chat_template_path"] = str(ejected.directory / "chat_template.jinja")
    targets = config.model.lora_target_modules
    if (
        isinstance(targets, list)
        and len(targets) == 1
        and all(part.isidentifier() for part in targets[0].split("."))
    ):
        # TRL makes a pattern of a list's only member, and a name would have to be a module's whole path.
        values["lora_target_modules"] = [rf"(.*\.)?{re.escape(targets[0])}"]
    data = data_keys(config, ejected.data, ejected.directory / "data")
    values = {key: value for key, value in {**values, **data}.items() if key not in data or value is not None}
    if config.kit.env:
        values["env"] = dict(config.kit.env)
    return values


def trl_yaml(ejected: Ejected) -> str:
    """Return the file for `trl sft --config`."""
    batch = ejected.plan.batch
    rows = f"{batch.total} rows a step = {batch.micro_batch} x {batch.accumulation} x {batch.processes} processes"
    lines = [
        f"# Stock TRL: {rows}.",
        f"# Written by: {one_line(ejected.written_by)}",
        *(f"{key}: {yaml_value(value)}" for key, value in trl_settings(ejected).items()),
    ]
    return "\n".join(lines) + "\n"


def yaml_value(value: Any) -> str:
    """Write a value on one line as YAML 1.1, which PyYAML reads: it has other booleans and floats than YAML 1.2."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _yaml_float(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{yaml_value(str(key))}: {yaml_value(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(yaml_value, value)) + "]"
    if PLAIN.fullmatch(value) and not YAML_WORDS.fullmatch(value):
        return str(value)
    return UNPRINTABLE.sub(lambda sign: f"\\u{ord(sign[0]):04x}", json.dumps(value, ensure_ascii=False))


def _yaml_float(value: float) -> str:
    text = repr(value)
    if text in ("inf", "-inf", "nan"):
        return text.replace("inf", ".inf").replace("nan", ".nan")
    mantissa, mark, exponent = text.partition("e")
    return f"{mantissa}.0e{exponent}" if mark and "." not in mantissa else text
