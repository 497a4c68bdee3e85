"""What the `#SBATCH` lines of a run's batch job say, besides nodes, GPUs and time, which `launch:` has itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt, StringConstraints

from sft.config.section import Section

Word = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A text of one line: what follows a line break would be a line of its own in the script."""


class SlurmConfig(Section):
    """The batch job, in the words of sbatch."""

    partition: Word | None = None
    """Partition to submit to; several, parted by commas, leave the choice to Slurm."""
    account: Word | None = None
    """Account to charge."""
    qos: Word | None = None
    """Quality of service."""
    job_name: Word | None = None
    """Name in the queue. Default: run_name, else the name of output_dir."""
    gres: Word | None = None
    """What stands for the GPUs of a node, in place of --gpus-per-node: gpu:a100:4."""
    cpus_per_task: PositiveInt | None = None
    """Cores of each node. Default: what the partition gives, which may be a single one."""
    mem: Word | None = None
    """Memory of each node, as 480G; 0 is all that it has."""
    constraint: Word | None = None
    """Features that the nodes must have."""
    nodelist: Word | None = None
    """Nodes to run on."""
    exclude: Word | None = None
    """Nodes to stay away from."""
    reservation: Word | None = None
    """Reservation to run in."""
    exclusive: bool = False
    """Share the nodes with no other job."""
    mail_user: Word | None = None
    """Who is written to."""
    mail_type: Word | None = None
    """On what occasions: END,FAIL,REQUEUE."""
    array: list[Word] = Field(default_factory=list)
    """The flags of each task of a job array, a sweep: ["--learning_rate 1e-4", "--learning_rate 2e-4"]. Task N
    trains in <output_dir>/task-N."""
    array_at_once: PositiveInt | None = None
    """How many tasks of the array may run at the same time."""
    extra: list[Annotated[str, StringConstraints(pattern=r"^--?[A-Za-z][^\x00-\x1f\x7f]*$")]] = Field(
        default_factory=list
    )
    """Further options of sbatch, each as a line of its own: --licenses=x."""
    requeue: bool = True
    """Have the job go back into the queue when it was stopped before the run was done. Off where the cluster
    forbids it: `sft launch --on slurm --chain N` submits N jobs, one after the other, instead."""
    signal_seconds: PositiveInt | None = None
    """How long before its end Slurm signals the job, should the run not have stopped by itself. Default: a minute, or
    a tenth of time_limit where that is less."""
