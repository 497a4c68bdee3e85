"""Ids and labels beside those of TRL's own preparation, row by row, through a real SFTTrainer.

They are the same, but for two things. A prompt whose tokens change when the completion follows: TRL trains from the
first token that changed, we from the first that holds a character of the completion; only ours leaves the prompt out,
and no recipe meets it, as both begin at the same token unless the change reaches further back. And a last character of
several tokens, of which transformers' mask leaves out all but the first: see test_the_last_bytes_of_an_answer.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sft.data.convert import Converter, ConvertSettings
from sft.data.encode import Encoded, Encoder
from sft.data.loss import EncodeSettings
from sft.data.sample import BadRow, Chat
from sft.data.tokenizer import read_tokenizer
from tests.data.shipped import CONVERSATIONS, WEATHER, files_for, trl_templates

TURN = [
    {"role": "user", "content": "Hi \U0001f916 there"},
    {"role": "assistant", "content": "Good day, you."},
]
TITLES = ("single", "system", "turns", "empty question", "white space", "quotes", "late system", "user last")
CHATS = [{"messages": CONVERSATIONS[title]["messages"]} for title in TITLES]
PAIRS = [
    {"prompt": "What is 2 and 2?\n", "completion": "It is 4."},
    {"prompt": "Hello wor", "completion": "ld, it is number 7"},
    {"prompt": "", "completion": "Nothing before."},
    {"prompt": "Ends ", "completion": "with its end<|im_end|>"},
    {"prompt": "Ünïcode 你", "completion": "好 \U0001f600"},
]
CHAT_PAIRS = [
    {"prompt": TURN[:1], "completion": TURN[1:]},
    {"prompt": [*TURN, TURN[0]], "completion": [{"role": "assistant", "content": "Again."}]},
    {"prompt": TURN[:1], "completion": [TURN[1], TURN[0], {"role": "assistant", "content": "Twice."}]},
]
TEXTS = [{"text": "One text about lists."}, {"text": "Ends itself<|im_end|>"}, {"text": "  \n white 世界"}]
LONG = [{"messages": [TURN[0], {"role": "assistant", "content": "word " * count}]} for count in (3, 40, 90)]
LONG += [{"messages": [{"role": "user", "content": "ask " * 90}, TURN[1]]}]

CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "chats": (CHATS, {}),
    "chats, assistant only": (CHATS, {"assistant_only_loss": True}),
    "chats, completion only": (CHATS, {"completion_only_loss": True}),
    "tools": ([{"messages": TURN, "tools": [WEATHER]}] * 2, {"assistant_only_loss": True}),
    "texts": (TEXTS, {}),
    "pairs": (PAIRS, {}),
    "pairs, completion only": (PAIRS, {"completion_only_loss": True}),
    "pairs, all": (PAIRS, {"completion_only_loss": False}),
    "chat pairs": (CHAT_PAIRS, {}),
    "chat pairs, all": (CHAT_PAIRS, {"completion_only_loss": False}),
    "chat pairs, assistant only": (CHAT_PAIRS, {"assistant_only_loss": True}),
    "chat pairs, assistant only in all": (
        CHAT_PAIRS,
        {"assistant_only_loss": True, "completion_only_loss": False},
    ),
    "texts, another end": (TEXTS, {"eos_token": "<|endoftext|>"}),
    "long": (LONG, {"max_length": 48, "assistant_only_loss": True}),
    "long, keep end": (LONG, {"max_length": 48, "truncation_mode": "keep_end", "assistant_only_loss": True}),
}

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model)


def _trainer(
    model: Any,
    tiny_model: Path,
    rows: list[dict[str, Any]],
    tmp_path: Path,
    tokenizer: Any = None,
    **settings: Any,
) -> Any:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        **settings,
    )
    return SFTTrainer(
        model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer or AutoTokenizer.from_pretrained(tiny_model),
    )


def _ours(tiny_model: Path, rows: list[dict[str, Any]], **settings: Any) -> list[Encoded | BadRow]:
    converter = Converter(ConvertSettings())
    encoder = Encoder(read_tokenizer(str(tiny_model)), EncodeSettings(**{"max_length": 1024, **settings}))
    return encoder.encode([converter.convert(row)[1] for row in rows])


def _labels(row: Encoded) -> list[int]:
    return [token if mask else -100 for token, mask in zip(row.ids, row.mask, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_ids_and_labels_are_those_of_trl(name: str, model: Any, tiny_model: Path, tmp_path: Path) -> None:
    rows, settings = CASES[name]
    theirs = _trainer(model, tiny_model, rows, tmp_path, **settings).train_dataset
    ours = [
        row
        for row in _ours(tiny_model, rows, **settings)
        if isinstance(row, Encoded) and row.answer != "lost"
    ]
    assert [row.ids.tolist() for row in ours] == list(theirs["input_ids"])
    assert [_labels(row) for row in ours] == list(theirs["labels"])
    assert len(ours) >= len(rows) - 1


def test_answers_that_truncation_cuts_are_counted(tiny_model: Path) -> None:
    cuts = {
        mode: [
            row.answer
            for row in _ours(tiny_model, LONG, max_length=48, truncation_mode=mode, assistant_only_loss=True)
            if isinstance(row, Encoded)
        ]
        for mode in ("keep_start", "keep_end")
    }
    assert cuts == {
        "keep_start": ["whole", "cut", "cut", "lost"],
        "keep_end": ["whole", "cut", "cut", "whole"],
    }


def test_where_tokens_join_over_the_edge_the_shared_token_is_trained(tiny_model: Path) -> None:
    (row,) = _ours(tiny_model, [{"prompt": "Number 7 about li", "completion": "sts is it."}])
    assert isinstance(row, Encoded)
    tokenizer = read_tokenizer(str(tiny_model)).build()
    trained = [token for token, mask in zip(row.ids, row.mask, strict=True) if mask]
    assert tokenizer.decode(trained, skip_special_tokens=False) == " lists is it.<|im_end|>"


def test_the_last_bytes_of_an_answer_carry_loss(model: Any, tiny_model: Path, tmp_path: Path) -> None:
    """The tiny vocabulary has no token for the robot: its four bytes are four tokens, and the model must learn them."""
    template = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}"
    )
    rows = [{"messages": [TURN[1], {"role": "assistant", "content": "A robot: \U0001f916"}]}]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    theirs = _trainer(model, tiny_model, rows, tmp_path, tokenizer, assistant_only_loss=True).train_dataset[0]
    files = replace(read_tokenizer(str(tiny_model)), templates={"default": template})
    (ours,) = Encoder(files, EncodeSettings(assistant_only_loss=True)).encode([Chat(rows[0]["messages"])])
    assert isinstance(ours, Encoded)
    assert ours.ids.tolist() == theirs["input_ids"]
    differing = [
        at
        for at, (one, other) in enumerate(zip(_labels(ours), theirs["labels"], strict=True))
        if one != other
    ]
    end = len(ours.ids) - 1
    assert differing == [end - 3, end - 2, end - 1]
    assert [theirs["labels"][at] for at in differing] == [-100] * 3
    learnt = [label for label in _labels(ours) if label != -100]
    assert tokenizer.decode(learnt) == "Good day, you.A robot: \U0001f916"
    assert tokenizer.decode([label for label in theirs["labels"] if label != -100]).endswith("\ufffd")


@pytest.mark.parametrize("pad", ["<|im_end|>", None])
def test_pad_may_be_the_end_of_the_turn(
    pad: str | None, model: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """Padding is told by its place: the end of every turn keeps its label, whatever the pad token is."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    size = len(tokenizer)
    tokenizer.pad_token = pad
    trainer = _trainer(model, tiny_model, CHATS[:3], tmp_path, tokenizer, assistant_only_loss=True)
    assert trainer.processing_class.pad_token == "<|im_end|>"
    assert (len(trainer.processing_class), trainer.model.get_input_embeddings().num_embeddings) == (size, 512)
    ours = [row for row in _ours(tiny_model, CHATS[:3], assistant_only_loss=True) if isinstance(row, Encoded)]
    rows = [{"input_ids": row.ids.tolist(), "labels": _labels(row)} for row in ours]
    batch = trainer.data_collator(rows)
    end = tokenizer.eos_token_id
    for row, labels, ids in zip(rows, batch["labels"].tolist(), batch["input_ids"].tolist(), strict=True):
        count = len(row["labels"])
        assert labels == row["labels"] + [-100] * (len(labels) - count)
        assert ids[count:] == [end] * (len(ids) - count)
        assert end in labels[:count]
    assert len({len(row["labels"]) for row in rows}) > 1


