"""Make an entry of the cache: encode both splits, judge what became of the rows, lay them out, write them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain, islice
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import IO, Any

import numpy as np

from sft.data import work
from sft.data.block import Block, SourceFile, Split
from sft.data.judge import Dropped, judge
from sft.data.layout import Layout, lay_out, write_rows
from sft.data.ledger import SplitSummary
from sft.data.readers.read import read_blocks
from sft.data.settings import PrepareSettings
from sft.data.work import Outcome, Worker, WorkSettings
from sft.errors import ExitCode, UserError
from sft.parent import signals_blocked

SMALL = 4
"""Blocks up to which no processes are started: they would take longer to start than to work."""
ROWS_PER_BLOCK = 512
PROBES = 16
"""Rows of each split that are kept for comparing with transformers' tokenizer."""
SECONDS_BETWEEN_LINES = 10.0


@dataclass(slots=True)
class Encoding:
    """One split in the making: N encoded rows, their T tokens in a file."""

    split: Split
    files: list[SourceFile]
    summary: SplitSummary = field(default_factory=SplitSummary)
    lengths: list[Any] = field(default_factory=list)
    full_lengths: list[Any] = field(default_factory=list)
    numbers: list[Any] = field(default_factory=list)
    file_of: list[Any] = field(default_factory=list)
    digests: list[Any] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    truncations: list[tuple[SourceFile, int, int, int, str]] = field(default_factory=list)
    """File, row, tokens before, tokens cut, what became of the answer."""
    probes: list[dict[str, Any]] = field(default_factory=list)
    first_of_shape: dict[tuple[str, str], str] = field(default_factory=dict)
    """The place of the first row of each shape, by part and shape."""


def make_entry(
    directory: Path,
    splits: tuple[Split | None, ...],
    settings: PrepareSettings,
    say: Callable[[str], None],
    limit: int | None = None,
    refused: Callable[[UserError], None] | None = None,
) -> dict[str, Any]:
    """Fill a directory with prepared data, its manifest last, and return the manifest.

    Args:
        limit: read only so many rows of each split.
        refused: takes what would be raised of rows that are not accepted, so that they can be looked at.

    Raises:
        UserError: a file is broken, or what became of the rows is not what the run file accepts.
    """
    made: dict[str, Encoding] = {}
    for role, split in zip(("train", "test"), splits, strict=False):
        if split is not None:
            made[role] = encode_split(directory, role, split, settings, say, limit)
    _count_duplicates(made)
    manifest: dict[str, Any] = {"splits": {}, "probes": {}, "sources": {}}
    manifest["added_tokens"] = list(settings.work.tokenizer.added)
    for role, encoding in made.items():
        summary = encoding.summary
        lengths, full = _joined(encoding.lengths, np.int32), _joined(encoding.full_lengths, np.int32)
        try:
            judge(role, summary, encoding.dropped, full, settings, encoding.first_of_shape)
        except UserError as error:
            if refused is None:
                raise
            refused(error)
        layout = lay_out(lengths, settings, role, encoding.split.order_seed)
        summary.rows, summary.packed = len(layout), layout.packed
        summary.max_length = settings.max_length
        _write(directory, role, encoding, layout, full)
        manifest["splits"][role] = summary.to_json()
        manifest["probes"][role] = encoding.probes
        manifest["sources"][role] = [{"name": file.name, "kind": file.kind} for file in encoding.files]
    manifest["files"] = {path.name: path.stat().st_size for path in sorted(directory.iterdir())}
    (directory / "manifest.json").write_text(json.dumps(manifest) + "\n", encoding="utf-8")
    return manifest


def encode_split(
    directory: Path,
    role: str,
    split: Split,
    settings: PrepareSettings,
    say: Callable[[str], None],
    limit: int | None,
) -> Encoding:
    """Encode every row of a split, in order, into `<role>.tokens` and `<role>.mask`."""
    files = list(dict.fromkeys(file for part in split.parts for file in part.files))
    encoding = Encoding(split, files)
    part_of: deque[str] = deque()

    def blocks() -> Iterator[Block]:
        for part in split.parts:
            for block in read_blocks(part, ROWS_PER_BLOCK):
                part_of.append(part.name)
                yield block

    source = _limited(blocks(), limit) if limit is not None else blocks()
    progress = _Progress(role, say)
    with (
        open(directory / f"{role}.tokens", "wb") as tokens,
        open(directory / f"{role}.mask", "wb") as mask,
    ):
        for block, outcome in encode_blocks(source, settings.for_split(role), settings.workers):
            _take(encoding, part_of.popleft(), block, outcome, tokens, mask)
            progress.tell(encoding.summary)
    return encoding


