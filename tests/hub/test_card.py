"""The card: whole, valid for the Hub, and without a word about this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sft.hub.card import CardFacts, card_problem, is_hub_id, render_card, write_card
from sft.rundir import RunDirectory

FACTS = CardFacts(
    title="chat-lora",
    method="QLoRA",
    repo="team/chat-lora",
    base_model="org/base-135M",
    datasets=("org/chats", "json", "/data/me/chats.jsonl", "chats.jsonl"),
    is_adapter=True,
    hyperparameters={
        "learning_rate": 0.0002,
        "packing": True,
        "max_length": 1024,
        "dataset": "/data/me/chats.jsonl",
    },
    adapter={"rank": 16, "alpha": 32, "targets": "q_proj, v_proj"},
    launch={"strategy": "zero2", "processes": 2},
    results={"eval_loss": 1.23456789, "train_loss": None},
    versions={"trl": "1.16.0"},
)

CARD = """\
---
base_model: "org/base-135M"
library_name: peft
pipeline_tag: text-generation
datasets:
- "org/chats"
tags:
- "lora"
- "sft"
- "trl"
- "base_model:adapter:org/base-135M"
---

# chat-lora

Supervised fine-tuning (QLoRA) of [org/base-135M](https://huggingface.co/org/base-135M) on [org/chats](https://huggingface.co/datasets/org/chats).

## Use

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("team/chat-lora")
tokenizer = AutoTokenizer.from_pretrained("team/chat-lora")
```

## Results

| | |
|---|---|
| eval_loss | 1.23457 |

## Adapter

| | |
|---|---|
| rank | 16 |
| alpha | 32 |
| targets | q_proj, v_proj |

## Hyperparameters

| | |
|---|---|
| learning_rate | 0.0002 |
| packing | yes |
| max_length | 1024 |

## Launch

| | |
|---|---|
| strategy | zero2 |
| processes | 2 |

## Versions

| | |
|---|---|
| trl | 1.16.0 |
"""


def test_the_card_of_an_adapter_is_whole() -> None:
    assert render_card(FACTS) == CARD


def test_a_local_base_model_is_not_named() -> None:
    facts = CardFacts(
        title="full",
        method="full",
        base_model="/data/models/Base",
        hyperparameters={"deepspeed": "~/zero.json"},
    )
    assert render_card(facts) == (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        'tags:\n- "sft"\n- "trl"\n---\n\n# full\n\n'
        "Supervised fine-tuning (full) of a base model that was not taken from the Hub on data that is not on the Hub.\n"
    )


def test_the_card_replaces_the_draft_that_names_the_local_base(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    draft = tmp_path / "README.md"
    draft.write_text("---\nbase_model: /data/models/base\n---\n")
    assert card_problem(draft.read_text(), run) == "its base_model is a local path"
    assert write_card(run, FACTS) == draft
    assert draft.read_text() == CARD
    assert card_problem(CARD, run) is None


@pytest.mark.parametrize("secret", ["hf_AbCdEfGhIjKlMnOpQrSt", "mySecretFromTheEnvironment"])
def test_a_secret_never_gets_into_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "mySecretFromTheEnvironment")
    facts = CardFacts(title="full", method="full", hyperparameters={"note": f"key {secret}"})
    assert secret not in render_card(facts)
    assert card_problem(f"# Card\n{secret}\n", RunDirectory(tmp_path)) == "it holds what looks like a token"


def test_a_local_path_in_a_card_is_found_and_what_only_looks_like_one_is_not(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for text in (
        f"{tmp_path}/x",
        "datasets:\n- /data/me/chats.jsonl",
        "`~/models/base`",
        'from_pretrained("/scratch/me/x")',
    ):
        assert card_problem(f"# Card\n{text}\n", run) == "it names a local path", text
    for text in (
        "and/or",
        "<br/></details>",
        "https://huggingface.co/org/base",
        "1/2 of it",
        "a /chat command",
    ):
        assert card_problem(f"# Card\n{text}\n", run) is None, text


def test_names_that_can_only_be_hub_ids_are_told_from_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    assert [is_hub_id(name) for name in ("gpt2", "org/base", "models/base", "./base", "a/b/c")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [is_hub_id(name, dataset=True) for name in ("imdb", "org/chats", "json", "chats.parquet")] == [
        True,
        True,
        False,
        False,
    ]
