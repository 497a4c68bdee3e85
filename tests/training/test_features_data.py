"""Which tokens carry loss: packing, completions, answers, and a formatting function of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sft.errors import ExitCode, UserError
from tests import tiny
from tests.training.conftest import Train

EPOCH = {"num_train_epochs": 1, "max_steps": -1}
ROWS = tiny.chats(12)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def twelve(tmp_path: Path) -> str:
    return str(tiny.write_rows(tmp_path / "twelve.jsonl", ROWS))


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """The same chats as prompt and completion."""
    rows = [{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in ROWS]
    return str(tiny.write_rows(tmp_path / "pairs.jsonl", rows))


def lengths(tokenizer: Any) -> list[int]:
    """Tokens of each chat, by the template alone."""
    return [
        len(tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]) for row in ROWS
    ]


def answer_tokens(tokenizer: Any) -> int:
    """Tokens of the answers: each begins after the generation prompt and ends with <|im_end|>."""
    return sum(
        len(tokenizer(row["messages"][1]["content"] + "<|im_end|>", add_special_tokens=False)["input_ids"])
        for row in ROWS
    )


def test_without_a_choice_every_token_but_the_first_is_predicted(
    train: Train, twelve: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    trained = train(dataset_name=twelve, **EPOCH)
    assert trained.trained_tokens == sum(lengths(tokenizer)) - 12


def test_assistant_only_loss_is_on_the_answers(
    train: Train, twelve: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    trained = train(dataset_name=twelve, assistant_only_loss=True, **EPOCH)
    assert trained.trained_tokens == answer_tokens(tokenizer) < sum(lengths(tokenizer)) / 2


def test_completion_only_loss_is_on_the_completions(
    train: Train, pairs: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """TRL's default for prompts and completions. Here a completion ends with the template's line break."""
    completions = sum(lengths(tokenizer)) - sum(
        len(
            tokenizer.apply_chat_template(row["messages"][:1], add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        )
        for row in ROWS
    )
    assert train(dataset_name=pairs, **EPOCH).trained_tokens == completions
    assert train(dataset_name=pairs, completion_only_loss=True, **EPOCH).trained_tokens == completions
    whole = train(dataset_name=pairs, completion_only_loss=False, **EPOCH).trained_tokens
    assert whole == sum(lengths(tokenizer)) - 12


def test_packing_bfd_trains_the_same_tokens_in_fewer_rows(
    train: Train, twelve: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    trained = train(dataset_name=twelve, packing=True, per_device_train_batch_size=1, **EPOCH)
    rows = len(trained.trainer.train_dataset)
    assert -(-sum(lengths(tokenizer)) // 128) <= rows < 12
    assert trained.of_kind("end")[0]["step"] == rows
    # A sample's first token is predicted by nothing, wherever it lies in a row.
    assert trained.trained_tokens == sum(lengths(tokenizer)) - 12


def test_packing_bfd_cuts_what_is_too_long_and_bfd_split_keeps_it(
    train: Train, twelve: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    common = {"dataset_name": twelve, "packing": True, "max_length": 24, "max_cut_answers": 1, **EPOCH}
    cut, split = (train(packing_strategy=name, **common) for name in ("bfd", "bfd_split"))
    assert max(lengths(tokenizer)) > 24
    assert cut.trained_tokens == sum(min(length, 24) - 1 for length in lengths(tokenizer))
    pieces = sum(-(-length // 24) for length in lengths(tokenizer))
    assert split.trained_tokens == sum(lengths(tokenizer)) - pieces


def test_packing_wrapped_is_one_stream_cut_anywhere(
    train: Train, twelve: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    trained = train(
        dataset_name=twelve,
        packing=True,
        packing_strategy="wrapped",
        allow_sample_mixing=True,
        max_length=32,
        **EPOCH,
    )
    stream = sum(lengths(tokenizer))
    assert [len(row) for row in trained.trainer.train_dataset["input_ids"]][:-1] == [32] * (stream // 32)
    assert trained.trained_tokens == stream - -(-stream // 32)


def test_packed_answers_are_the_same_answers(
    train: Train, twelve: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    trained = train(dataset_name=twelve, packing=True, assistant_only_loss=True, **EPOCH)
    assert trained.trained_tokens == answer_tokens(tokenizer)


def test_accumulated_micro_batches_train_the_same_tokens_to_the_same_loss(train: Train, twelve: str) -> None:
    whole = train(dataset_name=twelve, total_train_batch_size=4, **EPOCH)
    parts = train(dataset_name=twelve, total_train_batch_size=4, per_device_train_batch_size=1, **EPOCH)
    assert parts.trainer.args.gradient_accumulation_steps == 4
    assert parts.trained_tokens == whole.trained_tokens
    assert parts.losses == pytest.approx(whole.losses, abs=1e-4)


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (
            "completion_only_loss",
            "completion_only_loss has no effect: the row has no prompt and completion "
            "(and 11 more rows: no completion)\n  where: {rows}:1\n"
            "  fix:   remove it; for chats set assistant_only_loss: true",
        ),
        (
            "assistant_only_loss",
            "assistant_only_loss needs chats, and the row is none (and 3 more rows: no chat)\n  where: {rows}:1\n"
            "  fix:   remove it; for columns prompt and completion the loss is on the completion alone",
        ),
    ],
)
def test_loss_on_a_part_that_the_rows_do_not_have_is_refused(
    train: Train, tmp_path: Path, setting: str, text: str
) -> None:
    rows = ROWS if setting == "completion_only_loss" else [{"text": "plain"}] * 4
    data = tiny.write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError) as caught:
        train(dataset_name=str(data), **{setting: True})
    assert (caught.value.exit_code, str(caught.value)) == (ExitCode.USAGE, text.format(rows=data))


def test_formatting_function_from_a_file(
    train: Train, twelve: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "mine.py").write_text(
        "def to_text(row):\n    return 'Q: ' + row['messages'][0]['content'] + ' A: ' + row['messages'][1]['content']\n"
    )
    trained = train(dataset_name=twelve, formatting_func=f"{tmp_path / 'mine.py'}:to_text", **EPOCH)
    texts = [f"Q: {row['messages'][0]['content']} A: {row['messages'][1]['content']}" for row in ROWS]
    # TRL ends plain text with the end token; the first token is predicted by nothing.
    expected = sum(len(tokenizer(text)["input_ids"]) + 1 - 1 for text in texts)
    assert trained.trained_tokens == expected
