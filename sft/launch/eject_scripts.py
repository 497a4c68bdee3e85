"""The scripts that start ejected files, and all of their texts together."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from sft.config.kit import LaunchConfig
from sft.errors import UserError
from sft.launch.accelerate_file import launch_files
from sft.launch.command import one_line, process_environment
from sft.launch.eject import Ejected, trl_yaml
from sft.launch.sbatch import extra_problems, sbatch_lines
from sft.launch.script import site_lines
from sft.plan.plan import Plan
from sft.rundir import RunDirectory

OMITTED = ("PYTHONPATH", "OMP_NUM_THREADS")
"""Variables of the kit's own launch: the kit's place, and what the scripts let the environment decide."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class EjectedDirectory(RunDirectory):
    """Where the files lie: accelerate's names the DeepSpeed file by its path."""

    @property
    def deepspeed_json(self) -> Path:
        """Beside the others."""
        return self.output_dir / "deepspeed.json"


def stock_files(ejected: Ejected) -> dict[str, str]:
    """Return the text of each file by its name, the README left out."""
    config, plan = ejected.config, ejected.plan
    files = launch_files(plan, EjectedDirectory(ejected.directory), one_line(ejected.written_by))
    texts = {
        "trl_sft.yaml": trl_yaml(ejected),
        "accelerate.yaml": files.accelerate_yaml,
        "run.sh": run_script(ejected),
        "job.sbatch": job_script(ejected),
    }
    if files.deepspeed_json is not None:
        texts["deepspeed.json"] = files.deepspeed_json
    if config.kit.chat_template is not None:
        texts["chat_template.jinja"] = config.kit.chat_template
    return texts


def run_script(ejected: Ejected) -> str:
    """Return what runs on this machine, or on each of several by hand."""
    plan = ejected.plan
    lines = [
        "#!/usr/bin/env bash",
        "# Train with stock accelerate and TRL"
        + (" on this machine." if plan.nodes == 1 else ": start it on every machine, with its MACHINE_RANK."),
        f"# Written by: {one_line(ejected.written_by)}",
        "set -euo pipefail",
        *_environment(ejected),
    ]
    where = []
    if plan.nodes > 1:
        lines.append(': "${MACHINE_RANK:?0 on the first machine, 1 on the next, ...}"')
        if plan.main_process_ip is None:
            lines.append(': "${HEAD_NODE:?the first machine, by name or address}"')
        else:
            lines.append(
                f"if [[ -z ${{HEAD_NODE:-}} ]]; then HEAD_NODE={shlex.quote(plan.main_process_ip)}; fi"
            )
        where = _meeting(f'"${{HEAD_PORT:-{plan.main_process_port or 29500}}}"', "MACHINE_RANK")
    return "\n".join([*lines, *_command(where, _wrap(ejected), '"$@"')]) + "\n"


def job_script(ejected: Ejected) -> str:
    """Return what `sbatch` takes: on several nodes one `accelerate launch` each, its rank read on the node."""
    plan, setup = ejected.plan, ejected.config.launch.setup
    lines = [
        "#!/usr/bin/env bash",
        *ejected.sbatch,
        f"# Written by: {one_line(ejected.written_by)}",
        "set -euo pipefail",
    ]
    lines += [*site_lines(setup), "", "# --- training", *_environment(ejected)]
    if plan.nodes == 1:
        return "\n".join([*lines, *_command([], _wrap(ejected))]) + "\n"
    named = plan.main_process_ip
    head = shlex.quote(named) if named else '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)'
    port = str(plan.main_process_port or "$((20000 + SLURM_JOB_ID % 20000))")
    node = _command(_meeting('"$HEAD_PORT"', "SLURM_NODEID"), ['"$@"'])
    lines += [
        f"HEAD_NODE={head}",
        f"HEAD_PORT={port}  # from the job's number: two jobs on a node do not share it",
        "export FILES HEAD_NODE HEAD_PORT",
        "# srun takes its cores from here, not from the options above",
        'if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi',
        "# shellcheck disable=SC2016  # expanded on each node",
        'exec srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c \'',
        *node[:-1],
        f"{node[-1]}' node{''.join(f' {word}' for word in _wrap(ejected))}",
    ]
    return "\n".join(lines) + "\n"


def _command(where: list[str], wrap: list[str], *more: str) -> list[str]:
    """Return the launch, a line each for what is launched, where, and what it trains."""
    return [
        " ".join(["exec", *wrap, 'accelerate launch --config_file "$FILES/accelerate.yaml" \\']),
        *where,
        " ".join(['    -m trl.scripts.sft --config "$FILES/trl_sft.yaml"', *more]),
    ]


def _meeting(port: str, rank: str) -> list[str]:
    return [f'    --machine_rank "${rank}" --main_process_ip "$HEAD_NODE" --main_process_port {port} \\']


def _wrap(ejected: Ejected) -> list[str]:
    return [shlex.quote(word) for word in shlex.split(ejected.config.launch.wrap)]


def _environment(ejected: Ejected) -> list[str]:
    """Set what the kit sets for its ranks; the number of threads is the environment's where that says one."""
    config, plan = ejected.config, ejected.plan
    given = process_environment(config, plan, {})
    lines = [f"FILES={shlex.quote(str(ejected.directory))}"]
    for name, value in given.items():
        if name in config.kit.env or name not in OMITTED:
            lines.append(f"export {name}={shlex.quote(value)}")
    if plan.threads_per_process is not None and "OMP_NUM_THREADS" not in config.kit.env:
        lines.append(f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{plan.threads_per_process}}}"')
    return lines


def stock_sbatch_lines(launch: LaunchConfig, plan: Plan, *, name: str, log: Path) -> list[str]:
    """Return the `#SBATCH` lines, without what only the kit answers: the signal before the end, and requeueing.

    Raises:
        UserError: an option that is written twice; a name of several lines, of which the second would be one of the
            script.
    """
    problems = list(extra_problems(launch, "launch.slurm.extra"))
    if problems:
        raise UserError.of(problems)
    lines = sbatch_lines(launch, plan, name=name, log=log, requeue=False)
    for line in lines:
        if CONTROL.search(line):
            what = f"{line.split('=')[0]} holds a line break or another control character"
            raise UserError(
                what, "run_name, output_dir or --output", "name it otherwise, or set launch.slurm.job_name"
            )
    return [line for line in lines if not line.startswith("#SBATCH --signal=")]
