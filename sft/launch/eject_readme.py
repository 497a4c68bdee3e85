"""The README of ejected files: how they are run, where the rows are, and what is lost by leaving the kit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sft.launch.eject import CHANGES_TRAINING, Ejected

EXPRESSED = frozenset(
    (
        "total_train_batch_size", "micro_batch", "chat_template", "env", "launch.nodes", "launch.gpus_per_node",
        "launch.processes_per_node", "launch.num_processes", "launch.strategy", "launch.offload", "launch.accelerate_config",
        "launch.device", "launch.gpu", "launch.gpu_ids", "launch.main_process_ip", "launch.main_process_port",
        "launch.threads_per_process", "launch.network_interface", "launch.offline", "launch.time_limit", "launch.setup", "launch.wrap", "launch.slurm",
    )
)  # fmt: skip
"""Keys of the kit that the stock files say in other words."""

_ROWS = "done already: the rows in `data/` are what came of it"
INSTEAD: dict[str, str] = {
    **CHANGES_TRAINING,
    "early_stopping_threshold": "no early stopping",
    "merge": "merge by hand: `AutoPeftModelForCausalLM.from_pretrained(output_dir).merge_and_unload()`, saved elsewhere",
    "eval_metrics": "nothing is evaluated after the training",
    "compute_metrics": "TRL's own metrics are logged, yours are not",
    "formatting_func": _ROWS,
    "dataset_mapping": _ROWS,
    "dataset_mixture": _ROWS,
    "validation_fraction": _ROWS,
    "special_tokens_in_content": _ROWS,
    "bad_rows": _ROWS + "; new rows are not checked",
    "max_cut_answers": "answers that max_length cuts are not counted",
    "strict_data": "new rows are not checked",
    "tokenizer_backend": "transformers' tokenizer alone",
    "data_cache": "TRL prepares the rows at each start, in the cache of `datasets`",
    "allow_sample_mixing": "whether packed samples see one another is not checked",
    "background_save": "training waits until a checkpoint is written",
    "resume_without": "what a checkpoint lacks is begun anew without a word",
    "launch.machine_rank": "`job.sbatch` reads it on each node; `run.sh` takes MACHINE_RANK",
    "launch.ssh": "start `run.sh` on each machine yourself, with its MACHINE_RANK",
    "launch.cml": "ask for the workers yourself; each starts `run.sh` with its MACHINE_RANK",
    "launch.stop_grace_seconds": "nothing stops in order",
    "launch.stop_signals": "nothing stops in order",
    "launch.leave_seconds": "the time limit ends the run wherever it stands",
    "launch.push_seconds": "a push is waited for, or fails, inside the training",
    "launch.limits": "a hang lasts until the time limit",
}
"""Keys of the kit that are not said, and what happens in their place."""

DIFFERENT: dict[str, str] = {
    "push_to_hub": "pushed by transformers while it trains: a push that fails is not tried again, and a Hub that cannot be"
    " reached at the start ends the run. `training_args.bin`, a pickle, is pushed too",
    "report_to": "logged live alone: what a tracker did not receive, or a second run after a crash, is not put together",
    "save_total_limit": "older checkpoints are removed before the new one is known to be whole",
    "resume_from_checkpoint": "taken as it is, without a look whether it is whole",
}
"""Keys of TRL's own that mean less without the kit."""

LOST = (
    "**Resuming by itself, and exactly.** Started again, a run begins anew unless `--resume_from_checkpoint` names a"
    " checkpoint, which nothing has verified: there are no manifests, and one that a crash tore is taken for whole.",
    "**Supervision.** A rank that dies or hangs is not told apart, the reason does not come last, and a SIGKILL of the"
    " launcher leaves its workers training. Exit codes say zero or not.",
    "**Stopping in order.** Ctrl-C, SIGTERM and the time limit end the run where it stands: what came after the last"
    " checkpoint is lost.",
    "**Requeueing.** `job.sbatch` is submitted once, and is not sent back into the queue.",
    "**The prepared cache, and the checks.** Rows are tokenized at every start; what is malformed, cut or without an answer"
    " is not counted or refused; nor are settings that cannot take effect.",
    "**The outbox.** What could not be pushed or logged is gone: `sft push` and `sft sync` find nothing.",
    "**Records.** No events, plan, environment, model card or report of the kit.",
)


