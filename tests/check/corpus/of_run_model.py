"""Broken setups: the files of a model, what its configuration says, and whether the weights are what it says."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable

from tests.check.corpus.bench import Bench, Broken
from tests.check.corpus.spoil import forbid, shard

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
WEIGHTS = "model.safetensors"


def torn(bench: Bench) -> None:
    file = bench.model / WEIGHTS
    file.write_bytes(file.read_bytes()[:-4096])


def shard_missing(bench: Bench) -> None:
    shard(bench.model)
    (bench.model / "model-00002-of-00002.safetensors").unlink()


def stale_index(bench: Bench) -> None:
    listed = shard(bench.model)
    listed |= {"model.layers.0.mlp.extra.weight": "model-00001-of-00002.safetensors"}
    (bench.model / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": listed}))


def two_models(bench: Bench) -> None:
    shard(bench.model)
    shutil.copy(
        bench.model / "model-00001-of-00002.safetensors", bench.model / "model-00003-of-00003.safetensors"
    )


def pointer(name: str) -> Callable[[Bench], object]:
    return lambda bench: (bench.model / name).write_text(POINTER)


def unfinished(bench: Bench) -> None:
    (bench.model / WEIGHTS).rename(bench.model / f"{WEIGHTS}.part")


def aria(bench: Bench) -> None:
    (bench.model / f"{WEIGHTS}.aria2").write_bytes(b"\0" * 32)


def pickled(bench: Bench, *, whole: bool) -> None:
    (bench.model / WEIGHTS).unlink()
    file = bench.model / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"\0" * 2000)
    if not whole:
        file.write_bytes(file.read_bytes()[:-200])


def instead(*names: str) -> Callable[[Bench], object]:
    """Have other files where the weights should be."""

    def build(bench: Bench) -> None:
        (bench.model / WEIGHTS).unlink()
        for name in names:
            (bench.model / name).parent.mkdir(parents=True, exist_ok=True)
            (bench.model / name).write_bytes(b"\0" * 100)

    return build


BROKEN = (
    Broken(
        "a file of weights that was not downloaded to its end",
        "https://github.com/QwenLM/Qwen/issues/462",
        "model.safetensors is torn",
        "model's files",
        torn,
    ),
    Broken(
        "a shard of the index that is not there",
        "https://github.com/hiyouga/LlamaFactory/issues/3340",
        "model-00002-of-00002.safetensors is not there",
        "model's files",
        shard_missing,
    ),
    Broken(
        "an index of another model, whose tensors the shards lack",
        "https://github.com/Neph0s/CoSER/issues/3",
        "lists 1 tensors that the files of",
        "model's files",
        stale_index,
    ),
    Broken(
        "shards of two models in one directory",
        "https://github.com/Blaizzy/mlx-vlm/pull/1827",
        "model-00003-of-00003.safetensors lie beside the weights",
        "model's files",
        two_models,
    ),
    Broken(
        "weights that are a pointer of git-lfs",
        "https://github.com/codefuse-ai/MFTCoder/issues/20",
        "model.safetensors of the model",
        "model's files",
        pointer(WEIGHTS),
    ),
    Broken(
        "a tokenizer.json that is a pointer of git-lfs",
        "https://github.com/turboderp/exllama/issues/242",
        "tokenizer.json of the model",
        "model's files",
        pointer("tokenizer.json"),
    ),
    Broken(
        "a download that was left unfinished",
        "https://github.com/mindverse/Second-Me/issues/105",
        "model.safetensors.part was left by a download that did not end",
        "model's files",
        unfinished,
    ),
    Broken(
        "a file that aria2c has not finished, which has its full size",
        "https://aria2.github.io/manual/en/html/aria2c.html",
        "model.safetensors.aria2 says that its download did not end",
        "model's files",
        aria,
    ),
    Broken(
        "a pickle of weights that is torn",
        "https://github.com/lyogavin/airllm/issues/137",
        "pytorch_model.bin is torn",
        "model's files",
        lambda bench: pickled(bench, whole=False),
    ),
    Broken(
        "weights that are pickles alone",
        "https://huggingface.co/docs/hub/security-pickle",
        "are pickles, which run code",
        "model's files",
        lambda bench: pickled(bench, whole=True),
    ),
    Broken(
        "a model of GGUF files",
        "https://github.com/unslothai/unsloth/issues/1636",
        "model-Q4_K_M.gguf is GGUF, which llama.cpp runs",
        "model's files",
        instead("model-Q4_K_M.gguf"),
    ),
    Broken(
        "a model in Meta's own format",
        "https://github.com/meta-llama/llama-models/issues/159",
        "consolidated.00.pth is Meta's own format",
        "model's files",
        instead("consolidated.00.pth", "params.json"),
    ),
    Broken(
        "a checkpoint that holds DeepSpeed's shards alone",
        "https://github.com/huggingface/accelerate/issues/2680",
        "global_step500 holds them as DeepSpeed shards them",
        "model's files",
        instead("global_step500/mp_rank_00_model_states.pt", "latest"),
    ),
    Broken(
        "a checkpoint that holds FSDP's shards alone",
        "https://github.com/huggingface/accelerate/issues/2848",
        "pytorch_model_fsdp_0 holds them as FSDP shards them",
        "model's files",
        instead("pytorch_model_fsdp_0/__0_0.distcp"),
    ),
    Broken(
        "weights that another user may not share",
        "https://github.com/huggingface/huggingface_hub/issues/2495",
        "model.safetensors of the model",
        "model's files",
        lambda bench: forbid(bench, bench.model / WEIGHTS),
    ),
)
