"""One row as stock TRL takes it, and the tokens and labels that TRL would make of it. No torch.

What TRL 1.16 does of its own accord is done here again with the same tokenizer and the same templates, so that a row
for which it would train other tokens than the kit does is found before anything is written.

Source:
    `_prepare_dataset` of trl/trainer/sft_trainer.py; `apply_chat_template` of transformers/tokenization_utils_base.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from sft.data.block import Split
from sft.data.convert import Converter
from sft.data.encode import Encoder
from sft.data.readers.read import parse, read_blocks
from sft.data.sample import BadRow, Chat, PromptCompletion, Sample, Text, Tokens
from sft.data.settings import PrepareSettings
from sft.data.spans import training_template
from sft.data.template import ChatTemplate
from sft.data.tokenizer import TokenizerFiles
from sft.data.work import check_loss

ROWS_PER_BLOCK = 512


class UnsayableError(Exception):
    """Why TRL would train something else on a row that is given as text."""


@dataclass(frozen=True, slots=True)
class StockRow:
    """A row by TRL's own names. `kind` is what TRL tells sets apart by: the columns that hold what is trained."""

    kind: tuple[str, ...]
    row: dict[str, Any]


def stock_row(sample: Sample) -> StockRow:
    """Write a sample as one of the shapes that TRL reads.

    Raises:
        UnsayableError: it holds what those shapes have no place for, or what a table of rows would alter.
    """
    if isinstance(sample, Tokens):
        raise UnsayableError("the rows come tokenized")
    if isinstance(sample, Text):
        return StockRow(("text",), {"text": sample.text})
    if isinstance(sample, PromptCompletion):
        columns = ("prompt", "completion")
        return StockRow(columns, {"prompt": sample.prompt, "completion": sample.completion})
    if any(trained is not None for trained in sample.trained):
        raise UnsayableError("messages say for themselves whether they are trained")
    if sample.template_kwargs:
        raise UnsayableError("rows set variables of the chat template")
    for message in sample.messages:
        if set(message) != {"role", "content"} or not isinstance(message["content"], str):
            raise UnsayableError("messages hold more than role and content as text")
    messages = [{"role": message["role"], "content": message["content"]} for message in sample.messages]
    tools = {"tools": json.dumps(list(sample.tools), ensure_ascii=False)} if sample.tools else {}
    if sample.prompt_messages is None:
        return StockRow(("messages",), {"messages": messages, **tools})
    pair = {"prompt": messages[: sample.prompt_messages], "completion": messages[sample.prompt_messages :]}
    return StockRow(("prompt", "completion"), {**pair, **tools})


class StockTokens:
    """Tokens and labels as TRL makes them. One a run: it holds the tokenizer and the compiled templates."""

    def __init__(self, files: TokenizerFiles, *, assistant_only: bool, completion_only: bool) -> None:
        self._tokenizer = files.build()
        self._files = files
        self._assistant_only, self._completion_only = assistant_only, completion_only
        self._templates: dict[str, ChatTemplate] = {}

    def make(self, sample: Sample) -> tuple[list[int], list[bool]]:
        """Return the ids of a row before truncation, and which of them carry loss.

        Raises:
            UnsayableError: TRL would refuse the row.
        """
        if isinstance(sample, Text):
            ids = self._encode(self._ended(sample.text))
            return ids, [True] * len(ids)
        if isinstance(sample, PromptCompletion):
            ids = self._encode(sample.prompt + self._ended(sample.completion))
            return ids, self._completion(self._encode(sample.prompt), ids)
        assert isinstance(sample, Chat)
        return self._chat(sample)

    def _chat(self, chat: Chat) -> tuple[list[int], list[bool]]:
        template = self._template(bool(chat.tools))
        text, spans = template.render_with_spans(chat.messages, chat.tools)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        mask = [not self._assistant_only] * len(encoding.ids)
        for start, stop in spans if self._assistant_only else ():
            first, last = encoding.char_to_token(start), encoding.char_to_token(stop - 1)
            if first is None:
                break
            for place in range(first, last + 1 if last else len(mask)):
                mask[place] = True
        if chat.prompt_messages is not None:
            prompt = template.render(
                chat.messages[: chat.prompt_messages], chat.tools, add_generation_prompt=True
            )
            edge = self._completion(self._encode(prompt, add_special_tokens=False), encoding.ids)
            mask = [one and other for one, other in zip(mask, edge, strict=True)]
        return list(encoding.ids), mask

    def _template(self, has_tools: bool) -> ChatTemplate:
        text = self._files.template(has_tools)
        assert text is not None, "such rows are refused before"
        if text not in self._templates:
            template = ChatTemplate(text, self._files.special)
            if self._assistant_only and not template.has_markers:
                found = training_template(text) if len(self._files.templates) == 1 else None
                if found is None:
                    raise UnsayableError(
                        "the chat template has no generation markers and TRL no training template for it, so that"
                        " it refuses assistant_only_loss"
                    )
                template = ChatTemplate(found, template.variables)
            self._templates[text] = template
        return self._templates[text]

    def _completion(self, prompt: list[int], ids: list[int]) -> list[bool]:
        """Mask what the prompt alone, tokenized by itself, begins with too."""
        if not self._completion_only:
            return [True] * len(ids)
        edge = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False)))
        return [place >= edge for place in range(len(ids))]

    def _ended(self, text: str) -> str:
        end = self._files.special.get("eos_token") or ""
        return text if text.endswith(end) else text + end

    def _encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)


def stock_rows(split: Split, role: str, settings: PrepareSettings) -> Iterator[StockRow]:
    """Yield the rows that the kit trains, as TRL reads them, in the order of their files.

    Raises:
        UnsayableError: TRL would train other tokens on one of them.
    """
    work = settings.for_split(role)
    converter = Converter(work.convert)
    # Whole rows are compared; the limit tells which of them are left without a token to learn.
    encoder = Encoder(work.tokenizer, replace(work.encode, max_length=None))
    stock = StockTokens(
        work.tokenizer,
        assistant_only=work.encode.assistant_only_loss,
        completion_only=work.encode.completion_only_loss is not False,
    )
    limit = work.encode.max_length
    kept = (
        slice(None, limit)
        if work.encode.truncation_mode == "keep_start" or limit is None
        else slice(-limit, None)
    )
    for part in split.parts:
        for block in read_blocks(part, ROWS_PER_BLOCK):
            samples: list[tuple[int, Sample]] = []
            for number, row in parse(block):
                try:
                    sample = converter.convert(row)[1]
                    check_loss(sample, encoder.settings)
                except BadRow:
                    continue
                samples.append((number, sample))
            encoded = encoder.encode([sample for _, sample in samples])
            for (number, sample), ours in zip(samples, encoded, strict=True):
                if isinstance(ours, BadRow) or not any(ours.mask[kept]):
                    continue
                try:
                    told = stock_row(sample)
                    ids, mask = stock.make(sample)
                except UnsayableError as why:
                    raise UnsayableError(f"{block.file.place(number)}: {why}") from None
                if ids != ours.ids.tolist() or mask != [bool(one) for one in ours.mask]:
                    raise UnsayableError(
                        f"{block.file.place(number)}: {_difference(ours.special_text, ids == ours.ids.tolist())}"
                    )
                yield told


def _difference(special_text: bool, same_ids: bool) -> str:
    if special_text:
        return "the content spells a special token, which TRL would take for the token itself"
    if same_ids:
        return "TRL would find the loss on other tokens"
    return "TRL would make other tokens of it"