def readme(ejected: Ejected, versions: Mapping[str, str]) -> str:
    """Return the README as Markdown.

    Args:
        versions: of the libraries that are installed here.
    """
    config, plan = ejected.config, ejected.plan
    model = config.model.model_name_or_path
    lines = [
        f"# {Path(str(model)).name}, trained without the kit",
        "",
        f"Written by `{' '.join(ejected.written_by.split())}`. Nothing here needs `sft`: it takes Python with",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ",",
        "the versions that were installed where it was written. Others may train otherwise.",
        "",
        *_running(ejected),
        "",
        f"It trains into `{config.run.output_dir}`, as the run file says: name another place (`output_dir` in",
        "`trl_sft.yaml`) if a run of the kit lies there. Paths are absolute: after moving this directory, eject again.",
        "",
        "| file | what |",
        "|---|---|",
        *_files(ejected),
        "",
        "## The rows",
        "",
        *_rows(ejected),
        "",
        "## What is lost by leaving",
        "",
        *(f"- {line}" for line in LOST),
        "",
        "## Keys of this run file that mean less or nothing here",
        "",
        *(
            list(_keys(ejected))
            or ["None: all that it sets stands in `trl_sft.yaml`, `accelerate.yaml` or the scripts."]
        ),
    ]
    if plan.device == "cpu" and plan.strategy.is_deepspeed:
        lines += [
            "",
            "On CPU, DeepSpeed compiles its collectives at the first start (half a minute, with `g++` and `ninja`).",
        ]
    return "\n".join(lines) + "\n"


def _running(ejected: Ejected) -> list[str]:
    plan = ejected.plan
    several = "MACHINE_RANK=0 HEAD_NODE=first-machine " if plan.nodes > 1 else ""
    told = [
        "```bash",
        f"{several}bash run.sh"
        + ("      # on each machine, with its rank" if several else "      # on this machine"),
        "sbatch job.sbatch" + ("" if several else " # on Slurm"),
    ]
    if not several:
        told.append("trl sft --config trl_sft.yaml --accelerate_config accelerate.yaml")
    return [*told, "```", "", "`run.sh` takes TRL's own flags: `bash run.sh --learning_rate 1e-4`."]


def _files(ejected: Ejected) -> Iterator[str]:
    plan = ejected.plan
    count = f"{plan.processes} process{'es' if plan.processes > 1 else ''}"
    yield "| `trl_sft.yaml` | what is trained: every key that the run file sets and TRL has |"
    yield f"| `accelerate.yaml` | {plan.strategy.value}, {count} on {plan.nodes} machine{'s' if plan.nodes > 1 else ''} |"
    if plan.strategy.is_deepspeed:
        yield "| `deepspeed.json` | DeepSpeed's settings |"
    if ejected.config.kit.chat_template is not None:
        yield "| `chat_template.jinja` | the chat template of the run file |"
    yield "| `run.sh`, `job.sbatch` | how it is started |"
    if ejected.data.form in ("text", "tokens"):
        yield "| `data/` | the rows |"


def _rows(ejected: Ejected) -> list[str]:
    data = ejected.data
    counted = " and ".join(
        f"{count:,} {'to train on' if role == 'train' else 'to test on'}" for role, count in data.rows
    )
    if data.form == "streamed":
        return ["Read from where the run file has them while they are trained on, as under the kit."]
    if data.form == "left":
        return [
            f"Left where they are: {counted}. TRL's script reads the same rows there, in the same order, and makes the same",
            "tokens of them. That was compared row by row.",
        ]
    if data.form == "text":
        return [
            f"In `data/`, in TRL's own format: {counted}, one line of JSON each. The kit has read, converted and chosen them;",
            "of each it was compared that TRL makes the same tokens of it, with the loss on the same ones.",
        ]
    return [
        f"In `data/` as tokens, laid out as they are trained: {counted}. As text TRL would train something else:",
        "",
        f"> {data.why}",
        "",
        "`dataset_kwargs: {skip_prepare_dataset: true}` has TRL take them as they are; which tokens carry loss stands in",
        "`labels`. To train on other rows, take that key out and name your own `dataset_name`.",
    ]


def _keys(ejected: Ejected) -> Iterator[str]:
    """Name each key that the run file sets and the stock files do not say, or say with less behind it."""
    settings = ejected.config.settings()
    launch: dict[str, Any] = settings.pop("launch", {})
    given = [*settings, *(f"launch.{key}" for key in launch)]
    for key in given:
        if key in INSTEAD and _set(settings, launch, key):
            yield f"- `{key}`: {INSTEAD[key]}."
        elif key in DIFFERENT and _set(settings, launch, key):
            yield f"- `{key}`: {DIFFERENT[key]}."


def _set(settings: Mapping[str, Any], launch: Mapping[str, Any], key: str) -> bool:
    """Whether a key says something: false, nothing and none ask for nothing."""
    value = settings[key] if key in settings else launch[key.removeprefix("launch.")]
    return value not in (None, False, "", [], {}, "none")
