"""Broken setups: what the GPUs, their libraries and the compilers beside them cannot do.

The cards are stand-ins (tests/check/nvml.py); bitsandbytes' libraries and the compilers are real files.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.check.corpus.bench import Bench, Broken
from tests.check.corpus.of_gpus import A100, H100, on, stand_in
from tests.check.nvml import GIB, Card

V100 = Card("Tesla V100-SXM2-32GB", 32 * GIB, (7, 0))
T4 = Card("Tesla T4", 16 * GIB, (7, 5))
RTX5090 = Card("NVIDIA GeForce RTX 5090", 32 * GIB, (12, 0))


def bitsandbytes_without(bench: Bench) -> None:
    on(H100, torch="2.9.0+cu130", cuda="13.0", load_in_4bit=True, use_peft=True)(bench)
    directory = bench.directory / "site" / "bitsandbytes"
    directory.mkdir()
    (directory / "libbitsandbytes_cuda126.so").touch()
    (directory / "libbitsandbytes_cpu.so").touch()
    stand_in(bench, "bitsandbytes", directory)


def bitsandbytes_told_otherwise(bench: Bench) -> None:
    on(H100, load_in_4bit=True, use_peft=True)(bench)
    bench.variable("BNB_CUDA_VERSION", "117")


def programs(bench: Bench, *names: str) -> None:
    """Leave only some programs on the PATH."""
    directory = bench.directory / "bin"
    directory.mkdir()
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    bench.variable("PATH", str(directory))
    for name in ("CC", "CXX"):
        bench.monkeypatch.delenv(name, raising=False)
    bench.variable("TORCH_EXTENSIONS_DIR", str(bench.directory / "extensions"))


def no_c_compiler(bench: Bench) -> None:
    on(H100, torch_compile=True)(bench)
    programs(bench)


def offload_without(*names: str) -> Callable[[Bench], object]:
    def build(bench: Bench) -> None:
        on(H100, H100)(bench)
        bench.launch(strategy="zero3_offload")
        programs(bench, *names)

    return build


def fp8_model(bench: Bench) -> None:
    on(A100)(bench)
    bench.edit("config.json", lambda config: config.update(quantization_config={"quant_method": "fp8"}))


BROKEN = (
    Broken(
        "bfloat16 on a V100",
        "https://github.com/pytorch/pytorch/issues/124996",
        "this GPU has no bfloat16, which bf16 asks for",
        "kernels",
        on(V100, bf16=True),
    ),
    Broken(
        "TF32 on a T4",
        "https://github.com/tatsu-lab/stanford_alpaca/issues/133",
        "this GPU has no TF32",
        "kernels",
        on(T4, tf32=True, fp16=True, bf16=False),
    ),
    Broken(
        "FlashAttention 2 on a T4",
        "https://github.com/Dao-AILab/flash-attention/issues/762",
        "FlashAttention needs compute capability 8.0 or later, an A100 for example; this is Tesla T4",
        "kernels",
        on(T4, attn_implementation="flash_attention_2"),
    ),
    Broken(
        "FlashAttention 3 on Blackwell",
        "https://github.com/Dao-AILab/flash-attention/pull/2593",
        "FlashAttention 3 is for Hopper (compute capability 9.0), and has no kernels for NVIDIA GeForce RTX 5090",
        "kernels",
        on(RTX5090, attn_implementation="flash_attention_3"),
    ),
    Broken(
        "a torch from before the GPU",
        "https://github.com/pytorch/pytorch/issues/167244",
        "torch 2.7.0+cu124 has no kernels for this GPU",
        "kernels",
        on(RTX5090, torch="2.7.0+cu124", cuda="12.4"),
    ),
    Broken(
        "a GPU that CUDA 13 knows no more",
        "https://github.com/Comfy-Org/ComfyUI/pull/16438",
        "torch 2.9.0+cu130 has no kernels for this GPU",
        "kernels",
        on(V100, torch="2.9.0+cu130", cuda="13.0", fp16=True, bf16=False),
    ),
    Broken(
        "FP8 weights on an A100",
        "https://github.com/huggingface/huggingface-llama-recipes/issues/21",
        "the model's weights are FP8, which this GPU has not",
        "kernels",
        fp8_model,
    ),
    Broken(
        "bitsandbytes has no library for torch's CUDA",
        "https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1848",
        "bitsandbytes brings no library for CUDA 13.0, which torch 2.9.0+cu130 is built for",
        "kernels",
        bitsandbytes_without,
    ),
    Broken(
        "BNB_CUDA_VERSION is left of another machine",
        "https://github.com/bitsandbytes-foundation/bitsandbytes/issues/1559",
        "BNB_CUDA_VERSION=117 asks for a library that bitsandbytes does not bring",
        "kernels",
        bitsandbytes_told_otherwise,
    ),
    Broken(
        "8-bit weights on a V100",
        "https://huggingface.co/docs/bitsandbytes/v0.50.0/installation",
        "8-bit weights are slow below compute capability 7.5",
        "kernels",
        on(V100, load_in_8bit=True, use_peft=True, fp16=True, bf16=False),
    ),
    Broken(
        "torch.compile without a C compiler",
        "https://github.com/apple/ml-cross-entropy/issues/5",
        "Triton compiles its kernels with a C compiler, and there is none on the PATH",
        "kernels",
        no_c_compiler,
    ),
    Broken(
        "offloading without ninja on the PATH",
        "https://github.com/deepspeedai/DeepSpeed/issues/1687",
        "DeepSpeed compiles the optimizer that it keeps in host memory, with the program ninja, which is not on the PATH",
        "kernels",
        offload_without("c++"),
    ),
    Broken(
        "offloading without a C++ compiler",
        "https://github.com/deepspeedai/DeepSpeed/issues/889",
        "its C++ compiler, c++, is not on the PATH",
        "kernels",
        offload_without("ninja"),
    ),
)
