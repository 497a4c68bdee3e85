"""On a good machine nothing is found but notes: packages, GPUs, kernels, limits, ports, variables, Slurm, the Hub."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.check.checks import limits, named, ports
from sft.plan.hardware import detect
from tests.check import nvml, slurm
from tests.check.corpus.bench import Bench, make_bench
from tests.check.corpus.good import GOOD, Good
from tests.check.corpus.of_gpus import H100, shown, with_torch
from tests.check.corpus.of_services import pushes, reported
from tests.check.nvml import GIB, Card, NVMLError_NotSupported, Slice

OF_THE_MACHINE = ("versions", "variables", "gpus", "kernels", "limits", "ports", "wandb_key")


@pytest.fixture
def bench(tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return make_bench(tmp_path, tiny_model, tiny_chats, monkeypatch)


def found(bench: Bench, *checks: str, gravity: tuple[str, ...] = ("error", "warning")) -> list[str]:
    with bench.stack:
        return [str(one.problem) for one in bench.look(checks).findings if one.gravity in gravity]


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_setup_on_a_good_machine_is_left_alone(case: Good, bench: Bench) -> None:
    case.build(bench)
    gpus = bench.hardware.gpus
    if gpus:
        shown(bench, *(Card() for _ in range(gpus)))
        bench.hardware = replace(bench.hardware, cpu_cores=16 * gpus, memory_bytes=gpus * 128 * GIB)
        with_torch(bench, "2.13.0+cu128", "12.8")
    assert found(bench, *OF_THE_MACHINE) == []


def test_every_case_of_this_page_looks_at_every_check_of_the_machine() -> None:
    assert {check.NEEDS for check in named(OF_THE_MACHINE)} == {"nothing", "a plan", "this machine"}


@pytest.mark.parametrize(
    ("gpu", "settings", "told"),
    [
        (
            "t4-16g",
            {},
            ["this GPU has no bfloat16, which bf16 asks for: it is emulated, and slower than float32 (t4-16g"
             " (compute capability 7.5))\n  where: bf16\n  fix:   set fp16: true and bf16: false"],
        ),
        ("t4-16g", {"bf16": False, "fp16": True}, []),
        (
            "v100-32g",
            {"bf16": False, "fp16": True, "attn_implementation": "flash_attention_2"},
            ["FlashAttention needs compute capability 8.0 or later, an A100 for example; this is v100-32g (compute"
             " capability 7.0)\n  where: {run}:1\n  fix:   set attn_implementation: sdpa"],
        ),
        ("a100-40g", {}, []),
        ("b200-180g", {}, []),
        ("24GiB", {}, []),
        (None, {}, []),
    ],
)  # fmt: skip
def test_a_gpu_that_only_the_run_file_names_is_judged_by_what_the_table_says(
    bench: Bench, gpu: str | None, settings: dict[str, Any], told: list[str]
) -> None:
    bench.in_batch, bench.on = True, "slurm"
    bench.launch(gpus_per_node=1, **({"gpu": gpu} if gpu else {}))
    bench.settings |= settings
    run = bench.directory / "run.yaml"
    assert found(bench, "kernels") == [one.format(run=run) for one in told]


def test_a_job_that_names_no_gpus_is_told_where_to_name_them(bench: Bench) -> None:
    bench.in_batch, bench.on = True, "slurm"
    with bench.stack:
        (told,) = bench.look([]).findings
    assert str(told) == (
        "a batch job has to say what it needs, and the run file names no GPUs\n"
        f"  where: {bench.directory / 'run.yaml'}\n"
        "  fix:   set launch.gpus_per_node: 4; or launch.device: cpu with launch.processes_per_node"
    )


def test_a_desktop_on_the_gpu_is_no_news(bench: Bench) -> None:
    shown(bench, Card("NVIDIA GeForce RTX 4090", 24 * GIB, (8, 9), taken=GIB, processes={1: 500 << 20}))
    with_torch(bench, "2.13.0+cu128", "12.8")
    bench.hardware = replace(bench.hardware, cpu_cores=16)
    assert found(bench, *OF_THE_MACHINE) == []


def test_an_older_driver_of_the_same_cuda_is_a_note(bench: Bench) -> None:
    shown(bench, H100, driver="550.54.15", cuda=12040)
    with_torch(bench, "2.9.0+cu128", "12.8")
    assert found(bench, "gpus") == []
    assert found(bench, "gpus", gravity=("note",)) == [
        "torch is built for CUDA 12.8, driver 550.54.15 for 12.4: that works, but for kernels that are compiled at run"
        " time from the newer one"
    ]


def test_a_driver_that_answers_little_is_harmless(bench: Bench) -> None:
    """A virtual GPU, or a container, does not tell who uses it."""
    shown(bench, Card("GRID A100X-20C", 20 * GIB, None), driver="535.54.03", cuda=12020)
    with_torch(bench, "2.9.0+cu128", "12.8")
    bench.hardware = replace(bench.hardware, cpu_cores=16)
    assert found(bench, *OF_THE_MACHINE) == []


def test_a_machine_without_a_driver_trains_on_the_cpu_without_a_word(bench: Bench) -> None:
    for refusal in (
        nvml.NVMLError_LibraryNotFound("NVML Shared Library Not Found"),
        nvml.NVMLError("Driver Not Loaded"),
    ):
        bench.hardware = nvml.seen(bench.monkeypatch, refusal=refusal)
        assert found(bench, "gpus", "kernels") == []


def test_gpus_are_nobodys_business_where_the_cpu_is_asked_for(bench: Bench) -> None:
    shown(bench, H100, visible="")
    bench.launch(device="cpu")
    assert found(bench, "gpus", "kernels") == []


def test_a_batch_job_is_not_judged_by_this_machine(bench: Bench) -> None:
    shown(bench, Card("Tesla K80", 12 * GIB, (3, 7), mode=2))
    bench.launch(gpus_per_node=8, strategy="zero3")
    bench.settings |= {"attn_implementation": "flash_attention_2"}
    bench.in_batch, bench.on = True, "slurm"
    assert found(bench, "gpus", "kernels", "limits", "ports") == []


def test_a_slice_is_seen_with_its_own_memory_and_whole_gpus_before_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cut = Card(slices=(Slice(), Slice("2g.10gb", 10 * GIB, "MIG-two")))
    assert [(one.name, one.memory_bytes) for one in nvml.seen(monkeypatch, [cut]).devices] == [
        (Slice().name, 5 * GIB)
    ]
    assert [one.name for one in nvml.seen(monkeypatch, [cut, H100]).devices] == [H100.name]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-two")
    assert [one.memory_bytes for one in nvml.seen(monkeypatch, [cut, H100]).devices] == [10 * GIB]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-gone")
    assert nvml.seen(monkeypatch, [cut, H100]).gpus == 0


def test_what_the_library_does_not_know_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older nvidia-ml-py lacks functions; an older driver refuses them."""
    import sys

    made = nvml.module([H100])
    for name in ("nvmlDeviceGetMigMode", "nvmlSystemGetCudaDriverVersion_v2"):
        delattr(made, name)

    def refuse(*_: object) -> None:
        raise NVMLError_NotSupported("Not Supported")

    monkeypatch.setattr(made, "nvmlDeviceGetComputeRunningProcesses", refuse)
    monkeypatch.setitem(sys.modules, "pynvml", made)
    [device] = detect({}).devices
    assert (device.capability, device.processes, detect({}).driver_cuda) == ((9, 0), (), None)


