"""What the checks of a model say where the corpus has no case: in the Hub's cache, of experts, of stretched positions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from sft.check import installed
from sft.check.checks.model_weights import embedding_rows
from sft.check.checks.unusual import _positions
from sft.check.vocabulary import read_vocabulary
from sft.plan.adapter import EXPERTS_BY_NAME
from sft.plan.weights import Tensor
from tests.check.corpus.bench import Bench, make_bench
from tests.check.corpus.families import with_family, write_family
from tests.check.corpus.spoil import shapes_of, shard, write_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LORA = {"use_peft": True, "learning_rate": 2e-4}


@pytest.fixture
def bench(tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(tmp_path, tiny_model, tiny_chats, monkeypatch)


def found(bench: Bench, *checks: str) -> list[str]:
    """Look with some checks, and return what is more than a note."""
    return [str(one) for one in bench.look(checks).findings if one.gravity != "note"]


def in_the_hubs_cache(bench: Bench) -> Path:
    """Move the model into a cache of the Hub, under a name."""
    storage = bench.directory / "hub" / "models--org--tiny"
    snapshot = storage / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    shutil.move(bench.model, snapshot)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(COMMIT)
    bench.monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(bench.directory / "hub"))
    bench.settings["model_name_or_path"] = "org/tiny"
    return snapshot


def test_what_the_hubs_cache_lacks_can_be_fetched_and_what_is_torn_cannot(bench: Bench) -> None:
    snapshot = in_the_hubs_cache(bench)
    assert found(bench, "model_files", "model_kind", "model_weights", "tokenizer") == []
    weights = snapshot / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    assert found(bench, "model_files") == []
    weights.write_bytes(whole[:-100])
    (told,) = found(bench, "model_files")
    assert "is torn" in told
    assert "fix:   sft fetch RUN.yaml, where there is a network" in told


def test_experts_that_are_loaded_as_one_tensor_are_no_sure_error(bench: Bench) -> None:
    """Their names in the files are not those of the model."""
    bench.settings |= {**LORA, "lora_target_modules": ["q_proj", "gate_up_proj"]}
    (told,) = found(bench, "adapter")
    assert told.startswith("lora_target_modules: gate_up_proj matches no module of the model")
    file = bench.model / "model.safetensors"
    tensors = shapes_of(file)
    tensors["model.layers.0.mlp.experts.0.up_proj.weight"] = ("F32", (8, 64))
    write_weights(file, tensors)
    (told,) = found(bench, "adapter")
    assert told.startswith("warning: lora_target_modules: gate_up_proj matches no module of the model")
    tensors["model.layers.0.block_sparse_moe.experts.0.w1.weight"] = ("F32", (8, 64))
    write_weights(file, tensors)
    bench.settings["lora_target_modules"] = ["q_proj", "w1"]
    (told,) = found(bench, "adapter")
    assert told.startswith("warning: lora_target_modules: w1 without w3: transformers holds the two matrices")
    tensors["model.layers.0.block_sparse_moe.experts.0.w3.weight"] = ("F32", (8, 64))
    write_weights(file, tensors)
    bench.settings["lora_target_modules"] = ["q_proj", "w1", "w3"]
    assert found(bench, "adapter") == []


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "gate_proj", "up_proj"], ["down_proj"]])
def test_adapted_experts_take_no_dropout_and_no_dora(bench: Bench, targets: object) -> None:
    """PEFT refuses both once the model is loaded, and TRL's dropout is 0.05."""
    with_family(bench, write_family(bench.directory / "experts", "qwen3_moe", bench.model))
    bench.settings |= {**LORA, "lora_target_modules": targets}
    (told,) = found(bench, "adapter")
    assert told.startswith("lora_dropout 0.05: the experts are adapted, whose matrices are one tensor")
    bench.settings["lora_dropout"] = 0.0
    assert found(bench, "adapter") == []
    bench.settings["use_dora"] = True
    (told,) = found(bench, "adapter")
    assert told.startswith("use_dora: the experts are adapted")
    bench.settings |= {"lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.05}
    assert found(bench, "adapter") == []


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], None], ids=str)
def test_what_is_told_of_adapters_on_experts_is_what_peft_does(
    family: str, targets: list[str] | str | None, bench: Bench
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with_family(bench, write_family(bench.directory / "experts", family, bench.model))
    bench.settings |= {**LORA, "lora_target_modules": targets}
    model = AutoModelForCausalLM.from_pretrained(bench.model)
    try:
        get_peft_model(model, LoraConfig(r=16, target_modules=targets, lora_dropout=0.05))
        works = True
    except ValueError:  # of which PEFT derives its own
        works = False
    assert (found(bench, "adapter") == []) == works


def test_families_whose_experts_are_adapted_are_pefts() -> None:
    from peft.utils import transformers_weight_conversion as peft_names

    known = {"mixtral", "qwen2_moe"} & set(peft_names._MOE_TARGET_MODULE_MAPPING)
    converted = {one for one, kind in peft_names._MODEL_TO_CONVERSION_PATTERN.items() if kind in known}
    assert set(EXPERTS_BY_NAME) <= converted


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"lora_target_modules": "self_attn"}, "self_attn is no linear layer", id="a-group-of-layers"),
        pytest.param({"lora_target_modules": "*.q_proj"}, "is no pattern: nothing to repeat", id="no-pattern"),
        pytest.param(
            {"lora_target_modules": r"layers\.0\..*q_proj"}, "fix:   set lora_target_modules: '.*layers", id="half-a-path"
        ),
        pytest.param({"lora_target_parameters": ["mlp.gate"]}, "would do nothing", id="parameters"),
        pytest.param({"lora_r": 128}, "lora_r 128 is larger than the model is wide (64)", id="rank"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_its_model(bench: Bench, settings: dict[str, Any], said: str) -> None:
    bench.settings |= {**LORA, **settings}
    assert said in "\n".join(found(bench, "adapter"))


def test_a_list_of_shards_that_is_broken_is_told_once(bench: Bench) -> None:
    shard(bench.model)
    (bench.model / "model.safetensors.index.json").write_text("{")
    (told,) = found(bench, "model_files")
    assert "model.safetensors.index.json is broken" in told


def test_a_whole_file_beside_an_old_list_is_what_is_read(bench: Bench) -> None:
    (bench.model / "model.safetensors.index.json").write_text(
        '{"weight_map": {"old": "model-00001-of-00002.safetensors"}}'
    )
    (told,) = found(bench, "model_files")
    assert told.startswith("warning: model.safetensors and model.safetensors.index.json both lie in")


def test_weights_that_are_quantised_already_are_trained_with_an_adapter(bench: Bench) -> None:
    bench.edit("config.json", lambda one: one.update(quantization_config={"quant_method": "awq", "bits": 4}))
    bench.settings |= LORA
    assert found(bench, "model_kind") == []
    bench.edit("config.json", lambda one: one.update(quantization_config={"quant_method": "higgs"}))
    assert "is quantised as higgs, which nothing can train" in found(bench, "model_kind")[0]
    bench.edit("config.json", lambda one: one.update(quantization_config={"quant_method": "mxfp4"}))
    assert found(bench, "model_kind")[0].startswith("warning: ")


def test_code_of_its_own_that_is_trusted_is_not_judged(bench: Bench) -> None:
    own = {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": {"AutoConfig": "c.Own"}}
    bench.edit("config.json", lambda one: one.update(own))
    bench.settings["trust_remote_code"] = True
    assert found(bench, "model_kind") == []


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 32768,
                "rope_parameters": {"factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 8192, "rope_scaling": None}, 8192),
        ({}, None),
    ],
)
def test_positions_are_stretched_as_the_configuration_says(
    config: dict[str, Any], positions: int | None
) -> None:
    assert _positions(config) == positions


def test_rows_are_counted_where_there_is_one_embedding() -> None:
    one = Tensor("model.embed_tokens.weight", (32000, 64), "BF16")
    assert embedding_rows([one, Tensor("lm_head.weight", (32000, 64), "BF16")]) == 32000
    assert embedding_rows([one, Tensor("other.embed_tokens.weight", (8, 64), "BF16")]) is None
    assert embedding_rows([Tensor("model.embed_tokens.weight", (32000, 64), "U8")]) is None


def test_the_vocabulary_is_read_without_the_tokenizer(tiny_model: Path) -> None:
    vocabulary = read_vocabulary(tiny_model)
    assert vocabulary is not None
    assert (vocabulary.id_of("<|im_end|>"), vocabulary.id_of("<|eot_id|>")) == (2, None)
    assert vocabulary.special is not None
    assert vocabulary.special["eos_token"] == "<|im_end|>"
    assert vocabulary.stops == {2}
    assert "<|im_start|>" in str(vocabulary.template)


def test_the_libraries_sources_say_what_they_know() -> None:
    """Read from files whose form is theirs to change: empty, all that depends on them falls silent."""
    assert {"llama", "qwen3", "gpt2", "mixtral", "t5"} <= installed.model_types()
    assert installed.causal_models()["llama"] == "LlamaForCausalLM"
    assert len(installed.causal_models()) > 100
    assert installed.has_architecture("LlamaForSequenceClassification")
    assert not installed.has_architecture("LlamaForNothing")
    assert (installed.lora_targets() or {})["llama"] == ["q_proj", "v_proj"]
