"""Data that is well formed and cannot be trained as the run file says: templates, lengths, tokenizers, losses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tiny

CHAT = tiny.chats(3)
LONG = {"messages": [{"role": "user", "content": "why " * 400}, {"role": "assistant", "content": "So."}]}
TEXTS = [{"text": "plain"}] * 2
PAIRS = [{"prompt": "Hi", "completion": "Hello"}]


@dataclass(frozen=True, slots=True)
class BadSettings:
    """One bad input.

    Attributes:
        files: data by name, under `{here}`; `rows.jsonl` is the data set unless the settings name another.
        message: the whole of it; `{here}` stands for the directory, `{model}` for the model's.
        model: changes a copy of the model's directory.
        words: flags of the command.
    """

    name: str
    what_it_is: str
    settings: Mapping[str, Any]
    message: str
    files: Mapping[str, Any] | None = None
    model: Callable[[Path], None] | None = None
    words: tuple[str, ...] = ()

    def build(self, here: Path, model: Path) -> dict[str, Any]:
        """Write the files, and return the settings."""
        for name, content in ({"rows.jsonl": CHAT} | dict(self.files or {})).items():
            text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            (here / name).write_text(text)
        if self.model is not None:
            shutil.copytree(model, here / "model")
            self.model(here / "model")
            model = here / "model"
        named = {
            key: value.replace("{here}", str(here)) if isinstance(value, str) else value
            for key, value in self.settings.items()
        }
        return {"model_name_or_path": str(model), "dataset_name": str(here / "rows.jsonl"), **named}


def _without_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


BAD_SETTINGS = [
    BadSettings(
        "template syntax",
        "a chat template that is no template",
        {"chat_template_path": "{here}/mine.jinja"},
        "the chat template is broken at its line 2: Unexpected end of template. Jinja was looking for the following"
        " tags: 'endfor' or 'else'. The innermost block that needs to be closed is 'for'.\n"
        "  where: {here}/mine.jinja:2\n  fix:   mend the template",
        files={"mine.jinja": "{% for message in messages %}\n{{ message.content }}"},
    ),
    BadSettings(
        "template raises",
        "a chat template that raises",
        {"chat_template": "{{ raise_exception('only users speak here') }}"},
        "the chat template refuses the row: only users speak here (and 2 more rows: refused by the chat template)\n"
        "  where: {here}/rows.jsonl:1\n"
        "  fix:   mend the row, or set chat_template_path to a template that takes it",
    ),
    BadSettings(
        "template missing",
        "a chat template file that is not there",
        {"chat_template_path": "{here}/gone.jinja"},
        "the chat template cannot be read: [Errno 2] No such file or directory: '{here}/gone.jinja'\n"
        "  where: chat_template_path\n  fix:   name a text file with the template, or a model's directory",
    ),
    BadSettings(
        "two templates",
        "two chat templates at once",
        {"chat_template_path": "{here}/mine.jinja", "chat_template": "{{ messages }}"},
        "chat_template and chat_template_path are both set\n  where: chat_template\n  fix:   keep one",
        files={"mine.jinja": "{{ messages }}"},
    ),
    BadSettings(
        "no template",
        "chats for a tokenizer without a chat template",
        {},
        "the tokenizer has no chat template (and 2 more rows: no chat template)\n  where: {here}/rows.jsonl:1\n"
        "  fix:   set chat_template_path to a template or to a model that has one, or give dataset_mapping with"
        " prompt and completion as plain text",
        model=_without_template,
    ),
    BadSettings(
        "tokenizer broken",
        "a tokenizer.json that was not fetched whole",
        {},
        "the tokenizer of {model} cannot be read: Unknown tokenizer version '1' at line 1 column 15\n"
        "  where: {model}/tokenizer.json\n  fix:   fetch the model again",
        model=lambda model: (model / "tokenizer.json").write_text('{"version": "1"'),  # type: ignore[arg-type,return-value]
    ),
    BadSettings(
        "prompts too long",
        "all prompts longer than max_length",
        {"max_length": 64, "assistant_only_loss": True},
        "no row of the train split is left to train, all 2 are dropped\n"
        "max_length leaves none of the row's trained tokens: it has 1622 tokens (and 1 more row: answer lost to"
        " max_length)\n  where: {here}/rows.jsonl:1\n"
        "  fix:   set max_length to at least 1622, or truncation_mode: keep_end",
        files={"rows.jsonl": [LONG, LONG]},
    ),
    BadSettings(
        "answers cut",
        "answers cut off in more than the stated share of rows",
        {"max_length": 32, "assistant_only_loss": True},
        "max_length 32 cuts the answer off in 2 of 3 rows of the train split (67%, and max_cut_answers accepts 20%)\n"
        "  where: max_length\n"
        "  fix:   set max_length: 38 (99% of these rows fit), or packing_strategy: bfd_split with packing, or"
        " max_cut_answers: 1 if that is meant",
    ),
    BadSettings(
        "loss on no assistant",
        "assistant_only_loss on plain text",
        {"assistant_only_loss": True},
        "assistant_only_loss needs chats, and the row is none (and 1 more row: no chat)\n"
        "  where: {here}/rows.jsonl:1\n"
        "  fix:   remove it; for columns prompt and completion the loss is on the completion alone",
        files={"rows.jsonl": TEXTS},
    ),
    BadSettings(
        "loss on no completion",
        "completion_only_loss on chats",
        {"completion_only_loss": True},
        "completion_only_loss has no effect: the row has no prompt and completion (and 2 more rows: no completion)\n"
        "  where: {here}/rows.jsonl:1\n  fix:   remove it; for chats set assistant_only_loss: true",
    ),
    BadSettings(
        "two shapes",
        "a directory with rows of two shapes",
        {"dataset_name": "{here}/both"},
        "{here}/both has rows of 2 shapes: messages (first at {here}/both/a.jsonl:1), text (first at"
        " {here}/both/b.jsonl:1)\n  where: {here}/both/b.jsonl:1\n"
        "  fix:   make them one shape, or name them as the parts of a mixture under datasets:",
        files={"both/a.jsonl": CHAT, "both/b.jsonl": TEXTS},
    ),
    BadSettings(
        "special token refused",
        "content that spells a special token, where that is refused",
        {"special_tokens_in_content": "refuse"},
        "the content spells a special token\n  where: {here}/rows.jsonl:1\n"
        "  fix:   remove it from the text, or set special_tokens_in_content: text",
        files={
            "rows.jsonl": [
                {
                    "messages": [
                        {"role": "user", "content": "What is <|im_end|>?"},
                        {"role": "assistant", "content": "The end."},
                    ]
                },
                CHAT[0],
            ]
        },
        words=("--strict",),
    ),
    BadSettings(
        "tokens of another model",
        "tokenized rows whose ids the vocabulary lacks",
        {},
        "input_ids holds 9999, and the vocabulary has 512 tokens\n  where: {here}/rows.jsonl:1\n"
        "  fix:   tokenize the set with this model's tokenizer",
        files={"rows.jsonl": [{"input_ids": [1, 9999]}]},
    ),
    BadSettings(
        "end token",
        "an end-of-sequence token that the vocabulary lacks",
        {"eos_token": "</s>"},
        "the vocabulary has no token '</s>'\n  where: eos_token\n  fix:   name a token that the tokenizer has",
    ),
    BadSettings(
        "streamed",
        "a streamed set that is to be prepared",
        {"dataset_streaming": True},
        "dataset_streaming: rows are read while training, so nothing can be prepared or counted\n"
        "  where: dataset_streaming\n  fix:   remove it",
    ),
    BadSettings(
        "no model",
        "a model directory that is not there",
        {"model_name_or_path": "{here}/gone"},
        "there is no model at {here}/gone\n  where: model_name_or_path\n  fix:   check the path",
    ),
]
