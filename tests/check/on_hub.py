"""A model on the loopback Hub of which nothing is here, and a machine that knows this Hub only."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from sft.plan.usual_layout import usual_layout
from sft.plan.weights import Tensor
from tests.check.corpus.spoil import shard, write_weights
from tests.loopback.files import FilesHub
from tests.plan.test_shape import LLAMA_8B

NAME = "org/model"
SMALL: dict[str, Any] = {
    **LLAMA_8B,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 4096,
}


def layout(config: Mapping[str, Any]) -> list[Tensor]:
    """List the tensors that a Llama of these sizes has."""
    sizes = {
        "hidden": config["hidden_size"],
        "heads": config["num_attention_heads"],
        "intermediate": config["intermediate_size"],
        "vocabulary": config["vocab_size"],
        "layers": config["num_hidden_layers"],
        "experts": None,
    }
    head_size = config["hidden_size"] // config["num_attention_heads"]
    return list(usual_layout(config, sizes, config["num_key_value_heads"], head_size))


def write_model(directory: Path, shards: int = 1) -> Path:
    """Write a small Llama of zeros: 20 MB."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SMALL))
    write_weights(
        directory / "model.safetensors", {one.name: (one.dtype, one.shape) for one in layout(SMALL)}
    )
    if shards > 1:
        shard(directory, shards)
    return directory


def headers_of(config: Mapping[str, Any], shards: int) -> dict[str, bytes]:
    """Return the files of a sharded model without its numbers: nobody who reads headers alone sees that they lack."""
    tensors, files, index = layout(config), {}, {}
    for number in range(shards):
        name, header, end = f"model-{number + 1:05}-of-{shards:05}.safetensors", {}, 0
        for one in tensors[number::shards]:
            size = int(one.count * one.bytes_each)
            header[one.name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": [end, end + size]}
            index[one.name] = name
            end += size
        text = json.dumps(header).encode()
        files[name] = struct.pack("<Q", len(text)) + text
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": index}).encode()
    return {**files, "config.json": json.dumps(config).encode()}


def know_only(hub: FilesHub, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process know one Hub, with a cache that is empty and no token."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place / "hub"))
    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(constants, name, str(place / "nowhere"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("SFT_CACHE", str(place / "sft"))
