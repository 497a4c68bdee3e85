"""What the manifest of this run's checkpoints says."""

from __future__ import annotations

import importlib.metadata
import os
import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerState

from sft.checkpoint.changes import exact_settings
from sft.checkpoint.manifest import Manifest
from sft.config.kit import Strategy
from sft.config.run import RunConfig
from sft.hub.settings import HubSettings
from sft.plan.plan import Plan
from sft.training.callbacks import push_saved
from sft.training.datasets import TrainingData
from sft.training.rank import Rank
from sft.training.reporting import Reporter, without_secrets
from sft.training.saving import Saver

if TYPE_CHECKING:
    from sft.training.trainer import CountingTrainer

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "bitsandbytes")


def make_saver(
    config: RunConfig,
    trainer: CountingTrainer,
    rank: Rank,
    reporter: Reporter,
    data: TrainingData,
    hub: HubSettings | None,
    plan: Plan | None,
) -> Saver:
    """Give the trainer its saver."""
    strategy = plan.strategy if plan is not None else strategy_of(trainer)
    settings = without_secrets(exact_settings(config))
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}

    def manifest(state: TrainerState) -> Manifest:
        return Manifest(
            step=state.global_step,
            epoch=float(state.epoch or 0),
            created=time.time(),
            run_id=reporter.run_id,
            world_size=trainer.args.world_size,
            strategy=str(strategy),
            rows_per_step=rows_per_step(trainer),
            settings=settings,
            data=data.entry.directory.name if data.entry else None,
            versions=versions,
            trained_tokens=round(float(trainer.trained_tokens)),
            seen_tokens=trainer.seen_tokens,
            best_step=state.best_global_step,
            files={},
        )

    saver = Saver(
        rank,
        reporter,
        manifest=manifest,
        limit=config.training.save_total_limit,
        background=config.kit.background_save,
        on_complete=[push_saved(rank.run, hub, reporter)] if hub is not None else [],
    )
    trainer.saver = saver
    trainer.add_callback(saver)
    return saver


def rows_per_step(trainer: Any) -> int:
    """Return the rows of one optimizer step over all ranks."""
    arguments = trainer.args
    rows = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    return int(rows * arguments.world_size)


def strategy_of(trainer: Any) -> Strategy:
    """Name the strategy that accelerate came up with."""
    kind, accelerator = trainer.accelerator.distributed_type.value, trainer.accelerator
    if kind == "DEEPSPEED":
        zero = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        stage = int(zero["stage"])
        offloads = any(
            zero.get(name, {}).get("device", "none") != "none"
            for name in ("offload_optimizer", "offload_param")
        )
        return Strategy.ZERO3_OFFLOAD if stage == 3 and offloads else Strategy(f"zero{stage}")
    if kind == "FSDP":
        plugin = accelerator.state.fsdp_plugin
        return Strategy.FSDP2_OFFLOAD if getattr(plugin, "cpu_offload", None) else Strategy.FSDP2
    return Strategy.DDP if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Strategy.SINGLE
