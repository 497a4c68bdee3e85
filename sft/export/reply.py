"""One answer while it is written: text that comes piece by piece out of the thread that generates."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from sft.export.turns import Stream, Turns

Ended = Literal["turn", "length", "stopped"]


class Reply:
    """One answer: iterate over it for its text, piece by piece.

    Attributes:
        text: what has come so far.
        tokens: how many of them were generated, the end of the turn included.
        ended: the turn was over, max_new_tokens were reached, or the reader broke it off.
    """

    def __init__(self, run: Callable[[BaseStreamer, threading.Event], None], stream: Stream) -> None:
        self._run, self._stream = run, stream
        self._stop = threading.Event()
        self.tokens = 0
        self.seconds = 0.0
        self.ended: Ended = "stopped"

    @property
    def text(self) -> str:
        return self._stream.text

    def stop(self) -> None:
        """End it at the next token."""
        self._stop.set()

    def __iter__(self) -> Iterator[str]:
        tokens: queue.Queue[int | BaseException | None] = queue.Queue()
        started = time.monotonic()

        def work() -> None:
            try:
                self._run(_Queue(tokens), self._stop)
            except BaseException as error:  # told in the thread that reads
                tokens.put(error)
            finally:
                tokens.put(None)

        # A daemon, so that a second Ctrl-C ends the program also in the middle of a long prompt.
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while (token := tokens.get()) is not None:
                if isinstance(token, BaseException):
                    raise token
                if self._stream.is_over:
                    continue
                self.tokens += 1
                piece = self._stream.put(token)
                if self._stream.is_over:
                    self._stop.set()
                if piece:
                    yield piece
            rest = self._stream.rest()
            if rest:
                yield rest
            was_stopped = self._stop.is_set() and not self._stream.is_over
            self.ended = "turn" if self._stream.is_over else "stopped" if was_stopped else "length"
        finally:
            self._stop.set()
            thread.join()
            self.seconds = time.monotonic() - started


class _Queue(BaseStreamer):
    """Hands on each token as `generate` has it; what it puts first is the prompt."""

    def __init__(self, tokens: queue.Queue[Any]) -> None:
        self._tokens, self._has_prompt = tokens, False

    def put(self, value: torch.Tensor) -> None:
        if self._has_prompt:
            self._tokens.put(int(value.reshape(-1)[0]))
        self._has_prompt = True

    def end(self) -> None:
        """Nothing is left to tell: the end is told by the thread."""


class Stopped(StoppingCriteria):
    """Ends all rows once somebody wants it."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._stop.is_set(), device=input_ids.device, dtype=torch.bool)


class EndsAsText(StoppingCriteria):
    """Ends a row whose text holds an end that is no token."""

    def __init__(self, turns: Turns, prompt: int) -> None:
        self._turns, self._prompt = turns, prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **more: Any) -> torch.Tensor:
        rows = input_ids[:, self._prompt :].tolist()
        over = [self._turns.until_end(self._turns.tokenizer.decode(row))[1] for row in rows]
        return torch.tensor(over, device=input_ids.device, dtype=torch.bool)
