"""How long `sft plan` and `sft check` take for a model of 70 billion numbers and a data file of 1 GB, cold and warm.

    python benchmarks/plan.py [--rounds 5]

The model's directory holds thirty shards with the headers that such a model has, and holes in place of numbers. Cold: the
kernel's caches are dropped before each command, which takes root; without it only warm times are told. The first time, nothing
is remembered of the files either. No network is asked. Python may keep the bytecode of modules, as it does where the kit was
installed by pip.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "dtype": "bfloat16",
}
SHARDS = 30
DATA_BYTES = 1 << 30
CACHES = Path("/proc/sys/vm/drop_caches")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as scratch:
        run = prepare(Path(scratch))
        sft = str(Path(sys.executable).with_name("sft"))
        commands = {
            "plan": [sft, "plan", str(run), "--gpu", "h100-80g"],
            "check": [sft, "check", str(run), "--gpus_per_node", "8", "--on", "slurm"],
            "python": [sys.executable, "-c", "import pydantic, ruamel.yaml"],
        }
        is_root = os.access(CACHES, os.W_OK)
        print("| command | cold, the first time, s: median (range) | cold | warm |\n|---|---|---|---|")
        for name, command in commands.items():
            memory = Path(scratch) / "cache"
            timed(command, memory)
            first = [timed(command, memory, cold=is_root, forget=True) for _ in range(rounds)]
            cold = [timed(command, memory, cold=True) for _ in range(rounds)] if is_root else []
            warm = [timed(command, memory) for _ in range(rounds)]
            print(f"| {name} | {told(first)} | {told(cold)} | {told(warm)} |")


def prepare(scratch: Path) -> Path:
    """Write the model, the data and a run file."""
    from sft.plan.usual_layout import usual_layout
    from tests import tiny

    tiny.write_tiny_model(scratch / "tiny")
    model = scratch / "model"
    model.mkdir()
    for file in (scratch / "tiny").iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            (model / file.name).write_bytes(file.read_bytes())
    (model / "config.json").write_text(json.dumps(CONFIG))
    sizes = {
        "hidden": 8192,
        "heads": 64,
        "intermediate": 28672,
        "vocabulary": 128256,
        "layers": 80,
        "experts": None,
    }
    tensors = list(usual_layout(CONFIG, sizes, 8, 128))
    index = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        header, end = {}, 0
        for tensor in tensors[shard::SHARDS]:
            size = 2 * tensor.count
            header[tensor.name] = {
                "dtype": "BF16",
                "shape": list(tensor.shape),
                "data_offsets": [end, end + size],
            }
            index[tensor.name] = name
            end += size
        text = json.dumps(header).encode()
        with (model / name).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + end)
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    row = json.dumps(tiny.chats(1)[0]) + "\n"
    with (scratch / "chats.jsonl").open("w") as file:
        block = row * 10_000
        for _ in range(DATA_BYTES // len(block)):
            file.write(block)
    run = scratch / "run.yaml"
    settings = {
        "model_name_or_path": str(model),
        "dataset_name": str(scratch / "chats.jsonl"),
        "use_peft": True,
        "lora_target_modules": "all-linear",
        "assistant_only_loss": True,
        "dtype": "bfloat16",
        "max_length": 4096,
        "total_train_batch_size": 64,
        "per_device_train_batch_size": 1,
        "report_to": "none",
        "output_dir": str(scratch / "out"),
        "launch": {"gpus_per_node": 8, "strategy": "zero3", "offline": True},
    }
    run.write_text(json.dumps(settings))
    return run


def timed(command: list[str], memory: Path, *, cold: bool = False, forget: bool = False) -> float:
    """Run a command and return its seconds."""
    if forget:
        shutil.rmtree(memory, ignore_errors=True)
    if cold:
        os.sync()
        CACHES.write_text("3")
    began = time.perf_counter()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "SFT_CACHE": str(memory)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    seconds = time.perf_counter() - began
    if done.returncode not in (0, 3):
        sys.exit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-1000:]}{done.stderr[-3000:]}"
        )
    return seconds


def told(seconds: list[float]) -> str:
    """Say the median and the range."""
    if not seconds:
        return "takes root"
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


if __name__ == "__main__":
    main()
