"""The GPUs run what the settings ask of them: number types, attention, 4 bits, kernels built here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from sft.check.distributions import TorchBuild, package_directory, torch_build
from sft.check.finding import Finding, error, warning
from sft.check.subject import Subject
from sft.errors import ExitCode

NAME = "kernels"
COST = "the GPUs' compute capability, and a look for compilers"
NEEDS = "a plan"

Capability = tuple[int, int]
AMPERE: Capability = (8, 0)
HOPPER: Capability = (9, 0)


def look(subject: Subject) -> Iterator[Finding]:
    """Hold what is asked for against the oldest of the GPUs. Of those that nobody has seen or named, nothing is said."""
    plan = subject.plan
    assert plan is not None
    if plan.device != "gpu":
        return
    if subject.in_batch:
        yield from _of_named(subject)
        return
    known = [device for device in subject.hardware.devices if device.capability is not None]
    build = None if subject.config.launch.wrap else torch_build()
    if known:
        oldest = min(known, key=lambda device: device.capability or (0, 0))
        assert oldest.capability is not None
        where = f"{oldest.name} (compute capability {_dotted(oldest.capability)})"
        yield from _of_build(build, oldest.capability, where)
        yield from _of_numbers(subject, oldest.capability, where)
        yield from _of_attention(subject, oldest.capability, where)
        yield from _of_bits(subject, oldest.capability, where)
    if build is not None and build.cuda is not None:
        yield from _of_bitsandbytes(subject, build)
        yield from _compiled(subject)


def _of_named(subject: Subject) -> Iterator[Finding]:
    """Judge the GPU that `launch.gpu` names, of which the kit's table says what it can; torch is that of another machine."""
    gpu = subject.gpu
    if gpu is None or not gpu.capability:
        return
    capability = (int(gpu.capability), round(gpu.capability * 10) % 10)
    where = f"{gpu.name} (compute capability {_dotted(capability)})"
    yield from _of_numbers(subject, capability, where)
    yield from _of_attention(subject, capability, where)
    yield from _of_bits(subject, capability, where)


def _of_build(build: TorchBuild | None, capability: Capability, where: str) -> Iterator[Finding]:
    """Tell GPUs that PyTorch's own wheels have no kernels for.

    Source:
        pytorch/.ci/manywheel/build_cuda.sh, TORCH_CUDA_ARCH_LIST; CUDA 13 compiles for nothing below 7.5, and nothing
        before 12.8 for 10.0 and above.
    """
    if build is None or build.cuda is None:
        return
    if capability >= (10, 0) and build.cuda < (12, 8):
        fix = "install a torch for CUDA 12.8 or later: https://pytorch.org/get-started/locally"
    elif capability < (7, 5) and build.cuda >= (13, 0):
        fix = "install a torch for CUDA 12.6: https://pytorch.org/get-started/locally"
    else:
        return
    what = f"torch {build.version} has no kernels for this GPU"
    if build.is_official:
        yield error(what, where, fix, exit_code=ExitCode.ENVIRONMENT)
    else:  # somebody's own build, which may hold code that the driver compiles
        yield warning(f"{what}, unless it was built with +PTX", where, fix)


def _of_numbers(subject: Subject, capability: Capability, where: str) -> Iterator[Finding]:
    config = subject.config
    if config.mixed_precision == "bf16" and capability < AMPERE:
        yield warning(
            f"this GPU has no bfloat16, which bf16 asks for: it is emulated, and slower than float32 ({where})",
            "bf16",
            "set fp16: true and bf16: false",
        )
    if config.training.tf32 and capability < AMPERE:
        yield error(
            f"this GPU has no TF32 ({where}): transformers refuses tf32",
            "tf32",
            "remove tf32",
            exit_code=ExitCode.ENVIRONMENT,
        )
    method = subject.model_config.get("quantization_config")
    if (
        isinstance(method, dict)
        and method.get("quant_method") in ("fp8", "fbgemm_fp8")
        and capability < (8, 9)
    ):
        yield warning(
            f"the model's weights are FP8, which this GPU has not ({where}): they are unpacked to twice their size, or"
            " refused",
            "model_name_or_path",
            "use the model in bfloat16, or a GPU of compute capability 8.9 or later (Ada, Hopper)",
        )


def _of_attention(subject: Subject, capability: Capability, where: str) -> Iterator[Finding]:
    """Tell FlashAttention on GPUs that its kernels are not built for.

    Source:
        README of Dao-AILab/flash-attention, "Installation and features"; "FlashAttention-3 beta release".
    """
    asked = subject.config.model.attn_implementation or ""
    fix = "set attn_implementation: sdpa"
    if ("flash_attention_" in asked or "flash-attn" in asked) and capability < AMPERE:
        yield error(
            f"FlashAttention needs compute capability 8.0 or later, an A100 for example; this is {where}",
            "attn_implementation",
            fix,
            exit_code=ExitCode.ENVIRONMENT,
        )
    elif asked == "flash_attention_3" and capability[0] > 9:
        yield error(
            f"FlashAttention 3 is for Hopper (compute capability 9.0), and has no kernels for {where}",
            "attn_implementation",
            "set attn_implementation: flash_attention_2 or sdpa",
            exit_code=ExitCode.ENVIRONMENT,
        )
    elif asked in ("flash_attention_3", "flash_attention_4") and capability < HOPPER:
        yield warning(
            f"{asked.replace('_attention_', 'attention ').capitalize()} is made for Hopper and later: its kernels may be"
            f" missing for {where}",
            "attn_implementation",
            "set attn_implementation: flash_attention_2 or sdpa",
        )


