"""What one worker does with one block of rows: parse, convert, render, tokenize, mask."""

from __future__ import annotations

import gc
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sft.data.block import Block
from sft.data.convert import Converter, ConvertSettings
from sft.data.encode import Encoded, Encoder
from sft.data.loss import EncodeSettings
from sft.data.readers.read import parse
from sft.data.sample import BadRow, Chat, PromptCompletion, Sample, Text
from sft.data.tokenizer import TokenizerFiles
from sft.errors import UserError
from sft.parent import bind_to, heed_only_parent

LOST = "answer lost to max_length"
"""The reason of rows of which truncation left no token that carries loss."""
PROBES = 4
"""Rows a block that are kept for comparing with transformers' own tokenizer."""


@dataclass(frozen=True, slots=True)
class WorkSettings:
    """All that a worker needs; it pickles."""

    tokenizer: TokenizerFiles
    convert: ConvertSettings
    encode: EncodeSettings


@dataclass(slots=True)
class Outcome:
    """What became of the rows of one block. N rows were encoded, T tokens together.

    Attributes:
        ids: int32, T. mask: uint8, T. lengths: int32, N, after truncation; full_lengths before it.
        numbers: int64, N, the rows' numbers in their file. digests: uint64, N.
        truncated: number, tokens before, tokens cut, what became of the answer.
        first: the number of the first row of every shape.
    """

    ids: np.ndarray[Any, np.dtype[np.int32]]
    mask: np.ndarray[Any, np.dtype[np.uint8]]
    lengths: np.ndarray[Any, np.dtype[np.int32]]
    full_lengths: np.ndarray[Any, np.dtype[np.int32]]
    numbers: np.ndarray[Any, np.dtype[np.int64]]
    digests: np.ndarray[Any, np.dtype[np.uint64]]
    bad: list[tuple[int, BadRow]]
    truncated: list[tuple[int, int, int, str]]
    shapes: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    masks: Counter[str] = field(default_factory=Counter)
    special_text: int = 0
    differs: int = 0
    probes: list[dict[str, Any]] = field(default_factory=list)


class Worker:
    """Holds the tokenizer and the converter of one process."""

    def __init__(self, settings: WorkSettings) -> None:
        self.converter = Converter(settings.convert)
        self.encoder = Encoder(settings.tokenizer, settings.encode)

    def __call__(self, block: Block) -> Outcome:
        """Encode one block.

        Raises:
            UserError: the file is broken here.
        """
        bad: list[tuple[int, BadRow]] = []
        numbers: list[int] = []
        samples: list[Sample] = []
        shapes: Counter[str] = Counter()
        first: dict[str, int] = {}
        for number, row in parse(block):
            try:
                shape, sample = self.converter.convert(row)
                check_loss(sample, self.encoder.settings)
            except BadRow as problem:
                bad.append((number, problem))
                continue
            except UserError as error:  # the user's own function
                wrong = error.problems[0]
                what = f"{block.file.place(number)}: {wrong.what}"
                raise UserError(what, wrong.where, wrong.fix, exit_code=error.exit_code) from error.__cause__
            shapes[shape.value] += 1
            first.setdefault(shape.value, number)
            numbers.append(number)
            samples.append(sample)
        return self._collect(numbers, samples, self.encoder.encode(samples), bad, shapes, first)

    def _collect(
        self,
        numbers: list[int],
        samples: list[Sample],
        encoded: list[Encoded | BadRow],
        bad: list[tuple[int, BadRow]],
        shapes: Counter[str],
        first: dict[str, int],
    ) -> Outcome:
        kept: list[Encoded] = []
        kept_numbers: list[int] = []
        truncated: list[tuple[int, int, int, str]] = []
        probes: list[dict[str, Any]] = []
        for number, sample, row in zip(numbers, samples, encoded, strict=True):
            if isinstance(row, BadRow):
                bad.append((number, row))
                continue
            if row.cut:
                truncated.append((number, row.length, row.cut, row.answer))
            if row.answer == "lost":
                bad.append((number, _lost(row)))
                continue
            kept.append(row)
            kept_numbers.append(number)
            if len(probes) < PROBES and not row.special_text and not row.cut:
                probes.append(_probe(number, sample, row))
        return Outcome(
            ids=np.frombuffer(b"".join(row.ids.tobytes() for row in kept), dtype=np.int32),
            mask=np.frombuffer(b"".join(row.mask for row in kept), dtype=np.uint8),
            lengths=np.array([len(row.ids) for row in kept], dtype=np.int32),
            full_lengths=np.array([row.length for row in kept], dtype=np.int32),
            numbers=np.array(kept_numbers, dtype=np.int64),
            digests=np.array([row.digest for row in kept], dtype=np.uint64),
            bad=sorted(bad, key=lambda item: item[0]),
            truncated=truncated,
            shapes=shapes,
            first=first,
            masks=Counter(row.how for row in kept),
            special_text=sum(row.special_text for row in kept),
            differs=sum(row.differs for row in kept),
            probes=probes,
        )


def check_loss(sample: Sample, settings: EncodeSettings) -> None:
    """Refuse a loss on a part that the row does not tell apart: TRL passes over the one, and meets the other late.

    Raises:
        BadRow: assistant_only_loss on what is no chat, or completion_only_loss on what has no completion.
    """
    if settings.assistant_only_loss and isinstance(sample, (Text, PromptCompletion)):
        raise BadRow(
            "assistant_only_loss needs chats, and the row is none",
            "remove it; for columns prompt and completion the loss is on the completion alone",
            reason="no chat",
            malformed=True,
        )
    whole_chat = isinstance(sample, Chat) and sample.prompt_messages is None
    if settings.completion_only_loss and (whole_chat or isinstance(sample, Text)):
        raise BadRow(
            "completion_only_loss has no effect: the row has no prompt and completion",
            "remove it; for chats set assistant_only_loss: true",
            reason="no completion",
            malformed=True,
        )


def _lost(row: Encoded) -> BadRow:
    return BadRow(
        f"max_length leaves none of the row's trained tokens: it has {row.length} tokens",
        f"set max_length to at least {row.length}, or truncation_mode: keep_end",
        reason=LOST,
        malformed=False,
    )


def _probe(number: int, sample: Sample, row: Encoded) -> dict[str, Any]:
    """Keep a row with its tokens, for the ranks to compare."""
    kept: dict[str, Any] = {"row": number, "ids": row.ids.tolist(), "differs": row.differs}
    if isinstance(sample, Chat):
        kept |= {"messages": list(sample.messages), "tools": sample.tools, "kwargs": sample.template_kwargs}
    elif isinstance(sample, PromptCompletion):
        kept["text"] = sample.prompt + sample.completion
    elif isinstance(sample, Text):
        kept["text"] = sample.text
    return kept


_worker: Worker | None = None


def start(settings: WorkSettings, parent: int) -> None:
    """Set up a worker process: it dies with its parent, and leaves Ctrl-C and a scheduler's signals to it."""
    global _worker
    bind_to(parent)
    heed_only_parent(parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker = Worker(settings)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # a block is many small objects, and none of them in cycles


def work(block: Block) -> Outcome:
    """Encode one block in a worker process."""
    assert _worker is not None
    return _worker(block)
