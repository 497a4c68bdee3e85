"""Prepared data enters the trainer as it is, is compared with transformers' own tokenizer, and is made once by ranks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer
from trl import SFTTrainer

from sft.data.prepare import ENTRY
from sft.errors import UserError
from tests import tiny
from tests.data.preparing import prepared, rows_of
from tests.training.conftest import Train
from tests.training.here import read_settings
from tests.training.launching import SFT
from tests.training.test_features_launched import TWO, accelerate


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_trl_neither_packs_nor_tokenizes_it_again(
    train: Train,
    tmp_path: Path,
    tiny_model: Path,
    tiny_chats: Path,
    monkeypatch: pytest.MonkeyPatch,
    packing: bool,
) -> None:
    def never(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError("TRL prepares the data again")

    monkeypatch.setattr(SFTTrainer, "_prepare_dataset", never)
    settings = {"packing": packing, "max_length": 128, "assistant_only_loss": True}
    trained = train(**settings, eval_strategy="steps", eval_steps=3, validation_fraction=0.1)
    entry = prepared(
        tmp_path,
        tiny_model,
        tiny_chats,
        **settings,
        eval_strategy="steps",
        eval_steps=3,
        validation_fraction=0.1,
    )

    seen = trained.trainer
    for split, dataset in (("train", seen.train_dataset), ("test", seen.eval_dataset)):
        assert [dict(row) for row in dataset] == rows_of(entry, split)
    batch = seen.data_collator([seen.train_dataset[index] for index in range(4)])
    assert ("position_ids" in batch) is packing
    kept = batch["labels"] != -100
    assert torch.equal(batch["labels"][kept], batch["input_ids"][kept])
    assert int(kept.sum()) < kept.numel() / 2


def test_rows_of_like_length_share_a_batch(train: Train, tmp_path: Path) -> None:
    rows = tiny.chats(64)
    for index, row in enumerate(rows):
        row["messages"][1]["content"] += " and so on" * (index % 8)
    data = str(tiny.write_rows(tmp_path / "rows.jsonl", rows))

    def padding(**settings: Any) -> float:
        trainer = train(dataset_name=data, max_length=256, **settings).trainer
        order, rows = list(trainer._get_train_sampler()), trainer.train_dataset
        batches = [order[start : start + 4] for start in range(0, len(order), 4)]
        masks = [
            trainer.data_collator([rows[index] for index in batch])["attention_mask"] for batch in batches
        ]
        return 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)

    assert padding(train_sampling_strategy="group_by_length") < padding() / 2


def test_data_of_another_tokenizer_is_refused_before_the_first_step(
    train: Train, tmp_path: Path, tiny_model: Path, tiny_chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where tokenizer.json is not what transformers makes of it."""
    entry = prepared(tmp_path, tiny_model, tiny_chats)
    manifest = json.loads((entry.directory / "manifest.json").read_text())
    ids = manifest["probes"]["train"][1]["ids"]
    ids[5] += 1
    (entry.directory / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setenv(ENTRY, str(entry.directory))

    with pytest.raises(UserError) as caught:
        train()

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    theirs = [*ids[:5], ids[5] - 1, *ids[6:]]
    assert str(caught.value) == (
        f"the train row {tiny_chats}:2 was prepared with other tokens than transformers gives it, from token 5 on: "
        f"{tokenizer.decode(ids[5:10])!r} and {tokenizer.decode(theirs[5:10])!r}\n"
        "  where: tokenizer_backend\n"
        "  fix:   set tokenizer_backend: transformers, which prepares the data through transformers"
    )


def test_two_ranks_launched_by_hand_with_a_cold_cache_prepare_once(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    read_settings(tmp_path, {**settings, "data_cache": str(tmp_path / "cache"), "max_steps": 1})
    done = accelerate(tmp_path, TWO)
    assert done.returncode == 0, done.stderr
    (entry,) = (tmp_path / "cache" / "prepared").iterdir()
    assert (entry / "manifest.json").exists()


@pytest.fixture
def other_template(tmp_path: Path, tiny_model: Path) -> Path:
    """The tiny tokenizer with a template of two tokens that the model lacks."""
    other = tmp_path / "other"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["<turn>", "</turn>"], special_tokens=True)
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("<|im_start|>", "<turn>").replace(
        "<|im_end|>", "</turn>"
    )
    tokenizer.eos_token = "</turn>"
    tokenizer.save_pretrained(other)
    (other / "config.json").write_text((tiny_model / "config.json").read_text())
    return other


@pytest.mark.parametrize("method", ["full", "lora"])
def test_tokens_that_a_template_brings_are_trained_and_saved(
    train: Train, tmp_path: Path, other_template: Path, method: str
) -> None:
    untied = tiny.write_tiny_model(tmp_path / "untied", tied=False)
    trained = train(
        model_name_or_path=str(untied),
        chat_template_path=str(other_template),
        assistant_only_loss=True,
        use_peft=method == "lora",
    )
    out, new = trained.run.output_dir, [512, 513]
    if method == "full":
        embeddings = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
        before = load_file(untied / "model.safetensors")["model.embed_tokens.weight"]
        assert embeddings.shape == (576, 64)
        assert before.shape == (512, 64)
    else:
        adapter = load_file(out / "adapter_model.safetensors")
        prefix = "base_model.model.model.embed_tokens.token_adapter"
        delta, start = (
            adapter[f"{prefix}.trainable_tokens_delta"],
            adapter[f"{prefix}.base_layer.weight"][512:],
        )
        assert ((delta - start)[:2].abs().amax(dim=1) > 0).all()
        assert adapter["base_model.model.lm_head.weight"].shape == (576, 64)
        done = subprocess.run(
            [*SFT, "merge", str(out), "--output", str(tmp_path / "merged")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        merged = load_file(tmp_path / "merged" / "model.safetensors")["model.embed_tokens.weight"]
        assert torch.equal(merged[new], delta[:2])
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids(["<turn>", "</turn>"]) == new
    assert tokenizer.eos_token == "</turn>"


def test_an_adapter_that_could_not_train_them_is_refused(train: Train, other_template: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(chat_template_path=str(other_template), use_peft=True)
    assert caught.value.problems[0].what == (
        f"the template of {other_template} needs tokens that the vocabulary lacks (<turn>, </turn>), and an adapter "
        "cannot train them where head and embeddings are tied"
    )


def test_prepared_data_says_which_tokens_it_brings(
    tmp_path: Path, tiny_model: Path, tiny_chats: Path, other_template: Path
) -> None:
    entry = prepared(tmp_path, tiny_model, tiny_chats, chat_template_path=str(other_template))
    assert entry.lines()[-1] == (
        "the chat template needs 2 tokens that the vocabulary lacks (<turn>, </turn>): the embeddings grow, and theirs "
        "are trained and saved"
    )


def test_a_run_that_streams_leaves_its_rows_to_trl_and_says_so(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    read_settings(tmp_path, {**settings, "dataset_streaming": True})
    done = subprocess.run(
        [*SFT, "check", str(tmp_path / "run.yaml")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "note: dataset_streaming: rows are read while training, so nothing can be prepared or counted"
        in done.stderr
    )
