"""What is checked of a run file before anything starts: reading, planning, combinations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sft.config.loader import LoadedRun, load_run
from sft.data.advice import advice
from sft.data.prepare import preview, unprepared_reason
from sft.errors import Problem, UserError
from sft.plan.combinations import check_combinations
from sft.plan.hardware import Hardware, asked_for, detect
from sft.plan.packages import require_packages
from sft.plan.plan import Plan, make_plan

ROWS_LOOKED_AT = 512
"""Rows of each split that a check prepares."""


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run file in which nothing wrong was found."""

    loaded: LoadedRun
    plan: Plan
    notes: tuple[str, ...]
    warnings: tuple[Problem, ...]


def check_run(
    path: Path | None,
    words: Sequence[str] = (),
    hardware: Hardware | None = None,
    *,
    in_batch: bool = False,
) -> CheckedRun:
    """Read, plan and check a run file.

    Args:
        in_batch: it runs in a batch job, on machines that are as it asks for them.

    Raises:
        UserError: all that is wrong with it, as far as one problem does not hide another.
    """
    loaded = load_run(path, words)
    if in_batch:
        plan = make_plan(loaded, _asked_for(loaded), is_placed=False)
    else:
        plan = make_plan(loaded, hardware or detect())
    problems = [*check_combinations(loaded.config, plan), *_path_problems(loaded), *_hub_problems(loaded)]
    if problems:
        raise UserError.of(_placed(problem, loaded) for problem in problems)
    require_packages(loaded.config)
    return CheckedRun(loaded, plan, (*loaded.notes, *plan.notes), tuple(_warnings(loaded)))


def look_at_rows(loaded: LoadedRun) -> tuple[list[str], list[Problem]]:
    """Prepare the first rows of a data set that lies on this machine, and say what was found.

    Returns:
        Lines for people, and what they should look at.

    Raises:
        UserError: the data, the tokenizer or the template is refused.
    """
    config = loaded.config
    reason = unprepared_reason(config)
    if reason is not None:
        return [reason], []
    names = [
        config.model.model_name_or_path,
        config.script.dataset_name,
        *(d.path for d in config.mixture.datasets),
    ]
    if config.kit.dataset_mixture is not None or not all(Path(name).exists() for name in names if name):
        return [
            "the rows are looked at by the launch, or by `sft data stats`: not all of it is on this machine"
        ], []
    with preview(loaded, ROWS_LOOKED_AT) as entry:
        return [f"first rows of {line}" for line in entry.lines()], advice(loaded, entry)


def _asked_for(loaded: LoadedRun) -> Hardware:
    """Return the machines that the run file asks for: the login node's own say nothing."""
    launch = loaded.config.launch
    cores = launch.slurm.cpus_per_task or 1
    if loaded.config.training.use_cpu or launch.device == "cpu":
        return asked_for(0, cores)
    gpus = launch.gpus_per_node or (launch.num_processes or 0) // launch.nodes
    if not gpus:
        raise UserError(
            "a batch job has to say what it needs, and the run file names no GPUs",
            loaded.where("launch.gpus_per_node"),
            "set launch.gpus_per_node: 4; or launch.device: cpu with launch.processes_per_node",
        )
    return asked_for(gpus, cores)


def _hub_problems(loaded: LoadedRun) -> list[Problem]:
    training = loaded.config.training
    if not training.push_to_hub:
        return []
    from sft.hub.settings import HubSettings, settings_problems

    settings = HubSettings(repo=training.hub_model_id, revision=training.hub_revision)
    where = loaded.where("hub_model_id" if training.hub_model_id else "push_to_hub")
    found = settings_problems(settings, loaded.config.run.output_dir)
    return [Problem(problem.what, problem.where or where, problem.fix) for problem in found]


def _path_problems(loaded: LoadedRun) -> list[Problem]:
    """Look whether what is named as a path is there; names on the Hub are left to the network."""
    config = loaded.config
    found = []
    model = config.model.model_name_or_path or ""
    if _is_path(model) and not (Path(model) / "config.json").is_file():
        what = "has no config.json" if Path(model).is_dir() else "is not there"
        fix = "name a directory that save_pretrained wrote, or a model on the Hub"
        found.append(Problem(f"the model {model} {what}", loaded.where("model_name_or_path"), fix))
    data = config.script.dataset_name or ""
    if not config.mixture.datasets and _is_path(data) and not Path(data).exists():
        found.append(
            Problem(f"the data set {data} is not there", loaded.where("dataset_name"), "check the path")
        )
    return found


def _is_path(name: str) -> bool:
    return name.startswith(("/", "./", "../"))


def _placed(problem: Problem, loaded: LoadedRun) -> Problem:
    """Say where a key was set, where a rule could only name it."""
    key = problem.where or ""
    return Problem(problem.what, loaded.sources.get(key, problem.where), problem.fix)


def _warnings(loaded: LoadedRun) -> list[Problem]:
    """Find defaults that train, but rarely what was meant."""
    config = loaded.config
    found = []
    if (
        not config.model.use_peft
        and config.model.dtype in ("bfloat16", "float16")
        and not plan_keeps_masters(loaded)
    ):
        found.append(
            Problem(
                f"full fine-tuning with weights in {config.model.dtype}: small updates are rounded away",
                loaded.where("dtype"),
                "set dtype: float32, which mixed precision casts for speed; or a DeepSpeed strategy, which keeps"
                " float32 copies",
            )
        )
    return found


def plan_keeps_masters(loaded: LoadedRun) -> bool:
    """Whether the strategy itself keeps float32 copies of the weights, as DeepSpeed's bf16 and fp16 do."""
    strategy = loaded.config.launch.strategy
    return strategy is not None and strategy.startswith("zero")
