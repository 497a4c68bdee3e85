"""Merging, through the function, and the merged directory loaded alone in another process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft.export.merge import MergeReport, merge
from sft.export.source import Quantization
from tests import tiny
from tests.export.adapters import write_adapter, write_run

QLORA = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "dtype": "bfloat16"}
PROMPT = torch.arange(3, 40).unsqueeze(0)


@pytest.fixture(scope="session")
def bf16_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("bf16") / "model", dtype="bfloat16")


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("untied") / "model", tied=False)


def logits(directory: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return model(PROMPT).logits


def adapted_logits(base: Path, adapter: Path, rows: int | None = None) -> torch.Tensor:
    from peft import PeftModel

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, adapter).eval()(PROMPT).logits


def assert_merged(report: MergeReport, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert report.adapter_effect > 0.05
    assert report.max_difference <= report.bound
    torch.testing.assert_close(logits(report.output), expected, rtol=0, atol=tolerance)


ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "regex_and_bias": {"target_modules": r".*\.(q_proj|down_proj)", "bias": "lora_only"},
    "saved_head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved_embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved_norms": {"modules_to_save": ["input_layernorm"]},
    "adapted_embeddings": {"target_modules": ["embed_tokens", "v_proj"]},
    "token_rows": {"trainable_token_indices": [5, 7, 11]},
    "saved_tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_merged_model_answers_as_base_and_adapter_do(
    kind: str, tied: bool, tiny_model: Path, untied_model: Path, tmp_path: Path
) -> None:
    if kind == "saved_tied" and not tied:
        kind = "lora"
    base = tiny_model if tied else untied_model
    adapter = write_adapter(base, tmp_path / "adapter", **ADAPTERS[kind])

    report = merge(adapter, tmp_path / "merged")

    assert_merged(report, adapted_logits(base, adapter))
    # PEFT changes both ends of tied embeddings for these, and one end for the others.
    still_tied = tied and kind not in ("saved_head", "saved_embeddings", "adapted_embeddings")
    assert report.tied_embeddings is still_tied
    assert json.loads((report.output / "config.json").read_text())["tie_word_embeddings"] is still_tied


def test_embeddings_resized_for_new_tokens_come_along(tiny_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter", resize_to=530)

    report = merge(adapter, tmp_path / "merged")

    assert_merged(report, adapted_logits(tiny_model, adapter, rows=530))
    assert json.loads((report.output / "config.json").read_text())["vocab_size"] == 530


def test_a_qlora_run_goes_into_the_dequantised_base(bf16_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(bf16_model, tmp_path / "run")
    write_run(adapter, model_name_or_path=str(bf16_model), **QLORA)

    dequantized = merge(adapter, tmp_path / "dequantized")
    original = merge(adapter, tmp_path / "original", into="original")

    assert (dequantized.into, original.into) == ("dequantized", "original")
    assert dequantized.quantization == "4-bit nf4"
    assert dequantized.trained_difference is not None
    assert original.trained_difference is not None
    assert dequantized.trained_difference < original.trained_difference / 4
    assert "quantization_config" not in json.loads((dequantized.output / "config.json").read_text())
    assert (logits(dequantized.output) - logits(original.output)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        (Quantization(bits=4, quant_type="fp4", load_dtype="bfloat16"), "4-bit fp4"),
        (Quantization(bits=4, double=True, load_dtype="bfloat16"), "4-bit nf4, double quantised"),
        (Quantization(bits=8, load_dtype="bfloat16"), "8-bit"),
    ],
    ids=str,
)
def test_a_bare_adapter_is_merged_as_it_is_said_to_have_been_trained(
    quantization: Quantization, words: str, bf16_model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(bf16_model, tmp_path / "adapter", use_dora=quantization.bits == 4)

    report = merge(adapter, tmp_path / "merged", quantization=quantization)

    assert report.quantization == words
    assert report.into == "dequantized"
    assert report.unrounded_difference is not None
    assert report.unrounded_difference < 1e-4
    assert report.max_difference <= report.bound


def test_the_dequantised_weights_are_the_trained_ones_exactly(bf16_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(bf16_model, tmp_path / "adapter")

    report = merge(
        adapter,
        tmp_path / "merged",
        dtype="float32",
        quantization=Quantization(bits=4, double=True, load_dtype="float32"),
    )

    assert report.trained_difference is not None
    assert report.trained_difference < 1e-5


def test_a_base_stored_quantised_is_dequantised_unasked(bf16_model: Path, tmp_path: Path) -> None:
    from transformers import BitsAndBytesConfig

    stored = tmp_path / "stored"
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    AutoModelForCausalLM.from_pretrained(
        bf16_model, quantization_config=settings, device_map={"": "cpu"}
    ).save_pretrained(stored)
    adapter = write_adapter(bf16_model, tmp_path / "adapter")

    report = merge(adapter, tmp_path / "merged", base=str(stored))

    assert report.quantization == "4-bit nf4, double quantised"
    assert "quantization_config" not in json.loads((report.output / "config.json").read_text())


def test_a_sharded_bfloat16_base_keeps_its_type_tokenizer_and_settings(
    bf16_model: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(bf16_model, base)
    (base / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(bf16_model).save_pretrained(base, max_shard_size="100KB")
    assert len(list(base.glob("model-*.safetensors"))) > 1
    settings = json.loads((base / "generation_config.json").read_text()) | {"do_sample": True, "top_k": 7}
    (base / "generation_config.json").write_text(json.dumps(settings))
    adapter = write_adapter(base, tmp_path / "adapter")

    report = merge(adapter, tmp_path / "merged")

    assert report.dtype == "bfloat16"
    assert 0 < report.max_difference <= report.bound
    model = AutoModelForCausalLM.from_pretrained(report.output)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert (model.generation_config.do_sample, model.generation_config.top_k) == (True, 7)
    before, after = (AutoTokenizer.from_pretrained(path) for path in (base, report.output))
    assert (after.get_vocab(), after.chat_template) == (before.get_vocab(), before.chat_template)
    assert (after.eos_token_id, after.pad_token_id) == (before.eos_token_id, before.pad_token_id)


def test_the_adapters_tokenizer_and_its_end_of_sequence_win(tiny_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.eos_token = "<|im_start|>"
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer.save_pretrained(adapter)
    said: list[str] = []

    report = merge(adapter, tmp_path / "merged", say=said.append)

    assert AutoTokenizer.from_pretrained(report.output).chat_template == tokenizer.chat_template
    assert json.loads((report.output / "generation_config.json").read_text())["eos_token_id"] == [1, 2]
    assert (
        "generation_config.json: token 1, the adapter's tokenizer's end of sequence, was added to eos_token_id"
        in said
    )


def test_a_base_without_tokenizer_is_compared_on_token_ids(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base, ignore=shutil.ignore_patterns("tokenizer*", "*.jinja", "special*"))
    adapter = write_adapter(base, tmp_path / "adapter")

    assert_merged(merge(adapter, tmp_path / "merged"), adapted_logits(base, adapter))


def test_memory_for_one_copy_in_the_bases_type_is_enough(
    bf16_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(bf16_model, tmp_path / "adapter", use_dora=True)
    plenty = merge(adapter, tmp_path / "plenty")
    monkeypatch.setattr("sft.export.base.available_memory_bytes", lambda: plenty.parameters * 3)
    said: list[str] = []

    scarce = merge(adapter, tmp_path / "scarce", say=said.append)

    assert "computing in bfloat16: the model does not fit in memory as float32" in said
    assert scarce.unrounded_difference is None
    torch.testing.assert_close(logits(scarce.output), logits(plenty.output), rtol=0, atol=0)


def test_experts_adapted_as_parameters_are_merged(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=512, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, max_position_embeddings=128,
    )  # fmt: skip
    base = tmp_path / "moe"
    MixtralForCausalLM(config).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(base)
    adapter = write_adapter(
        base,
        tmp_path / "adapter",
        target_modules=["q_proj"],
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
    )

    assert_merged(merge(adapter, tmp_path / "merged"), adapted_logits(base, adapter))


ALONE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], return_tensors="pt", return_dict=True)
print(type(model).__name__, tuple(model(**ids).logits.shape)[-1])
"""


def test_the_merged_directory_stands_alone(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    adapter = write_adapter(base, tmp_path / "adapter")
    report = merge(adapter, tmp_path / "merged")
    shutil.rmtree(base)
    shutil.rmtree(adapter)

    alone = subprocess.run([sys.executable, "-c", ALONE, str(report.output)], capture_output=True, text=True)

    assert alone.stdout == "LlamaForCausalLM 512\n", alone.stderr
    names = {path.name for path in report.output.iterdir()}
    assert not [name for name in names if "adapter" in name or name.endswith((".bin", ".pt", ".py"))]
    for path in report.output.glob("*.json*"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path
    assert "_name_or_path" not in json.loads((report.output / "config.json").read_text())
