"""The kit's own keys: a few flat ones that TRL lacks, and everything under `launch:`."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, PositiveInt

from sft.config.cml import CmlConfig
from sft.config.limits import LimitsConfig
from sft.config.section import Section
from sft.config.slurm import SlurmConfig
from sft.config.ssh import SshConfig

TIME_LIMIT = r"^(\d+(:[0-5]\d){0,2}|\d+-([01]?\d|2[0-3])(:[0-5]\d){0,2})$"
"""Slurm's forms: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS."""


class Strategy(StrEnum):
    """How the model, its gradients and its optimizer are laid over the processes."""

    SINGLE = "single"
    DDP = "ddp"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"
    ZERO3_OFFLOAD = "zero3_offload"
    FSDP2 = "fsdp2"
    FSDP2_OFFLOAD = "fsdp2_offload"

    @property
    def is_deepspeed(self) -> bool:
        """Whether DeepSpeed runs it."""
        return self in (Strategy.ZERO1, Strategy.ZERO2, Strategy.ZERO3, Strategy.ZERO3_OFFLOAD)

    @property
    def is_fsdp(self) -> bool:
        """Whether PyTorch's FSDP2 runs it."""
        return self in (Strategy.FSDP2, Strategy.FSDP2_OFFLOAD)

    @property
    def zero_stage(self) -> int | None:
        """DeepSpeed's ZeRO stage, where there is one."""
        return ZERO_STAGES.get(self)

    @property
    def shards_parameters(self) -> bool:
        """Whether each process holds only its part of the weights."""
        return self.zero_stage == 3 or self.is_fsdp


ZERO_STAGES = {Strategy.ZERO1: 1, Strategy.ZERO2: 2, Strategy.ZERO3: 3, Strategy.ZERO3_OFFLOAD: 3}
STRATEGY_ALIASES = {"single_gpu": Strategy.SINGLE, "multi_gpu": Strategy.DDP}
"""TRL's own names for the same things."""

EVAL_METRICS = ("loss", "perplexity", "exact_match", "rouge_l")
"""The metrics that have a name; any other is a function of the user's."""


class KitConfig(Section):
    """Flat keys that TRL does not have."""

    total_train_batch_size: PositiveInt | None = None
    """Rows per optimizer step over all processes (packed rows under packing). The plan divides it into
    per_device_train_batch_size x gradient_accumulation_steps x processes, and refuses to round."""
    micro_batch: Literal["auto"] | None = None
    """auto: let the plan choose per_device_train_batch_size, the fastest that fits; total_train_batch_size stays exactly.
    `per_device_train_batch_size: auto` says the same."""
    merge: bool = False
    """Merge the adapter into its base once training has ended, into <output_dir>/merged."""
    prepare_model_for_kbit_training: bool = False
    """With 4-bit or 8-bit weights: cast the norms, the embeddings and the head to float32, as PEFT's function
    of this name does."""
    allow_sample_mixing: bool = False
    """Permit settings under which a token attends to the sample packed before its own (`wrapped` packing)."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after this many evaluations without an improvement of metric_for_best_model."""
    early_stopping_threshold: float = Field(default=0.0, ge=0)
    """How much better an evaluation must be to count as an improvement."""
    callbacks: list[str] = Field(default_factory=list)
    """Trainer callbacks of your own, each as file.py:Name or module:Name."""
    formatting_func: str | None = None
    """A function of your own from a row to the text to train on, as file.py:name or module:name."""
    dataset_mapping: str | dict[str, str] | None = None
    """How rows of other columns become prompt and completion, or a chat: templates with {column}s under prompt,
    completion, system, user, assistant or text, a column's name under messages or tools, or a function of your
    own from a row to a row, as file.py:name or module:name."""
    dataset_mixture: dict[str, Any] | None = None
    """A mixture as alignment-handbook writes it, in place of dataset_name: `datasets`, each with `id` and, where
    wanted, `config`, `split`, `columns` and `weight` (the share of its rows to take), beside them `seed` and
    `test_split_size`."""
    validation_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of the training rows that is held out for evaluation. Always the same rows, whatever the seed."""
    chat_template: str | None = None
    """A chat template of your own, as text, in place of the tokenizer's. chat_template_path names a file."""
    special_tokens_in_content: Literal["text", "refuse"] = "text"
    """What becomes of rows whose content spells a special token: tokenized as the text that it is, or dropped."""
    bad_rows: Literal["refuse", "drop"] = "refuse"
    """What a malformed row does (a missing column, a wrong type, an unknown role): refuse the run, or be dropped
    and counted."""
    max_cut_answers: float = Field(default=0.2, ge=0, le=1)
    """Share of the rows whose answer max_length may cut before the run is refused."""
    strict_data: bool = False
    """Refuse the run if any row would be dropped."""
    data_cache: str | None = None
    """Where prepared data is kept. Default: $SFT_CACHE, else $XDG_CACHE_HOME/sft, else ~/.cache/sft. The compute
    nodes must see it."""
    tokenizer_backend: Literal["auto", "transformers"] = "auto"
    """Which tokenizer prepares the data: the model's tokenizer.json itself, or what transformers makes of it,
    which loads torch."""
    background_save: bool = True
    """Copy a checkpoint to host memory and write it while training goes on, where there is memory for it. Off:
    training waits until it is on the disk."""
    resume_without: list[Literal["optimizer", "schedule", "rng", "data"]] = Field(default_factory=list)
    """What a checkpoint may lack and be continued from all the same, anew: the optimizer's state, the learning
    rate's schedule, the random numbers, the place in the data."""
    compute_metrics: str | None = None
    """A function of your own from transformers' EvalPrediction to a mapping of metrics, as file.py:name or
    module:name."""
    eval_metrics: list[str] = Field(default_factory=list)
    """Evaluate base and tuned model on the held-out rows after the training, as `sft eval` does: loss, perplexity,
    exact_match, rouge_l, or functions of your own from prediction and reference to a number, each as file.py:name or
    module:name. Loss and perplexity are always among the results."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of the training processes (TRL's key)."""


