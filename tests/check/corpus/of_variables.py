"""Broken setups: what is left in the environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.check.corpus.bench import Bench, Broken
from tests.check.corpus.of_gpus import H100, on
from tests.check.nvml import Card

HUB_VARIABLES = "https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables"


def variable(name: str, value: str, **launch: Any) -> Callable[[Bench], object]:
    """Return what sets one variable."""

    def build(bench: Bench) -> None:
        bench.variable(name, value)
        bench.launch(**launch)

    return build


def on_gpus(name: str, value: str, **settings: Any) -> Callable[[Bench], object]:
    """Return what sets one variable on a machine with two GPUs."""

    def build(bench: Bench) -> None:
        on(H100, Card(), **settings)(bench)
        bench.variable(name, value)

    return build


def hub_at_no_address(bench: Bench) -> None:
    bench.variable("HF_ENDPOINT", "hf-mirror.com")
    bench.settings |= {"push_to_hub": True, "hub_model_id": "tester/chat"}


def model_that_is_not_here(bench: Bench) -> None:
    bench.variable("HF_HUB_OFFLINE", "1")
    bench.settings["model_name_or_path"] = "tester/absent"


def wandb_disabled(bench: Bench) -> None:
    bench.variable("WANDB_DISABLED", "true")
    bench.settings["report_to"] = "wandb"


def accelerator_of_deepspeed(bench: Bench) -> None:
    on(H100, Card())(bench)
    bench.launch(strategy="zero2")
    bench.variable("DS_ACCELERATOR", "cpu")


BROKEN = (
    Broken(
        "LOCAL_RANK of another launcher",
        "https://github.com/flagos-ai/FlagPerf/issues/274",
        "LOCAL_RANK=0: the run would take itself for a part of another one, and wait for the rest of it",
        "variables",
        variable("LOCAL_RANK", "0"),
    ),
    Broken(
        "WORLD_SIZE of another launcher",
        "https://github.com/huggingface/finetrainers/issues/315",
        "WORLD_SIZE=4: the run would take itself for a part of another one",
        "variables",
        variable("WORLD_SIZE", "4"),
    ),
    Broken(
        "inside an MPI job",
        "https://github.com/NVIDIA/nccl/issues/210",
        "OMPI_COMM_WORLD_SIZE=2: the run would take itself for a part of another one",
        "variables",
        variable("OMPI_COMM_WORLD_SIZE", "2"),
    ),
    Broken(
        "DeepSpeed is left of another accelerate launch",
        "https://huggingface.co/docs/accelerate/package_reference/cli",
        "ACCELERATE_USE_DEEPSPEED=true makes the ranks train otherwise than planned, which is ddp",
        "variables",
        variable("ACCELERATE_USE_DEEPSPEED", "true", processes_per_node=2),
    ),
    Broken(
        "FSDP is left of another accelerate launch, on GPUs",
        "https://huggingface.co/docs/accelerate/package_reference/cli",
        "ACCELERATE_USE_FSDP=true makes the ranks train otherwise than planned, which is ddp",
        "variables",
        on_gpus("ACCELERATE_USE_FSDP", "true"),
    ),
    Broken(
        "a list in OMP_NUM_THREADS",
        "https://github.com/pydata/numexpr/issues/421",
        "OMP_NUM_THREADS='4,3,2' is no number",
        "variables",
        variable("OMP_NUM_THREADS", "4,3,2"),
    ),
    Broken(
        "a network interface that is not there",
        "https://github.com/NVIDIA/nccl/issues/1837",
        "there is no network interface eth7 on this machine",
        "variables",
        variable("GLOO_SOCKET_IFNAME", "eth7", processes_per_node=2),
    ),
    Broken(
        "a network interface of another site",
        "https://github.com/marin-community/marin/issues/6940",
        "there is no network interface =enp90s0np0 on this machine",
        "variables",
        on_gpus("NCCL_SOCKET_IFNAME", "=enp90s0np0"),
    ),
    Broken(
        "P2P is off since a fault was looked for",
        "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html",
        "NCCL_P2P_DISABLE=1: GPUs of one machine speak through host memory",
        "variables",
        on_gpus("NCCL_P2P_DISABLE", "1"),
    ),
    Broken(
        "CUDA_LAUNCH_BLOCKING is left of a debugging",
        "https://pytorch.org/docs/stable/notes/cuda.html",
        "CUDA_LAUNCH_BLOCKING=1 has the GPU wait for every kernel",
        "variables",
        on_gpus("CUDA_LAUNCH_BLOCKING", "1"),
    ),
    Broken(
        "TORCH_DISTRIBUTED_DEBUG is left of a debugging",
        "https://pytorch.org/docs/stable/distributed.html",
        "TORCH_DISTRIBUTED_DEBUG=DETAIL has the ranks compare every collective",
        "variables",
        variable("TORCH_DISTRIBUTED_DEBUG", "DETAIL", processes_per_node=2),
    ),
    Broken(
        "an allocator's option spelled as in a shell",
        "https://github.com/pytorch/pytorch/issues/101158",
        "PYTORCH_CUDA_ALLOC_CONF: 'expandable_segments=True' has no colon between key and value",
        "variables",
        on_gpus("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments=True"),
    ),
    Broken(
        "an allocator's option in small letters",
        "https://github.com/pytorch/pytorch/issues/101158",
        "PYTORCH_ALLOC_CONF: expandable_segments is 'true', and torch takes True or False",
        "variables",
        on_gpus("PYTORCH_ALLOC_CONF", "max_split_size_mb:128,expandable_segments:true"),
    ),
    Broken(
        "an allocator's option that torch does not know",
        "https://github.com/pytorch/pytorch/issues/123505",
        "PYTORCH_CUDA_ALLOC_CONF: there is no 'expandable_segment'",
        "variables",
        on_gpus("PYTORCH_CUDA_ALLOC_CONF", "expandable_segment:True"),
    ),
    Broken(
        "no caching of GPU memory, though it is set to 0",
        "https://github.com/pytorch/pytorch/issues/145661",
        "PYTORCH_NO_CUDA_MEMORY_CACHING is set, whatever to",
        "variables",
        on_gpus("PYTORCH_NO_CUDA_MEMORY_CACHING", "0"),
    ),
    Broken(
        "torch.compile that is switched off",
        "https://docs.pytorch.org/docs/stable/torch.compiler_troubleshooting.html",
        "TORCHDYNAMO_DISABLE=1: torch_compile has no effect",
        "variables",
        on_gpus("TORCHDYNAMO_DISABLE", "1", torch_compile=True),
    ),
    Broken(
        "DeepSpeed told to use the CPU",
        "https://www.deepspeed.ai/tutorials/accelerator-setup-guide/",
        "DS_ACCELERATOR=cpu: DeepSpeed would not use the GPUs",
        "variables",
        accelerator_of_deepspeed,
    ),
    Broken(
        "a mirror of the Hub without https://",
        HUB_VARIABLES,
        "HF_ENDPOINT=hf-mirror.com is no address",
        "variables",
        hub_at_no_address,
    ),
    Broken(
        "offline, with a model that is not in the cache",
        "https://github.com/Stability-AI/stablediffusion/issues/412",
        "HF_HUB_OFFLINE=1 keeps the run off the Hub, and the model tester/absent is not in the cache",
        "variables",
        model_that_is_not_here,
    ),
    Broken(
        "W&B disabled in a way that nothing reads",
        "https://github.com/s-JoL/Open-Llama/issues/47",
        "WANDB_DISABLED is not read: the run is shown in W&B",
        "variables",
        wandb_disabled,
    ),
)