def encode_blocks(
    blocks: Iterator[Block], settings: WorkSettings, workers: int
) -> Iterator[tuple[Block, Outcome]]:
    """Encode blocks in worker processes and yield them in their order, a few ahead of what is taken.

    Raises:
        UserError: a file is broken, or a worker was killed.
    """
    head = list(islice(blocks, SMALL + 1))
    if workers == 1 or len(head) <= SMALL:
        worker = Worker(settings)
        for block in chain(head, blocks):
            yield block, worker(block)
        return
    # A signal to every process of a launch is this one's: the workers, and what multiprocessing starts beside them,
    # begin with it held back.
    with signals_blocked():
        pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=work.start, initargs=(settings, os.getpid())
        )
    waiting: deque[tuple[Block, Future[Outcome]]] = deque()
    try:
        for block in chain(head, blocks):
            with signals_blocked():
                waiting.append((block, pool.submit(work.work, block)))
            if len(waiting) > 3 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    except KeyboardInterrupt:
        # They would finish their blocks first. Not SIGTERM: one that begins may hold back another's already.
        for process in active_children():
            process.kill()
        raise
    except BrokenProcessPool as error:
        raise UserError(
            "a process that prepares data was killed, most likely for want of memory",
            where="dataset_num_proc",
            fix=f"set dataset_num_proc below {workers}, or prepare where there is more memory",
            exit_code=ExitCode.DOES_NOT_FIT,
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _limited(blocks: Iterator[Block], limit: int) -> Iterator[Block]:
    """Cut the blocks off after so many rows."""
    left = limit
    for block in blocks:
        yield Block(block.file, block.numbers[:left], block.rows[:left], block.columns)
        left -= len(block.numbers)
        if left <= 0:
            return


def _take(
    encoding: Encoding, part: str, block: Block, outcome: Outcome, tokens: IO[bytes], mask: IO[bytes]
) -> None:
    """Count one block and write its tokens."""
    tokens.write(outcome.ids.data)
    mask.write(outcome.mask.data)
    summary, place = encoding.summary, block.file.place
    kept = len(outcome.lengths)
    cut = [entry for entry in outcome.truncated if entry[3] != "lost"]
    summary.rows_read += kept + len(outcome.bad)
    summary.dropped += len(outcome.bad)
    summary.truncated += len(cut)
    summary.trained += kept - len(cut)
    summary.cut_answers += sum(answer != "whole" for *_, answer in outcome.truncated)
    summary.tokens += len(outcome.ids)
    # A sample's first token is predicted by nothing, whatever its mask says.
    firsts = np.cumsum(outcome.lengths) - outcome.lengths
    summary.trained_tokens += int(np.count_nonzero(outcome.mask)) - int(
        np.count_nonzero(outcome.mask[firsts])
    )
    summary.special_text += outcome.special_text
    summary.differs += outcome.differs
    for counter, more in (
        (summary.shapes, outcome.shapes),
        (summary.masks, outcome.masks),
        (summary.reasons, Counter(bad.reason for _, bad in outcome.bad)),
    ):
        for name, count in more.items():
            counter[name] = counter.get(name, 0) + count
    for shape, number in outcome.first.items():
        encoding.first_of_shape.setdefault((part, shape), place(number))
    encoding.lengths.append(outcome.lengths)
    encoding.full_lengths.append(outcome.full_lengths)
    encoding.numbers.append(outcome.numbers)
    encoding.file_of.append(np.full(kept, encoding.files.index(block.file), dtype=np.int32))
    encoding.digests.append(outcome.digests)
    encoding.dropped += [Dropped(block.file, number, bad) for number, bad in outcome.bad]
    encoding.truncations += [(block.file, *entry) for entry in outcome.truncated]
    encoding.probes += [
        {"where": place(probe["row"]), **probe} for probe in outcome.probes[: PROBES - len(encoding.probes)]
    ]


def _count_duplicates(made: dict[str, Encoding]) -> None:
    """Count rows whose tokens were seen before, within each split and across them."""
    seen = {role: _joined(encoding.digests, np.uint64) for role, encoding in made.items()}
    for role, digests in seen.items():
        made[role].summary.duplicates = len(digests) - len(np.unique(digests))
    if "test" in seen:
        made["test"].summary.duplicates_of_train = int(np.isin(seen["test"], seen["train"]).sum())


def _write(directory: Path, role: str, encoding: Encoding, layout: Layout, full: Any) -> None:
    """Write the rows that are trained, and the lines of the ledger; remove the token files."""
    write_rows(
        directory,
        role,
        layout,
        numbers=_joined(encoding.numbers, np.int64),
        files=_joined(encoding.file_of, np.int32),
    )
    with open(directory / f"{role}.lengths.npy", "wb") as file:
        np.save(file, full)
    split = encoding.split.name
    with open(directory / "dropped.jsonl", "a", encoding="utf-8") as file:
        for entry in encoding.dropped:
            file.write(json.dumps({"split": split, **entry.line()}, ensure_ascii=False) + "\n")
    with open(directory / "truncated.jsonl", "a", encoding="utf-8") as file:
        for source, number, length, cut, answer in encoding.truncations:
            line = {"split": split, "source": source.name, "row": number, "tokens": length, "cut": cut}
            file.write(json.dumps({**line, "answer": answer}, ensure_ascii=False) + "\n")
    for name in ("tokens", "mask"):
        (directory / f"{role}.{name}").unlink()


def _joined(arrays: list[Any], dtype: Any) -> Any:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)


class _Progress:
    """Says now and then how far a long preparation is."""

    def __init__(self, role: str, say: Callable[[str], None]) -> None:
        self.role, self.say = role, say
        self.begun = self.told = time.monotonic()

    def tell(self, summary: SplitSummary) -> None:
        now = time.monotonic()
        if now - self.told < SECONDS_BETWEEN_LINES:
            return
        self.told = now
        speed = summary.tokens / (now - self.begun)
        self.say(
            f"preparing {self.role}: {summary.rows_read:,} rows, {summary.tokens:,} tokens ({speed:,.0f} a second)"
        )


def to_stderr(line: str) -> None:
    """Say a line to people."""
    print(line, file=sys.stderr, flush=True)
