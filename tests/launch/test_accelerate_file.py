"""Every accelerate file that can be written: launched for real, or read by the libraries' own parsers.

On a machine without GPUs, files for GPUs cannot be run as they are. For `single`, `ddp` and DeepSpeed the
same file for CPU is launched instead; files of FSDP, which accelerate runs on GPUs only, are launched
themselves under the patch of sft/check/deep/fsdp_on_cpu, which shows the sharding logic and not FSDP on
GPUs. Files for GPUs are all read by accelerate's launcher and by DeepSpeed's own configuration classes.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.cli.main import main
from sft.config.kit import Strategy
from sft.launch.accelerate_file import AccelerateFiles, render
from sft.launch.configure import cannot
from sft.plan.arrangement import Arrangement
from sft.plan.document import read_document
from sft.plan.known_keys import unknown_accelerate_keys, unknown_deepspeed_keys

HERE = Path(__file__).parent
ACCELERATE = Path(sys.executable).with_name("accelerate")
TOY_PARAMETERS = 833


def start(config: Path, reports: Path, *, cpu: bool) -> subprocess.Popen[str]:
    """Launch the toy script with a file, as a person would."""
    reports.mkdir(exist_ok=True)
    words = [str(ACCELERATE), "launch", "--config_file", str(config), str(HERE / "toy.py"), str(reports)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent.parent / "sft" / "check" / "deep" / "fsdp_on_cpu"),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.Popen(
        [*words, *(["--cpu"] if cpu else [])],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(children: list[subprocess.Popen[str]], reports: Path) -> list[dict[str, Any]]:
    """Wait for the launches and return what each rank saw, in order of rank."""
    try:
        for child in children:
            output, _ = child.communicate(timeout=240)
            assert child.returncode == 0, output
    finally:
        for child in children:
            child.kill()
    return [json.loads(path.read_text()) for path in sorted(reports.glob("rank-*.json"))]


def check(ranks: list[dict[str, Any]], strategy: Strategy, precision: str, world: int) -> None:
    """Assert that the ranks were one run of this strategy, and that what it shards was sharded."""
    kinds = {"single": "NO", "ddp": "MULTI_CPU"}
    kind = kinds.get(strategy, "FSDP" if strategy.is_fsdp else "DEEPSPEED")
    seen = [(rank["distributed_type"], rank["world_size"], rank["rank"], rank["device"]) for rank in ranks]
    assert seen == [(kind, world, index, "cpu") for index in range(world)]
    assert {rank["mixed_precision"] for rank in ranks} == {precision}
    # Different rows on each rank, and one sum over all of them.
    assert {rank["rank_sum"] for rank in ranks} == {sum(range(world))}
    assert len({rank["loss"] for rank in ranks}) == world
    assert len({rank["loss_sum"] for rank in ranks}) == 1
    held = [rank["local_parameters"] for rank in ranks]
    states = [rank["local_optimizer"] for rank in ranks]
    half = pytest.approx(TOY_PARAMETERS / 2, abs=10)
    assert held == ([half] * 2 if strategy.shards_parameters else [TOY_PARAMETERS] * world)
    is_sharded = strategy.is_deepspeed or strategy.is_fsdp
    assert states == ([half] * 2 if is_sharded else [TOY_PARAMETERS] * world)


def configure(strategy: Strategy, output: Path, precision: str) -> bool:
    """Write a file with `sft configure` for two processes on CPU, or for GPUs where CPU is refused."""
    cpu = cannot(strategy, "cpu") is None
    count = [] if strategy is Strategy.SINGLE else ["--processes-per-node" if cpu else "--gpus-per-node", "2"]
    device = "cpu" if cpu else "gpu"
    words = ["configure", "--strategy", strategy.value, "--device", device, *count]
    assert main([*words, "--mixed-precision", precision, "--output", str(output)]) == 0
    return cpu


@pytest.mark.parametrize("strategy", list(Strategy))
def test_a_file_of_each_strategy_is_launched(tmp_path: Path, strategy: Strategy) -> None:
    config = tmp_path / "accelerate.yaml"
    cpu = configure(strategy, config, "bf16")
    ranks = finish([start(config, tmp_path / "reports", cpu=cpu)], tmp_path / "reports")
    check(ranks, strategy, "bf16", 1 if strategy is Strategy.SINGLE else 2)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "precision"), list(zip(Strategy, itertools.cycle(["auto", "no"]))))
def test_files_of_another_precision_are_launched(tmp_path: Path, strategy: Strategy, precision: str) -> None:
    config = tmp_path / "accelerate.yaml"
    cpu = configure(strategy, config, precision)
    ranks = finish([start(config, tmp_path / "reports", cpu=cpu)], tmp_path / "reports")
    # auto leaves it to the trainer; the toy script, which says nothing, gets accelerate's default.
    check(ranks, strategy, "no", 1 if strategy is Strategy.SINGLE else 2)


@pytest.mark.slow
@pytest.mark.parametrize("offload", ["optimizer", "parameters"])
def test_offloading_one_of_the_two_is_launched(tmp_path: Path, offload: str) -> None:
    config = tmp_path / "accelerate.yaml"
    words = ["configure", "--strategy", "zero3_offload", "--device", "cpu", "--processes-per-node", "2"]
    assert main([*words, "--offload", offload, "--mixed-precision", "bf16", "--output", str(config)]) == 0
    ranks = finish([start(config, tmp_path / "reports", cpu=True)], tmp_path / "reports")
    check(ranks, Strategy.ZERO3_OFFLOAD, "bf16", 2)


MACHINES = [
    pytest.param(strategy, marks=[] if strategy is Strategy.ZERO3 else pytest.mark.slow)
    for strategy in Strategy
    if strategy is not Strategy.SINGLE
]


@pytest.mark.parametrize("strategy", MACHINES)
def test_the_files_of_two_machines_meet(
    tmp_path: Path, strategy: Strategy, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    cpu = cannot(strategy, "cpu") is None
    device = ["--device", "cpu", "--processes-per-node", "1"] if cpu else ["--gpus-per-node", "1"]
    machines = ["--nodes", "2", "--main-process-ip", "127.0.0.1", "--main-process-port", port]
    directory = tmp_path / "machines"
    words = ["configure", "--strategy", strategy.value, *device, *machines, "--mixed-precision", "bf16"]
    assert main([*words, "--per-machine", str(directory)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"accelerate launch --config_file {directory}/machine-{rank}.yaml -m sft.training.train --config RUN.yaml"
        for rank in range(2)
    ]
    reports = tmp_path / "reports"
    children = [start(directory / f"machine-{rank}.yaml", reports, cpu=cpu) for rank in range(2)]
    check(finish(children, reports), strategy, "bf16", 2)


def every_arrangement() -> list[Arrangement]:
    """List what can be written: strategy x device x precision x machines x offloading."""
    found = []
    for strategy, device, precision, nodes in itertools.product(
        Strategy, ("gpu", "cpu"), ("auto", "bf16", "fp16", "no"), (1, 2)
    ):
        single = strategy is Strategy.SINGLE
        if cannot(strategy, device) or (device, precision) == ("cpu", "fp16") or (single and nodes > 1):
            continue
        for offload in (
            ("both", "optimizer", "parameters") if strategy is Strategy.ZERO3_OFFLOAD else ("both",)
        ):
            found.append(
                Arrangement(
                    strategy=strategy,
                    device=device,
                    processes_per_node=1 if single else 4,
                    nodes=nodes,
                    machine_rank=nodes - 1,
                    mixed_precision=precision,
                    main_process_ip="node0" if nodes > 1 else None,
                    main_process_port=29500 if nodes > 1 else None,
                    offload=offload,
                )
            )
    return found


def test_every_file_has_known_keys_only_and_is_read_by_the_libraries_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files for GPUs too: read by accelerate's launcher up to the environment of its processes, and DeepSpeed's
    by `DeepSpeedConfig`, which refuses an unknown key of ZeRO and of the precisions."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import (
        prepare_deepspeed_cmd_env,
        prepare_multi_gpu_env,
        prepare_simple_launcher_cmd_env,
    )
    from deepspeed.runtime.config import DeepSpeedConfig

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arrangements = every_arrangement()
    assert len(arrangements) == 121
    for index, arrangement in enumerate(arrangements):
        yaml, ds_path = tmp_path / f"{index}.yaml", tmp_path / f"{index}.json"
        files = render(arrangement, command="sft configure", deepspeed_path=str(ds_path))
        yaml.write_text(files.accelerate_yaml)
        assert unknown_accelerate_keys(read_document(yaml)) == []
        arguments = launch_command_parser().parse_args(["--config_file", str(yaml), "train.py"])
        arguments, _, _ = _validate_launch_command(arguments)
        assert (arguments.num_processes, arguments.num_machines) == (arrangement.processes, arrangement.nodes)
        assert arguments.use_cpu == (arrangement.device == "cpu")
        if arrangement.strategy.is_deepspeed:
            assert files.deepspeed_json is not None
            ds_path.write_text(files.deepspeed_json)
            assert unknown_deepspeed_keys(read_document(ds_path)) == []
            arguments.deepspeed_fields_from_accelerate_config = ""
            _, environment = prepare_deepspeed_cmd_env(arguments)
            assert environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] == str(ds_path)
            check_deepspeed(DeepSpeedConfig, files, arrangement)
        elif arrangement.processes == 1:
            _, environment = prepare_simple_launcher_cmd_env(arguments)
        else:
            environment = prepare_multi_gpu_env(arguments)
        if arrangement.strategy.is_fsdp:
            offloads = arrangement.strategy is Strategy.FSDP2_OFFLOAD
            assert environment["FSDP_VERSION"] == "2"
            assert environment["FSDP_OFFLOAD_PARAMS"] == str(offloads).lower()
        if not arrangement.strategy.is_deepspeed:
            expected = {"auto": "no"}.get(arrangement.mixed_precision, arrangement.mixed_precision)
            assert environment["ACCELERATE_MIXED_PRECISION"] == expected


def check_deepspeed(config_class: Any, files: AccelerateFiles, arrangement: Arrangement) -> None:
    """Let DeepSpeed read its file as it will once the trainer has filled in "auto"."""
    settings = json.loads(files.deepspeed_json or "")
    filled = {key: value for key, value in settings.items() if value != "auto"}
    read = config_class({**filled, "train_micro_batch_size_per_gpu": 1})
    assert read.zero_config.stage == arrangement.strategy.zero_stage
    assert read.bfloat16_config.enabled == (arrangement.mixed_precision == "bf16")
    assert read.float16_config.enabled == (arrangement.mixed_precision == "fp16")
    offloads = arrangement.strategy is Strategy.ZERO3_OFFLOAD
    assert (read.zero_config.offload_optimizer is not None) == (
        offloads and arrangement.offload in ("optimizer", "both")
    )
    assert (read.zero_config.offload_param is not None) == (
        offloads and arrangement.offload in ("parameters", "both")
    )
    if arrangement.strategy.zero_stage == 3:
        assert read.zero_config.gather_16bit_weights_on_model_save


def test_a_typo_is_not_passed_over(tmp_path: Path) -> None:
    """The other way round: what the test above holds can fail."""
    file = tmp_path / "zero3.yaml"
    text = (HERE.parents[1] / "accelerate_configs/zero3.yaml").read_text()
    file.write_text(text.replace("zero3_init_flag", "zero3_init_flags"))
    (problem,) = unknown_accelerate_keys(read_document(file))
    assert str(problem) == (
        "unknown accelerate key deepspeed_config.zero3_init_flags\n"
        f"  where: {file}:7\n"
        "  fix:   did you mean zero3_init_flag?"
    )