FLAGS = [
    ((None, None, None, False), True, ["First answer."]),
    ((None, False, None, True), True, ["Second answer."]),
    ((None, None, None, True), True, ["First answer.", "Second answer."]),
    ((None, None, None, False), False, ["One?", "First answer.", "Two?"]),
    ((False, None, None, None), False, ["First answer.", "Two?", "Second answer."]),
    ((False, False, None, None), False, ["Two?", "Second answer."]),
]


@pytest.mark.parametrize("template", ["marked", "unmarked"])
@pytest.mark.parametrize(("trained", "assistant_only", "learnt"), FLAGS)
def test_flags_of_messages_take_them_out_of_the_loss(
    trained: tuple[bool | None, ...], assistant_only: bool, learnt: list[str], template: str, tiny_model: Path
) -> None:
    files = read_tokenizer(str(tiny_model))
    if template == "unmarked":
        files = replace(files, templates={"default": SMOLLM2})
    messages = CONVERSATIONS["turns"]["messages"][:4]
    encoder = Encoder(files, EncodeSettings(assistant_only_loss=assistant_only))
    (row,) = encoder.encode([Chat(messages, trained=trained)])
    assert isinstance(row, Encoded)
    text = encoder.tokenizer.decode(
        [token if mask else 0 for token, mask in zip(row.ids, row.mask, strict=True)],
        skip_special_tokens=False,
    )
    said = [message["content"] for message in messages if message["content"] in text]
    assert said == learnt
    # The system message that the unmarked template brings goes with the first message.
    brought = template == "unmarked" and not assistant_only and trained[0] is None
    assert text.count("<|im_end|>") == len(learnt) + brought


