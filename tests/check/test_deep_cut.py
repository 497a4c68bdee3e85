"""A cut keeps the first layer of each kind, byte by byte, and a configuration that is true of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft.check.deep.cut import plan_cut, write_description, write_weights
from sft.check.deep.layers import CannotCutError, targets_in_cut
from sft.plan.weights import read_header, read_tensors

Arrays = dict[str, np.ndarray[Any, Any]]
DENSE = {"self_attn.q_proj.weight": (4, 4), "mlp.up_proj.weight": (6, 4)}
EXPERTS = {"self_attn.q_proj.weight": (4, 4), "mlp.gate.weight": (16, 4), "mlp.experts.down_proj": (16, 4, 3)}


def number(seed: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def tensors_of(layers: list[dict[str, tuple[int, ...]]], prefix: str = "model.layers.") -> Arrays:
    """Make numbers for these layers, an embedding before them and a norm and a head behind."""
    found = {"model.embed_tokens.weight": number(1, (8, 4))}
    for layer, shapes in enumerate(layers):
        for name, shape in shapes.items():
            found[f"{prefix}{layer}.{name}"] = number(len(found) + 1, shape)
    return {**found, "model.norm.weight": number(99, (4,)), "lm_head.weight": number(98, (8, 4))}


def write_safetensors(path: Path, tensors: Arrays) -> None:
    header: dict[str, Any] = {}
    end = 0
    for name, values in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(values.shape),
            "data_offsets": [end, end + values.nbytes],
        }
        end += values.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values())
    )


def write_model(directory: Path, config: dict[str, Any], tensors: Arrays, shards: int = 1) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    if shards == 1:
        write_safetensors(directory / "model.safetensors", tensors)
        return directory
    names = list(tensors)
    places = {name: f"model-{index % shards}.safetensors" for index, name in enumerate(names)}
    for file in set(places.values()):
        write_safetensors(directory / file, {name: tensors[name] for name in names if places[name] == file})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return directory


def read_back(file: Path) -> Arrays:
    header = read_header(file)
    raw = file.read_bytes()
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            values = np.frombuffer(raw[begin + start : begin + end], dtype="<f4")
            found[name] = values.reshape(entry["shape"])
    return found


def cut(source: Path, **options: Any) -> tuple[dict[str, Any], Arrays]:
    """Cut a model beside itself; return its configuration and its numbers."""
    planned = plan_cut(source, **options)
    target = source.with_name("cut")
    write_description(planned, target)
    write_weights(planned, target)
    assert (target / "tokenizer.json").read_text() == "{}"
    assert read_tensors(target) == planned.tensors
    return json.loads((target / "config.json").read_text()), read_back(target / "model.safetensors")


@pytest.mark.parametrize("shards", [1, 3])
def test_layers_of_one_kind_leave_the_first_one_with_all_that_is_outside(shards: int, tmp_path: Path) -> None:
    tensors = tensors_of([DENSE] * 4)
    config, found = cut(write_model(tmp_path / "model", {"num_hidden_layers": 4}, tensors, shards))
    assert config == {"num_hidden_layers": 1}
    kept = [name for name in tensors if "layers" not in name or "layers.0." in name]
    assert sorted(found) == sorted(kept)
    assert all(np.array_equal(found[name], tensors[name]) for name in kept)


def test_a_layer_of_each_kind_is_kept_and_numbered_anew(tmp_path: Path) -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    settings = {"text_config": {"num_hidden_layers": 6, "layer_types": kinds, "_sliding_window_pattern": 6}}
    tensors = tensors_of([DENSE] * 6, prefix="language_model.model.layers.")
    vision = {f"vision_tower.encoder.layers.{layer}.w.weight": number(layer, (2,)) for layer in range(6)}
    config, found = cut(write_model(tmp_path / "model", settings, tensors | vision))
    assert config["text_config"]["num_hidden_layers"] == 2
    assert config["text_config"]["layer_types"] == ["sliding_attention", "full_attention"]
    last = "language_model.model.layers.1.mlp.up_proj.weight"
    assert np.array_equal(found[last], tensors[last.replace("1", "5")])
    assert vision.keys() <= found.keys()


def test_dense_layers_before_those_of_experts_are_counted_anew(tmp_path: Path) -> None:
    settings = {
        "num_hidden_layers": 5,
        "first_k_dense_replace": 3,
        "num_nextn_predict_layers": 1,
        "n_routed_experts": 16,
    }
    tensors = tensors_of([DENSE] * 3 + [EXPERTS] * 3)  # the last of them predicts a further token
    config, found = cut(write_model(tmp_path / "model", settings, tensors))
    assert config == {
        **settings,
        "num_hidden_layers": 2,
        "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 0,
    }
    assert np.array_equal(found["model.layers.1.mlp.gate.weight"], tensors["model.layers.3.mlp.gate.weight"])
    assert not any("layers.2." in name for name in found)


def test_lists_of_layers_by_number_are_counted_anew(tmp_path: Path) -> None:
    settings = {"num_hidden_layers": 4, "mlp_only_layers": [1, 3], "eos_token_id": [1, 2, 3, 4]}
    config, _ = cut(write_model(tmp_path / "model", settings, tensors_of([EXPERTS, DENSE] * 2)))
    assert config == {"num_hidden_layers": 2, "mlp_only_layers": [1], "eos_token_id": [1, 2, 3, 4]}


def test_where_kinds_go_by_place_a_whole_beginning_is_kept(tmp_path: Path) -> None:
    settings = {"num_hidden_layers": 8, "decoder_sparse_step": 4}
    config, found = cut(
        write_model(tmp_path / "model", settings, tensors_of([DENSE, DENSE, DENSE, EXPERTS] * 2))
    )
    assert config == {"num_hidden_layers": 4, "decoder_sparse_step": 4}
    assert "model.layers.3.mlp.gate.weight" in found


def test_large_layers_keep_the_first_of_their_experts(tmp_path: Path) -> None:
    settings = {
        "num_hidden_layers": 2,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "n_group": 4,
        "topk_group": 2,
    }
    single = {f"mlp.experts.{expert}.up_proj.weight": (3, 4) for expert in range(16)}
    tensors = tensors_of([EXPERTS | single] * 2)
    config, found = cut(write_model(tmp_path / "model", settings, tensors), large_bytes=100)
    assert config == {**settings, "num_hidden_layers": 1, "num_experts": 8, "n_group": 1, "topk_group": 1}
    for name in ("model.layers.0.mlp.gate.weight", "model.layers.0.mlp.experts.down_proj"):
        assert np.array_equal(found[name], tensors[name][:8])
    assert sum(".experts.7." in name for name in found) == 1
    assert not any(".experts.8." in name for name in found)
    assert found["model.layers.0.self_attn.q_proj.weight"].shape == (4, 4)


@pytest.mark.parametrize(
    ("config", "tensors", "says"),
    [
        (
            {},
            tensors_of([DENSE]),
            "its config.json has none of num_hidden_layers, n_layer, num_layers, n_layers",
        ),
        ({"num_hidden_layers": 3}, tensors_of([DENSE] * 2), "no tensors are numbered as its 3 layers"),
        (
            {"num_hidden_layers": 2},
            tensors_of([DENSE] * 2) | {f"other.{layer}.w": number(1, (2,)) for layer in range(2)},
            "model.layers. and other. are numbered as its 2 layers",
        ),
    ],
    ids=["no count", "too few", "two towers"],
)
def test_what_is_not_laid_out_in_layers_is_refused(
    config: dict[str, Any], tensors: Arrays, says: str, tmp_path: Path
) -> None:
    with pytest.raises(CannotCutError, match=f"^{says}$"):
        plan_cut(write_model(tmp_path / "model", config, tensors))


def test_pickles_and_torn_files_are_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", {"num_hidden_layers": 1}, tensors_of([DENSE]))
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-8])
    with pytest.raises(CannotCutError, match="is torn"):
        plan_cut(model)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(CannotCutError, match="its weights are pickles, not safetensors"):
        plan_cut(model)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (None, None),
        ("all-linear", "all-linear"),
        (["q_proj", "up_proj"], ["q_proj", "up_proj"]),
        (["q_proj", "layers.2.mlp.up_proj"], ["q_proj", "up_proj"]),
        (r".*layers\.[23]\..*_proj", ["q_proj", "up_proj"]),
        (r".*layers\.[03]\..*_proj", r".*layers\.[03]\..*_proj"),
        (["nothing"], ["nothing"]),
    ],
)
def test_targets_in_layers_that_are_gone_become_the_names_of_their_modules(
    targets: str | list[str] | None, expected: str | list[str] | None
) -> None:
    before = list(tensors_of([DENSE] * 4))
    after = [name for name in before if "layers" not in name or "layers.0." in name]
    assert targets_in_cut(targets, before, after) == expected
