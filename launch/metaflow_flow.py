"""Train one run file as a Metaflow flow: its base model, checkpoints and results lie in Metaflow's datastore.

    python launch/metaflow_flow.py run --config-file recipes/lora.yaml
    python launch/metaflow_flow.py run --config-file recipes/lora.yaml --set "max_steps=20 learning_rate=1e-4"
    python launch/metaflow_flow.py resume                   # after a failure: from the last checkpoint
    python launch/metaflow_flow.py card view show --id run  # settings, loss, plan and measurement, samples

Needs the extra `metaflow`. On Kubernetes, put this above @step of `train` and of `show`, with an image that holds the kit
(untested here; docs/flows.md):

    @kubernetes(image="registry.example.org/sft:1", gpu=4, cpu=32, memory=256_000, disk=500_000, shared_memory=32_000)

and on `start`, which downloads and needs no GPU:

    @kubernetes(image="registry.example.org/sft:1", cpu=4, memory=16_000, disk=200_000)
"""

import sys

from sft.extras import missing_extra
from sft.flow import given, steps

try:
    from metaflow import (
        FlowSpec,
        IncludeFile,
        Parameter,
        Run,
        card,
        checkpoint,
        current,
        huggingface_hub,
        model,
        retry,
        step,
    )
except (
    ImportError
) as missing:  # metaflow itself, or its extension with @checkpoint, @model and @huggingface_hub
    package = "metaflow" if isinstance(missing, ModuleNotFoundError) else "metaflow-checkpoint"
    print(missing_extra(package), file=sys.stderr)
    raise SystemExit(4) from None


class SFTFlow(FlowSpec):
    """Supervised fine-tuning of one run file."""

    config_file = IncludeFile(
        "config-file", required=True, help="the run file; its text is kept with the run"
    )
    changes = Parameter(
        "set", default="", help='keys that win over the run file: "max_steps=20 packing=true"'
    )

    @property
    def place(self):
        """Where steps work on their machine; the same directory at every attempt, emptied first."""
        return given.place_of(current.tempdir, current.run_id)

    @huggingface_hub(cache_scope="flow")  # one copy for all runs of the flow, by repository and revision
    @step
    def start(self):
        """Read the run file, and bring the base model into the datastore, once."""
        self.base = steps.bring_base(current.huggingface_hub, self.config_file, self.changes, self.place)
        self.next(self.train)

    @retry(times=3, minutes_between_retries=0)  # a lost worker; what would fail again is not retried
    @checkpoint(load_policy="none")  # the newest whole one is chosen, and the best: sft.flow.checkpoints
    @model
    @step
    def train(self):
        """Start `sft launch` on all GPUs of this machine, from the last checkpoint of an earlier attempt."""
        trained = steps.train(
            self.config_file,
            self.changes,
            self.place,
            base=self.base,
            models=current.model,
            checkpoints=current.checkpoint,
            earlier=self.of_the_resumed_run(),
        )
        self.adapter, self.model, self.run_file = trained.adapter, trained.model, trained.run_file
        self.results, self.metrics = trained.results, trained.results["metrics"]
        self.checkpoints = current.checkpoint.list()
        self.next(self.show)

    @card(type="blank", id="run")
    @model
    @step
    def show(self):
        """Make the card, with answers of the base and of the trained model."""
        parts = steps.show(
            self.config_file,
            self.changes,
            self.place,
            title=f"{current.flow_name} {current.run_id}",
            base=self.base,
            model=self.model,
            models=current.model,
            results=self.results,
            checkpoints=self.checkpoints,
        )
        current.card["run"].extend(parts)
        self.next(self.end)

    @step
    def end(self):
        """Say where things are."""
        print(f"the card: python {sys.argv[0]} card view {current.run_id}/show --id run")

    def of_the_resumed_run(self):
        """List the checkpoints of the run that `resume` goes on with, over all its attempts."""
        if current.origin_run_id is None:
            return []
        task = Run(f"{current.flow_name}/{current.origin_run_id}")["train"].task
        attempts = range(task.current_attempt + 1)
        return [one for attempt in attempts for one in current.checkpoint.list(task=task, attempt=attempt)]


if __name__ == "__main__":
    SFTFlow()