def _of_bits(subject: Subject, capability: Capability, where: str) -> Iterator[Finding]:
    """Tell what bitsandbytes cannot do on old GPUs.

    Source:
        bitsandbytes' installation page: 6.0 for 4 bits and the optimizers, 7.5 for 8-bit matrices.
    """
    model = subject.config.model
    if model.load_in_4bit and capability < (6, 0):
        yield error(
            f"bitsandbytes needs compute capability 6.0 or later for 4-bit weights; this is {where}",
            "load_in_4bit",
            "set load_in_4bit: false, with a smaller model",
            exit_code=ExitCode.ENVIRONMENT,
        )
    elif model.load_in_8bit and capability < (7, 5):
        yield warning(
            f"8-bit weights are slow below compute capability 7.5; this is {where}",
            "load_in_8bit",
            "set load_in_4bit: true instead",
        )


def _of_bitsandbytes(subject: Subject, build: TorchBuild) -> Iterator[Finding]:
    """Look for the library of bitsandbytes that goes with torch's CUDA: any of the same first number will do.

    Source:
        bitsandbytes/cextension.py, get_cuda_bnb_library_path.
    """
    optim = subject.config.training.optim
    if not (subject.config.is_quantized or "8bit" in optim or "bnb" in optim or optim.startswith("paged_")):
        return
    directory = package_directory("bitsandbytes")
    assert build.cuda is not None
    if directory is None:
        return  # told by the check of versions
    forced = subject.environment.get("BNB_CUDA_VERSION")
    names = [path.name for path in directory.glob("libbitsandbytes_cuda*.so")]
    if forced is not None:
        if f"libbitsandbytes_cuda{forced}.so" not in names:
            yield error(
                f"BNB_CUDA_VERSION={forced} asks for a library that bitsandbytes does not bring",
                "BNB_CUDA_VERSION",
                "unset BNB_CUDA_VERSION: bitsandbytes finds the one for torch by itself",
                exit_code=ExitCode.ENVIRONMENT,
            )
    elif not any(name.startswith(f"libbitsandbytes_cuda{build.cuda[0]}") for name in names):
        yield error(
            f"bitsandbytes brings no library for CUDA {_dotted(build.cuda)}, which torch {build.version} is built for",
            str(directory),
            "pip install --upgrade bitsandbytes",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _compiled(subject: Subject) -> Iterator[Finding]:
    """Look for the programs that compile kernels at the start of the training, where they are not compiled already.

    Source:
        triton/runtime/build.py (CC, gcc or clang); torch/utils/cpp_extension.py, verify_ninja_availability and
        get_cxx_compiler.
    """
    plan = subject.plan
    assert plan is not None
    training, environment = subject.config.training, subject.environment
    path = environment.get("PATH")
    asked = {
        "torch_compile": training.torch_compile,
        "use_liger_kernel": training.use_liger_kernel,
        "attn_implementation": subject.config.model.attn_implementation == "flex_attention",
    }
    by_triton = [key for key, is_asked in asked.items() if is_asked]
    compilers = filter(None, (environment.get("CC"), "gcc", "clang"))
    if by_triton and not any(shutil.which(name.split()[0], path=path) for name in compilers):
        yield error(
            "Triton compiles its kernels with a C compiler, and there is none on the PATH",
            by_triton[0],
            "load one (module load gcc; apt install gcc), or export CC",
            exit_code=ExitCode.ENVIRONMENT,
        )
    if plan.strategy != "zero3_offload" or plan.offload == "parameters":
        return
    what = "DeepSpeed compiles the optimizer that it keeps in host memory"
    where = "launch.strategy"
    if shutil.which("ninja", path=path) is None:
        beside = Path(sys.executable).with_name("ninja")
        fix = f"export PATH={beside.parent}:$PATH" if beside.exists() else "pip install ninja"
        yield error(
            f"{what}, with the program ninja, which is not on the PATH",
            where,
            f"{fix}; or set launch.strategy: zero3",
            exit_code=ExitCode.ENVIRONMENT,
        )
    compiler = environment.get("CXX", "c++").split()[0]
    if shutil.which(compiler, path=path) is None and not _is_built(environment):
        yield error(
            f"{what}, and its C++ compiler, {compiler}, is not on the PATH",
            where,
            "load one (module load gcc; apt install g++), or export CXX; or set launch.strategy: zero3",
            exit_code=ExitCode.ENVIRONMENT,
        )


def _is_built(environment: Mapping[str, str]) -> bool:
    """Whether the cache of torch extensions holds DeepSpeed's optimizer."""
    home = Path(environment.get("HOME", "~")).expanduser()
    above = Path(environment.get("XDG_CACHE_HOME") or home / ".cache") / "torch_extensions"
    root = Path(environment.get("TORCH_EXTENSIONS_DIR") or above)
    return any(
        place
        for pattern in ("cpu_adam/cpu_adam.so", "*/cpu_adam/cpu_adam.so")
        for place in root.glob(pattern)
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
