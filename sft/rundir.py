"""Where things lie in a run directory. Paths only: nothing here opens a file.

```
<output_dir>/          what TRL and PEFT leave there, so from_pretrained(output_dir) works
  checkpoint-<step>/
  merged/
  _sft/                the kit's own
```
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BEFORE_TRAINING = ("start", "prepare", "load")
"""The phases of a rank, in its state file, before there is anything to lose."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The layout of one run, from its `output_dir`."""

    output_dir: Path
    machine_rank: int = 0
    """Of the machine that looks at it: what each supervisor writes for itself has a name of its own."""

    @property
    def kit(self) -> Path:
        """Everything that the kit itself writes."""
        return self.output_dir / "_sft"

    @property
    def run_yaml(self) -> Path:
        """The resolved run file that the ranks read."""
        return self.kit / "run.yaml"

    @property
    def sources_json(self) -> Path:
        """Where each of its keys was set: `run.yaml:14`, `--learning_rate`."""
        return self.kit / "sources.json"

    @property
    def plan_json(self) -> Path:
        """The plan that was launched."""
        return self.kit / "plan.json"

    @property
    def measured_json(self) -> Path:
        """What the run held at its most, to be compared with the plan."""
        return self.kit / "measured.json"

    @property
    def environment_json(self) -> Path:
        """Versions, hardware and git state that the run was started with."""
        return self.kit / "environment.json"

    @property
    def data(self) -> Path:
        """What became of the rows: summary.json, dropped.jsonl, truncated.jsonl."""
        return self.kit / "data"

    @property
    def accelerate_yaml(self) -> Path:
        """The accelerate configuration that was launched."""
        return self.kit / "accelerate.yaml"

    @property
    def deepspeed_json(self) -> Path:
        """The DeepSpeed configuration beside it, where the strategy has one."""
        return self.kit / "deepspeed.json"

    @property
    def script(self) -> Path:
        """The exact command of the last launch, as a script."""
        return self.kit / "launch.sh"

    @property
    def submitted_yaml(self) -> Path:
        """The run file as it was submitted to a platform, overrides included."""
        return self.kit / "submitted.yaml"

    @property
    def jobs_jsonl(self) -> Path:
        """What the batch jobs of the run have said: submitted, begun, ended."""
        return self.kit / "jobs.jsonl"

    @property
    def exit_code(self) -> Path:
        """What the first node's supervisor ended with, for the batch script."""
        return self.kit / "exit-code"

    @property
    def nodes_token(self) -> Path:
        """By which the supervisors of several nodes know that they see one run directory."""
        return self.kit / "nodes-token"

    @property
    def events_jsonl(self) -> Path:
        """The truth of the run: one JSON object a line."""
        return self.kit / "events.jsonl"

    @property
    def outcome_json(self) -> Path:
        """How the last launch ended, written by the ranks once they agree."""
        return self.kit / "outcome.json"

    @property
    def stop_file(self) -> Path:
        """Ask a live run to stop in order: any rank that sees this file says so to the others."""
        return self.kit / "stop"

    @property
    def lock(self) -> Path:
        """Held with flock for as long as the run is live."""
        return self.kit / "lock"

    @property
    def logs(self) -> Path:
        """One file a rank, one for the launcher, one for the push."""
        return self.kit / "logs"

    @property
    def launcher_log(self) -> Path:
        """What accelerate and torchrun print on this machine."""
        return self.logs / (f"launcher-{self.machine_rank}.log" if self.machine_rank else "launcher.log")

    def rank_log(self, rank: int) -> Path:
        """What one rank prints."""
        return self.logs / f"rank-{rank}.log"

    @property
    def ranks(self) -> Path:
        """One JSON file a rank: pid, host, phase, step, when it last came further, and how it ended."""
        return self.kit / "ranks"

    def rank_state(self, rank: int) -> Path:
        """The state of one rank."""
        return self.ranks / f"rank-{rank}.json"

    @property
    def stacks(self) -> Path:
        """Where each rank stood when the run was found hung."""
        return self.kit / "stacks"

    def rank_stacks(self, rank: int) -> Path:
        """The Python stacks of one rank, one dump after the other."""
        return self.stacks / f"rank-{rank}.txt"

    @property
    def staging(self) -> Path:
        """Where checkpoints are written before they get their name; empty between saves."""
        return self.kit / "staging"

    @property
    def resharded(self) -> Path:
        """A checkpoint laid out for another number of ranks, while they start from it."""
        return self.kit / "resharded"

    @property
    def set_aside(self) -> Path:
        """Checkpoints that count no more: found torn, or there before a fresh start."""
        return self.kit / "set-aside"

    @property
    def outbox(self) -> Path:
        """What still has to reach the Hub."""
        return self.kit / "outbox"

    @property
    def merged(self) -> Path:
        """The merged model, where one was asked for."""
        return self.output_dir / "merged"