@pytest.mark.parametrize("name", ["qwen3", "qwen2_5", "phi3"])
@pytest.mark.parametrize("rows", [CHATS[:3], CHAT_PAIRS], ids=["chats", "chat pairs"])
def test_with_a_training_template_ids_and_labels_are_those_of_trl(
    name: str, rows: list[dict[str, Any]], model: Any, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = trl_templates()[name]
    theirs = _trainer(model, tiny_model, rows, tmp_path, tokenizer, assistant_only_loss=True).train_dataset
    files = replace(read_tokenizer(str(tiny_model)), templates={"default": trl_templates()[name]})
    converter = Converter(ConvertSettings())
    samples = [converter.convert(row)[1] for row in rows]
    ours = Encoder(files, EncodeSettings(assistant_only_loss=True)).encode(samples)
    assert all(isinstance(row, Encoded) for row in ours)
    assert [row.ids.tolist() for row in ours if isinstance(row, Encoded)] == list(theirs["input_ids"])
    assert [_labels(row) for row in ours if isinstance(row, Encoded)] == list(theirs["labels"])


def test_flags_apply_to_a_training_template_and_to_one_that_marks_parts_of_turns() -> None:
    messages = CONVERSATIONS["turns"]["messages"][:4]
    for name in ("qwen3", "diffusion_gemma"):
        encoder = Encoder(files_for(trl_templates()[name]), EncodeSettings(assistant_only_loss=True))
        (row,) = encoder.encode([Chat(messages, trained=(None, False, None, None))])
        assert isinstance(row, Encoded)
        trained = [token for token, mask in zip(row.ids, row.mask, strict=True) if mask]
        text = encoder.tokenizer.decode(trained, skip_special_tokens=False)
        assert "Second answer." in text
        assert "First" not in text


def test_flags_are_refused_where_a_template_marks_no_turn_by_itself() -> None:
    template = (
        "{% for m in messages %}{{ m.role }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %} {% generation %}<|eos|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    encoder = Encoder(files_for(template), EncodeSettings(assistant_only_loss=True))
    (refused,) = encoder.encode([Chat(TURN, trained=(None, True))])
    assert isinstance(refused, BadRow)
    assert refused.what == (
        "messages say whether they are trained, and the chat template marks 2 parts of 1 turns of the assistant"
    )