def test_the_port_zero_and_a_free_port_are_fine(bench: Bench) -> None:
    bench.launch(processes_per_node=2, main_process_port=0)
    assert found(bench, "ports") == []
    assert ports._refusal(0) is None


def test_limits_of_this_machine_are_read() -> None:
    assert limits._own_threads() > 0
    assert all(isinstance(group, Path) for group in limits._groups("memory"))


def test_infiniband_needs_memory_that_stays(bench: Bench) -> None:
    """No card is here; a directory stands in for the kernel's list of them."""
    import resource

    cards = bench.directory / "infiniband"
    (cards / "mlx5_0").mkdir(parents=True)
    bench.monkeypatch.setattr(limits, "INFINIBAND", cards)
    bench.monkeypatch.setattr(resource, "getrlimit", lambda kind: (65536, 65536))
    shown(bench, H100)
    bench.launch(nodes=2, main_process_ip="10.0.0.1", gpus_per_node=1)
    [told] = [text for text in found(bench, "limits") if "lock" in text]
    assert told.startswith("a process may lock 64 KiB of memory, and InfiniBand locks more")


def test_a_cluster_that_has_it_all_takes_the_job(bench: Bench) -> None:
    slurm.install(
        bench.directory, bench.monkeypatch, associations="physics||normal\n", enforce="associations,qos"
    )
    bench.on, bench.in_batch = "slurm", True
    wanted = {
        "partition": "gpu", "account": "physics", "qos": "normal", "gres": "gpu:a100:4", "mem": "480G",
        "cpus_per_task": 64, "constraint": "a100&nvme", "nodelist": "gpu[1-2]",
    }  # fmt: skip
    bench.launch(nodes=2, gpus_per_node=4, time_limit="1-00:00:00", slurm=wanted)
    assert found(bench, "slurm", gravity=("error", "warning", "note")) == []


