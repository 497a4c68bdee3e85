"""How a run begins from a checkpoint and how it ends: outcome, model card, push."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from typing import TYPE_CHECKING, Any

import torch

from sft.checkpoint.resume import Resume
from sft.config.run import RunConfig
from sft.errors import ExitCode
from sft.files import write_whole
from sft.hub.background import finish_delivery
from sft.hub.card import CardFacts
from sft.hub.card import write_card as write_card_file
from sft.hub.outbox import request_push
from sft.hub.settings import HubSettings, endpoint_from_environment
from sft.report.settings import VIEWS, split_report_to
from sft.rundir import RunDirectory
from sft.training.agreement import World
from sft.training.measured import write_measured
from sft.training.rank import Rank
from sft.training.reporting import Reporter

if TYPE_CHECKING:
    from sft.training.trainer import CountingTrainer

CARD_LIBRARIES = ("trl", "transformers", "peft", "accelerate", "deepspeed", "torch", "datasets")


def other_reports(config: RunConfig) -> tuple[str, ...]:
    """Return the integrations of `report_to` that are left to transformers."""
    if config.training.report_to in ("all", ["all"]):
        from transformers.integrations import get_available_reporting_integrations

        return tuple(name for name in get_available_reporting_integrations() if name not in VIEWS)
    return split_report_to(config.training.report_to)[1]


def hub_settings(config: RunConfig) -> HubSettings | None:
    """Return where to push, or None where the run does not."""
    training = config.training
    if not training.push_to_hub:
        return None
    return HubSettings(
        repo=training.hub_model_id,
        private=training.hub_private_repo,
        strategy=training.hub_strategy,
        always_push=training.hub_always_push,
        revision=training.hub_revision,
        endpoint=endpoint_from_environment(),
    )


def write_card(config: RunConfig, trainer: CountingTrainer, world: World) -> None:
    """Write the model card over the draft that PEFT leaves. Rank 0 only."""
    training, model = config.training, config.model
    results: dict[str, Any] = {}
    for entry in trainer.state.log_history:
        results.update({key: round(entry[key], 4) for key in ("train_loss", "eval_loss") if key in entry})
    names = {"full": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA"}
    adapter = {}
    if model.use_peft:
        adapter = {"rank": model.lora_r, "alpha": model.lora_alpha, "dropout": model.lora_dropout}
        adapter |= {"rsLoRA": True} if model.use_rslora else {}
        adapter |= {"DoRA": True} if model.use_dora else {}
    script = config.script
    data = [part.path for part in config.mixture.datasets] or [script.dataset_name or ""]
    repo = training.hub_model_id if training.hub_model_id and "/" in training.hub_model_id else None
    facts = CardFacts(
        title=(training.hub_model_id or config.run.output_dir.name).rpartition("/")[2],
        method=names[config.method],
        repo=repo,
        base_model=model.model_name_or_path,
        datasets=data,
        is_adapter=model.use_peft,
        hyperparameters={
            "learning rate": training.learning_rate,
            "schedule": training.lr_scheduler_type,
            "optimizer": training.optim,
            "steps": trainer.state.global_step,
            "epochs": round(trainer.state.epoch or 0, 2),
            "rows per step": world.batch.total,
            "max length": training.max_length,
            "packing": training.packing,
            "precision": config.mixed_precision,
            "seed": training.seed,
        },
        adapter=adapter,
        launch={"processes": world.processes, "distributed type": trainer.accelerator.distributed_type.value},
        results=results,
        versions={name: importlib.metadata.version(name) for name in CARD_LIBRARIES},
    )
    write_card_file(config.run, facts)


def request_final_push(
    run: RunDirectory, hub: HubSettings | None, trainer: CountingTrainer, rank: Rank
) -> None:
    """Journal the push of the finished model. Rank 0 does it."""
    if hub is not None and rank.is_main:
        request_push(run, hub, "end", trainer.state.global_step)


def leave(
    trainer: CountingTrainer,
    reporter: Reporter,
    rank: Rank,
    *,
    status: str,
    reason: str | None = None,
    resume: Resume | None = None,
) -> None:
    """End together: barrier, outcome, trackers, process group; then, by hand, the push.

    Args:
        reason: why the run was stopped.
        resume: where it began, which is where a run is that was stopped before its first step.
    """
    rank.phase("leave")
    code = ExitCode.STOPPED if status == "stopped" else ExitCode.DONE
    step = max(int(trainer.state.global_step), 0 if resume is None else resume.step)
    trainer.accelerator.wait_for_everyone()
    write_measured(rank, trainer.accelerator.device, step)
    if rank.is_main:
        outcome = {"status": status, "exit_code": int(code), "step": step}
        outcome |= {} if reason is None else {"reason": reason}
        write_whole(rank.run.outcome_json, json.dumps(outcome) + "\n")
        reporter.end(status, int(code), step)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if rank.is_main and not rank.supervised:
        for line in finish_delivery(rank.run).lines():
            print(line, file=sys.stderr)
