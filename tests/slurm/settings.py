"""What a test cluster is made of, and the configuration files that say it to Slurm. Pure text; nothing is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOGIN = "login"
# Every cluster has networks of its own, so neither addresses nor ports can collide with another's or the machine's.
SUBNET = "10.77.0"
CONTROLLER_PORT, NODE_PORT, DATABASE_DAEMON_PORT, DATABASE_PORT = 6817, 6818, 6819, 6820


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may differ between clusters. Nodes claim CPUs and memory whatever the machine has."""

    nodes: int = 2
    cpus: int = 16
    memory_mib: int = 64_000
    fake_gpus: int = 8
    """GPUs a node, for --gres=gpu:N: CUDA_VISIBLE_DEVICES is set, and no device is there."""
    accounting: bool = False
    """Whether sacct works: slurmdbd over MariaDB, which take some seconds more to start."""
    slurmd_timeout_seconds: int = 10
    """After how long a silent node is lost; Slurm looks now and then, so it takes 5 to 10 s more."""
    requeue_hold_seconds: int = 5
    """A requeued job waits one second longer than this; 120 where a site sets nothing."""
    job_age_seconds: int = 3600
    """After how long the controller forgets a job that has ended; 300 where a site sets nothing."""
    spot_grace_seconds: int = 10
    """GraceTime of the partition `spot`."""

    @property
    def node_names(self) -> list[str]:
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    @property
    def hosts(self) -> list[str]:
        return [LOGIN, *self.node_names]

    def address(self, host: str) -> str:
        """Return a host's address: .1 is login, .11 is node1."""
        return f"{SUBNET}.{1 if host == LOGIN else 10 + int(host.removeprefix('node'))}"


def write_files(directory: Path, settings: Settings) -> None:
    """Write what Slurm and the hosts read, and make the directories that daemons expect."""
    for name in ("run", "log", "munge", "state", "spool", "gpus", "jobs"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    # munged and clients under other users go through here.
    directory.chmod(0o755)
    lines = ["127.0.0.1 localhost", *(f"{settings.address(host)} {host}" for host in settings.hosts)]
    (directory / "hosts").write_text("\n".join(lines) + "\n")
    (directory / "resolv.conf").write_text(f"nameserver {settings.address(LOGIN)}\n")
    # Unused, since processes are tracked without cgroups; but slurmd refuses to start where the default finds no mount.
    (directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (directory / "gres.conf").write_text(_gres(directory, settings))
    (directory / "slurm.conf").write_text(_slurm(directory, settings))
    if settings.accounting:
        path = directory / "slurmdbd.conf"
        path.touch(mode=0o600)  # slurmdbd refuses to read a password that others can read
        path.write_text(_slurmdbd(directory))


def _gres(directory: Path, settings: Settings) -> str:
    if not settings.fake_gpus:
        return ""
    for number in range(settings.fake_gpus):
        (directory / f"gpus/nvidia{number}").symlink_to("/dev/null")
    return f"Name=gpu Type=fake File={directory}/gpus/nvidia[0-{settings.fake_gpus - 1}]\n"


def _slurm(directory: Path, settings: Settings) -> str:
    gpus = f" Gres=gpu:fake:{settings.fake_gpus}" if settings.fake_gpus else ""
    nodes = "".join(
        f"NodeName={name} NodeAddr={settings.address(name)} CPUs={settings.cpus} RealMemory={settings.memory_mib}{gpus}\n"
        for name in settings.node_names
    )
    return f"""\
ClusterName=test
SlurmctldHost={LOGIN}({settings.address(LOGIN)})
SlurmctldPort={CONTROLLER_PORT}
SlurmdPort={NODE_PORT}
SlurmUser=root
AuthInfo=socket={directory}/munge/socket,cred_expire={settings.requeue_hold_seconds}
# Not 0.0.0.0, so that the controller's own connections come from the address that nodes know.
CommunicationParameters=NoCtldInAddrAny
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool/%n
SlurmctldPidFile={directory}/run/slurmctld.pid
SlurmdPidFile={directory}/run/slurmd.%n.pid
SlurmctldLogFile={directory}/log/slurmctld.log
SlurmdLogFile={directory}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MailProg=/bin/true
# Nodes are what is written here, not what slurmd finds.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
# A node that was lost serves again as soon as it is heard of.
ReturnToService=2
SlurmdTimeout={settings.slurmd_timeout_seconds}
MessageTimeout=5
KillWait=5
MinJobAge={settings.job_age_seconds}
SchedulerParameters=sched_interval=2,bf_interval=2
# A preempted job gets the signal of its --signal at once.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
{_accounting(directory) if settings.accounting else ""}\
{nodes}\
PartitionName=DEFAULT Nodes={",".join(settings.node_names)} MaxTime=1-0 DefaultTime=10
# urgent preempts main, and main preempts spot.
PartitionName=main Default=YES PriorityTier=10
PartitionName=spot PriorityTier=1 GraceTime={settings.spot_grace_seconds}
PartitionName=urgent PriorityTier=100 PreemptMode=OFF
"""


def _accounting(directory: Path) -> str:
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={LOGIN}
AccountingStoragePort={DATABASE_DAEMON_PORT}
AccountingStoragePass={directory}/munge/socket
AccountingStorageTRES=gres/gpu
"""


def _slurmdbd(directory: Path) -> str:
    return f"""\
AuthInfo=socket={directory}/munge/socket
DbdHost={LOGIN}
DbdPort={DATABASE_DAEMON_PORT}
SlurmUser=root
PidFile={directory}/run/slurmdbd.pid
LogFile={directory}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={DATABASE_PORT}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""
