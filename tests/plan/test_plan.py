"""From a run file and a machine to the arrangement that is launched."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sft.config.kit import Strategy
from sft.errors import ExitCode, UserError
from sft.plan.hardware import Hardware
from sft.plan.plan import Plan, make_plan, read_plan
from tests.config.reading import read

NO_GPU = Hardware((), (), 8, 2**34)
FOUR_GPUS = Hardware(("H100",) * 4, (80 * 2**30,) * 4, 32, 2**38)


def plan(tmp_path: Path, text: str = "", *words: str, hardware: Hardware = NO_GPU) -> Plan:
    return make_plan(read(tmp_path, text, words), hardware)


@pytest.mark.parametrize(
    ("text", "hardware", "expected"),
    [
        ("", NO_GPU, ("single", "cpu", 1, 1, "NO")),
        ("", FOUR_GPUS, ("ddp", "gpu", 1, 4, "MULTI_GPU")),
        ("use_cpu: true", FOUR_GPUS, ("single", "cpu", 1, 1, "NO")),
        ("launch: {device: cpu, processes_per_node: 2}", FOUR_GPUS, ("ddp", "cpu", 1, 2, "MULTI_CPU")),
        ("num_processes: 2", NO_GPU, ("ddp", "cpu", 1, 2, "MULTI_CPU")),
        ("num_processes: 2", FOUR_GPUS, ("ddp", "gpu", 1, 2, "MULTI_GPU")),
        ("nproc_per_node: 2", FOUR_GPUS, ("ddp", "gpu", 1, 2, "MULTI_GPU")),
        ("strategy: single", FOUR_GPUS, ("single", "gpu", 1, 1, "NO")),
        ("strategy: ddp\ngpus_per_node: 1", FOUR_GPUS, ("single", "gpu", 1, 1, "NO")),
        ("strategy: zero3", FOUR_GPUS, ("zero3", "gpu", 1, 4, "DEEPSPEED")),
        ("strategy: fsdp2\nprocesses_per_node: 2", NO_GPU, ("fsdp2", "cpu", 1, 2, "FSDP")),
        ("strategy: auto", FOUR_GPUS, ("zero3", "gpu", 1, 4, "DEEPSPEED")),
        ("strategy: auto\nuse_peft: true", FOUR_GPUS, ("ddp", "gpu", 1, 4, "MULTI_GPU")),
        ("strategy: auto", NO_GPU, ("single", "cpu", 1, 1, "NO")),
        ("nodes: 2\nmain_process_ip: a\nnum_processes: 8", FOUR_GPUS, ("ddp", "gpu", 2, 4, "MULTI_GPU")),
        ("gpu_ids: 0,2", FOUR_GPUS, ("ddp", "gpu", 1, 2, "MULTI_GPU")),
    ],
)  # fmt: skip
def test_a_run_file_on_a_machine_becomes_an_arrangement(
    tmp_path: Path, text: str, hardware: Hardware, expected: tuple[Any, ...]
) -> None:
    made = plan(tmp_path, text + "\n", hardware=hardware)
    assert (
        made.strategy,
        made.device,
        made.nodes,
        made.processes_per_node,
        made.distributed_type,
    ) == expected


@pytest.mark.parametrize(
    ("text", "hardware", "code", "message"),
    [
        ("launch:\n  gpus_per_node: 2", NO_GPU, ExitCode.ENVIRONMENT,
         "GPUs are asked for and this machine shows none\n  where: run.yaml:4\n"
         "  fix:   run on a GPU node (`nvidia-smi` lists them), or set launch.device: cpu"),
        ("launch:\n  gpus_per_node: 8", FOUR_GPUS, ExitCode.ENVIRONMENT,
         "8 GPUs on each machine are asked for and this one shows 4\n  where: run.yaml:4\n"
         "  fix:   set launch.gpus_per_node: 4"),
        ("num_processes: 8", FOUR_GPUS, ExitCode.ENVIRONMENT,
         "8 GPUs on each machine are asked for and this one shows 4\n  where: run.yaml:3\n"
         "  fix:   set launch.num_processes: 4"),
        ("nproc_per_node: 3\ngpu_ids: 1,2", FOUR_GPUS, ExitCode.ENVIRONMENT,
         "3 GPUs on each machine are asked for and this one shows 2\n  where: run.yaml:3\n"
         "  fix:   set launch.processes_per_node: 2, or name them in gpu_ids"),
        ("num_processes: 3\nnum_machines: 2", FOUR_GPUS, ExitCode.USAGE,
         "num_processes 3 is not a multiple of 2 machines\n  where: run.yaml:3\n"
         "  fix:   give every machine the same number"),
        ("strategy: single\ngpus_per_node: 2", FOUR_GPUS, ExitCode.USAGE,
         "strategy single is one process, not 2\n  where: run.yaml:3\n"
         "  fix:   set launch.strategy: ddp, or one process"),
        ("nodes: 2", FOUR_GPUS, ExitCode.USAGE,
         "2 machines need to know where machine 0 is\n  where: run.yaml:3\n"
         "  fix:   submit it with --on slurm, which finds out; or set launch.main_process_ip and launch.main_process_port,"
         " and launch.machine_rank on each machine"),
        ("total_train_batch_size: 10", FOUR_GPUS, ExitCode.USAGE,
         "total_train_batch_size 10 is not a multiple of 4 (4 GPUs)\n  where: run.yaml:3\n  fix:   use 8 or 12"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused(
    tmp_path: Path, text: str, hardware: Hardware, code: ExitCode, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        plan(tmp_path, text + "\n", hardware=hardware)
    assert str(caught.value).replace(f"{tmp_path}/", "") == message
    assert caught.value.exit_code is code


@pytest.mark.parametrize(
    ("text", "precision"),
    [("", "bf16"), ("bf16: false", "no"), ("fp16: true", "fp16"), ("bf16: true", "bf16")],
)
def test_precision_is_trls(tmp_path: Path, text: str, precision: str) -> None:
    assert plan(tmp_path, text + "\n").mixed_precision == precision


def test_the_batch_is_divided_over_the_processes(tmp_path: Path) -> None:
    made = plan(tmp_path, "total_train_batch_size: 64\nper_device_train_batch_size: 2\n", hardware=FOUR_GPUS)
    assert (made.micro_batch, made.accumulation, made.batch.total) == (2, 8, 64)
    assert made.describe() == [
        "ddp on 4 GPUs, bf16 precision",
        "64 rows a step = per_device_train_batch_size 2 x gradient_accumulation_steps 8 x 4 processes",
    ]


def test_cores_are_shared_between_cpu_processes(tmp_path: Path) -> None:
    assert plan(tmp_path, "processes_per_node: 2\n").threads_per_process == 4
    assert plan(tmp_path, "processes_per_node: 2\nnum_cpu_threads_per_process: 1\n").threads_per_process == 1
    assert plan(tmp_path, hardware=FOUR_GPUS).threads_per_process is None


def test_a_plan_is_kept_as_json_and_read_back(tmp_path: Path) -> None:
    made = plan(tmp_path, "strategy: zero3_offload\nlaunch: {offload: optimizer}\n", hardware=FOUR_GPUS)
    path = tmp_path / "plan.json"
    path.write_text(made.to_json())
    again = read_plan(path)
    assert again == made
    assert again.strategy is Strategy.ZERO3_OFFLOAD
    assert '"processes": 4' in made.to_json()
    assert dataclasses.replace(made, nodes=2).processes == 8
