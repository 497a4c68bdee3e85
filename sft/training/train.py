"""The recipe: one run, from a run file to a saved model. Started once a rank by accelerate.

    accelerate launch --config_file X -m sft.training.train --config RUN.yaml [--key value ...]

What it does not do: decide the arrangement (sft.plan), watch the processes (sft.launch.supervise), merge
(sft.export) or wait for the Hub (sft.hub).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sft.checkpoint.resume import found_by_rank
from sft.config.loader import LoadedRun, load_run
from sft.errors import UserError
from sft.files import write_whole
from sft.plan.packages import require_packages
from sft.plan.plan import Plan, read_plan
from sft.training.rank import Rank

if TYPE_CHECKING:
    pass


def train(config_file: LoadedRun, rank: Rank, plan: Plan | None) -> None:
    """Run one rank of a launch."""
    from sft.training import unused

    unused.leave_out(config_file.config)
    from sft.training import agreement, finish, libraries, network
    from sft.training.arguments import training_arguments
    from sft.training.callbacks import EventsCallback
    from sft.training.datasets import load_training_data
    from sft.training.heartbeat import HeartbeatCallback
    from sft.training.manifest import make_saver
    from sft.training.reporting import Reporter
    from sft.training.stopping import StopCallback
    from sft.training.summary import summarize
    from sft.training.trainer import build_trainer, library_refusals
    from sft.training.verify import verify_tokens

    config, run = config_file.config, rank.run
    world = agreement.promised_world(config, plan)
    require_packages(config)
    libraries.settle(world)

    # --- data: before the process group exists, so that no rank waits in it for another's tokenizing
    rank.phase("prepare")
    data = load_training_data(config_file)

    # --- who is here: before a weight is read
    with library_refusals("the training arguments are refused"):
        arguments = training_arguments(
            config, world, finish.other_reports(config), prepared=data.entry is not None
        )
    agreement.assert_world(
        world, processes=arguments.world_size, device=arguments.device, distributed_type=None, rank=rank
    )
    resume = found_by_rank(config)
    reporter = Reporter(rank, run)
    reporter.start(config, world, resume)
    network.tell(plan, arguments.device, reporter)

    # --- model, adapter
    if data.entry is not None:
        reporter.write("data", splits=data.entry.manifest["splits"])
    reporter.phase("load")
    stop, events = StopCallback(rank, reporter, config), EventsCallback(reporter, run)
    hub = finish.hub_settings(config)
    callbacks = [HeartbeatCallback(rank), events, stop]
    trainer = build_trainer(config, arguments, data.train, data.test, callbacks)
    if data.entry is not None:
        verify_tokens(data.entry, trainer.processing_class, config)
    events.watch(trainer)
    agreement.assert_world(
        world,
        processes=trainer.accelerator.num_processes,
        device=trainer.accelerator.device,
        distributed_type=trainer.accelerator.distributed_type.value,
        rank=rank,
    )
    reporter.write("model", **summarize(trainer.model))
    saver = make_saver(config, trainer, rank, reporter, data, hub, plan)
    stop.watch(trainer, lambda: saver.seconds_to_save)

    # --- train
    if stop.agree(arguments.device, deadline=False):
        finish.leave(trainer, reporter, rank, status="stopped", reason=stop.reason, resume=resume)
        return
    trainer.continue_from(resume)
    saver.finish(arguments)
    if stop.stopped:
        saver.require_saved()
        finish.leave(trainer, reporter, rank, status="stopped", reason=stop.reason, resume=resume)
        return

    # --- save: what from_pretrained(output_dir) reads
    reporter.phase("export")
    trainer.save_model(str(run.output_dir))
    if rank.is_main:
        finish.write_card(config, trainer, world)
    finish.request_final_push(run, hub, trainer, rank)
    finish.leave(trainer, reporter, rank, status="finished")


def plan_beside(path: Path | None) -> Plan | None:
    """Return the plan that `sft launch` wrote beside its run file; None for a run file of one's own."""
    if path is None or path.parent.name != "_sft" or not (path.parent / "plan.json").exists():
        return None
    return read_plan(path.parent / "plan.json")


def main(words: list[str] | None = None) -> None:
    """Read the command line and train."""
    words = list(sys.argv[1:] if words is None else words)
    path = None
    if "--config" in words:
        position = words.index("--config")
        path = Path(words[position + 1]) if position + 1 < len(words) else None
        del words[position : position + 2]
    try:
        loaded = load_run(path, words)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(int(error.exit_code)) from None
    for name, value in loaded.config.kit.env.items():
        os.environ.setdefault(name, value)
    with Rank(loaded.config.run, loaded.config.launch.stop_signals) as rank:
        if rank.is_main and not rank.supervised:
            write_whole(
                rank.run.run_yaml.with_name("run.json"), json.dumps(loaded.config.settings(), indent=2) + "\n"
            )
        train(loaded, rank, plan_beside(path))


if __name__ == "__main__":
    main()