class LaunchConfig(Section):
    """Where and on how many processes the run is started."""

    nodes: PositiveInt = 1
    """Machines."""
    gpus_per_node: PositiveInt | None = None
    """GPUs, each with one process, on every machine. Default: every GPU that this machine shows."""
    processes_per_node: PositiveInt | None = None
    """Processes on every machine, where gpus_per_node does not say how many."""
    num_processes: PositiveInt | None = None
    """Processes over all machines (accelerate's key)."""
    strategy: Strategy | Literal["auto"] | None = None
    """single, ddp, zero1, zero2, zero3, zero3_offload, fsdp2, fsdp2_offload, or auto. Default: single for one
    process and ddp for more, as accelerate does."""
    offload: Literal["optimizer", "parameters", "both"] = "both"
    """What zero3_offload keeps in host memory."""
    accelerate_config: str | None = None
    """An accelerate file of your own instead of a strategy, or one of TRL's names (zero3, fsdp2, ...)."""
    device: Literal["auto", "gpu", "cpu"] = "auto"
    """Train on GPUs or on the CPU. auto: GPUs where there are any."""
    gpu: str | None = None
    """What the GPUs are where this machine does not show them: h100-80g, a100-40g, ..., or their memory as 24GiB. For the
    plan of a job that is submitted."""
    gpu_ids: str | None = None
    """Which GPUs of this machine, as accelerate takes them: 0,1 (accelerate's key)."""
    machine_rank: int = Field(default=0, ge=0)
    """Which of the machines this is."""
    main_process_ip: str | None = None
    """Address of machine 0, where there are several."""
    main_process_port: int | None = Field(default=None, ge=0, le=65535)
    """Port on machine 0. Default: a free one on a single machine."""
    network_interface: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.,:=^-]+$")
    """The network between the nodes, by its interface (ib0, eth1): NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME."""
    threads_per_process: PositiveInt | None = None
    """OMP_NUM_THREADS of each process. Default: the cores of the machine divided by its processes, on CPU."""
    stop_grace_seconds: float = Field(default=300.0, gt=0)
    """How long a run that was asked to stop may take to reach a step's end and save."""
    push_seconds: float = Field(default=600.0, gt=0)
    """How long the final push to the Hub may take before it is left to `sft push`."""
    stop_signals: list[Literal["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"]] = Field(
        default_factory=lambda: ["SIGTERM", "SIGINT", "SIGUSR1"]  # type: ignore[arg-type]
    )
    """Signals that ask for a stop in order, whichever process of the run they reach. SIGUSR2 does so at `sft launch`
    alone: it asks a rank for its stacks. The others are left to what they do anyway."""
    time_limit: str | None = Field(default=None, pattern=TIME_LIMIT)
    """Wall-clock limit, as Slurm writes it: 04:00:00, 1-00:00:00, or minutes alone. The run has saved and left by
    then, counted from its start; the end that Slurm or PBS gives the job counts where it is sooner. 0 is no limit."""
    leave_seconds: float = Field(default=30.0, ge=0)
    """How long before the limit the last checkpoint is to be complete, for the processes to leave."""
    offline: bool = False
    """The compute nodes have no internet: nothing is looked for there, and W&B and the Hub get theirs later, by
    `sft sync` and `sft push`. A batch job is submitted only if all that it reads is on this machine's file systems."""
    setup: list[str] = Field(default_factory=list)
    """Shell lines that a batch script runs first: modules, conda or venv activation."""
    wrap: str = ""
    """What stands before the launched command, e.g. apptainer exec --nv kit.sif."""
    slurm: SlurmConfig = Field(default_factory=SlurmConfig)
    """The batch job."""
    ssh: SshConfig = Field(default_factory=SshConfig)
    """The machines that are reached by ssh."""
    cml: CmlConfig = Field(default_factory=CmlConfig)
    """The workers that Cloudera's platform starts."""
    limits: LimitsConfig = Field(default_factory=LimitsConfig)
    """How long each phase may go without progress."""


GROUPS: dict[str, type[Section]] = {
    "slurm": SlurmConfig,
    "ssh": SshConfig,
    "cml": CmlConfig,
    "limits": LimitsConfig,
}
"""The keys of `launch:` that hold keys of their own."""