def test_one_of_several_partitions_is_enough(bench: Bench) -> None:
    slurm.install(bench.directory, bench.monkeypatch)
    bench.on, bench.in_batch = "slurm", True
    bench.launch(gpus_per_node=4, time_limit="04:00:00", slurm={"partition": "cpu,gpu"})
    assert found(bench, "slurm") == []


def test_a_job_whose_nodes_are_down_waits_for_them(bench: Bench) -> None:
    slurm.install(bench.directory, bench.monkeypatch, gpu={"max_nodes": "UNLIMITED"})
    bench.on, bench.in_batch = "slurm", True
    bench.launch(nodes=8, gpus_per_node=4, time_limit="04:00:00", slurm={"partition": "gpu"})
    assert found(bench, "slurm") == [
        "7 of the 8 nodes of partition gpu that fit are up, and 8 are asked for: the job waits for the others\n"
        f"  where: {bench.directory / 'run.yaml'}:1\n  fix:   `sinfo -R -p gpu` says why they are not"
    ]


def test_an_account_that_nobody_checks_is_a_warning(bench: Bench) -> None:
    slurm.install(bench.directory, bench.monkeypatch, associations="physics||normal\n")
    bench.on, bench.in_batch = "slurm", True
    bench.launch(gpus_per_node=4, time_limit="04:00:00", slurm={"partition": "gpu", "account": "art"})
    assert found(bench, "slurm", gravity=("error",)) == []
    assert len(found(bench, "slurm", gravity=("warning",))) == 1


def test_a_slurm_that_is_silent_refuses_nothing(bench: Bench) -> None:
    programs = bench.directory / "bin"
    programs.mkdir()
    (programs / "scontrol").write_text(
        "#!/bin/sh\necho 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1\n"
    )
    (programs / "scontrol").chmod(0o755)
    bench.variable("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    bench.on, bench.in_batch = "slurm", True
    bench.launch(gpus_per_node=4, slurm={"partition": "gpu"})
    assert found(bench, "slurm") == []
    [told] = found(bench, "slurm", gravity=("note",))
    assert told.startswith(
        "Slurm was not asked what it has: scontrol refuses: slurm_load_partitions: Unable to contact"
    )


def test_without_slurm_nothing_is_refused(bench: Bench) -> None:
    bench.variable("PATH", str(bench.directory))
    bench.on, bench.in_batch = "slurm", True
    bench.launch(gpus_per_node=4, slurm={"partition": "gpu"})
    assert found(bench, "slurm", gravity=("note",)) == [
        "Slurm was not asked what it has: there is no scontrol on this machine"
    ]


@pytest.mark.parametrize(
    "access",
    [
        None,
        {"role": "write"},
        {"role": "fineGrained", "fineGrained": {"global": [], "scoped": [
            {"entity": {"type": "user", "name": "tester"}, "permissions": ["repo.content.read", "repo.write"]}]}},
        {"role": "fineGrained", "fineGrained": {"global": [], "scoped": [
            {"entity": {"type": "model", "name": "tester/chat"}, "permissions": ["repo.write"]}]}},
    ],
)  # fmt: skip
def test_a_token_that_may_write_is_let_through(bench: Bench, access: dict[str, object] | None) -> None:
    hub = pushes(access=access)(bench)
    hub.create({"name": "chat", "visibility": "private"})
    bench.settings["hub_private_repo"] = True
    assert found(bench, "hub_access") == []
    assert hub.requests == ["GET /api/whoami-v2", "GET /api/models/tester/chat"]


def test_a_hub_out_of_reach_is_a_note(bench: Bench) -> None:
    hub = pushes()(bench)
    hub.close()
    assert found(bench, "hub_access") == []
    [told] = found(bench, "hub_access", gravity=("note",))
    assert told.startswith("the Hub was not asked: no route to it from here")


def test_an_offline_launch_asks_no_hub(bench: Bench) -> None:
    hub = pushes(token=None)(bench)
    bench.launch(offline=True)
    assert found(bench, "hub_access") == []
    assert hub.requests == []


@pytest.mark.parametrize("key", ["0" * 40, "local-" + "a" * 40, "wandb_v1_" + "b" * 77])
def test_keys_of_every_kind_are_taken(bench: Bench, key: str) -> None:
    reported(key)(bench)
    assert found(bench, "wandb_key") == []


def test_a_login_of_wandb_is_found(bench: Bench) -> None:
    reported(None)(bench)
    (bench.directory / "home" / ".netrc").write_text(
        f"machine api.wandb.ai\n  login user\n  password {'0' * 40}\n"
    )
    assert found(bench, "wandb_key") == []


def test_files_beside_a_run_hide_nothing_where_the_ranks_do_not_look_there(bench: Bench) -> None:
    """Seen by training: under DDP a datasets.py in the working directory changed nothing."""
    (bench.directory / "datasets.py").write_text("# mine\n")
    (bench.directory / "datasets").mkdir()
    bench.monkeypatch.chdir(bench.directory)
    bench.launch(processes_per_node=2)
    assert found(bench, "versions") == []


def test_a_directory_of_data_is_no_package(bench: Bench) -> None:
    (bench.directory / "datasets").mkdir()
    bench.monkeypatch.chdir(bench.directory)
    bench.launch(processes_per_node=2, strategy="zero2")
    assert found(bench, "versions") == []


@pytest.mark.parametrize(
    "text",
    [
        "expandable_segments:True",
        "max_split_size_mb:128,garbage_collection_threshold:0.6",
        "backend:cudaMallocAsync",
        "roundup_power2_divisions:[256:1,512:2,1024:4,>:8],expandable_segments:False,",
    ],
)
def test_allocator_options_that_torch_takes_are_left_alone(bench: Bench, text: str) -> None:
    """The same words were handed to torch 2.13, which took them."""
    shown(bench, H100)
    bench.variable("PYTORCH_CUDA_ALLOC_CONF", text)
    assert found(bench, "variables") == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "0"),
        ("LOCAL_RANK", "-1"),
        ("WORLD_SIZE", "1"),
        ("ACCELERATE_MIXED_PRECISION", "fp8"),
        ("ACCELERATE_USE_FSDP", "true"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("NCCL_DEBUG", "INFO"),
        ("NCCL_SOCKET_IFNAME", "nosuch0"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("HF_ENDPOINT", "https://huggingface.co"),
    ],
)
def test_variables_without_an_effect_on_a_run_of_one_process_are_left_alone(
    bench: Bench, name: str, value: str
) -> None:
    bench.variable(name, value)
    assert found(bench, "variables") == []


@pytest.mark.parametrize("value", ["lo", "^docker", "=lo", "lo,nosuch0"])
def test_interfaces_that_are_there_are_left_alone(bench: Bench, value: str) -> None:
    shown(bench, H100, Card())
    bench.variable("NCCL_SOCKET_IFNAME", value)
    assert found(bench, "variables") == []
