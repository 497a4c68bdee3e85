"""One base in memory, adapters on it by name, and answers from any of them as they are written.

Base and adapters share their weights: to change from one to another loads nothing. Does not know how a chat is drawn
(`sft.cli.chat`, `sft.export.page`) or scored (`sft.export.evaluate`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from sft.data.sample import Message
from sft.errors import UserError
from sft.export import adapter as adapters
from sft.export.generation import GenerationSettings
from sft.export.loading import PRECISIONS, load_model, no_room
from sft.export.reply import EndsAsText, Reply, Stopped
from sft.export.source import AdapterSource
from sft.export.subject import Subject, rendering
from sft.export.turns import Stream, Turns, load_turns

NO_LOSS = -100
"""ignore_index of torch.nn.CrossEntropyLoss."""
TOKENS_AT_ONCE = 8192
"""Tokens of one forward pass when losses are measured: their logits are what needs memory."""


class Engine:
    """A loaded base with its adapters. One answer at a time: a second waits for the first.

    Args:
        device: a torch device, or auto: a GPU where there is one.
        dtype: of the weights; auto is what is fast on the device, trained what the run loaded.

    Raises:
        UserError: the model or the tokenizer cannot be loaded, or does not fit.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        device: str = "auto",
        dtype: str = "auto",
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.subject = subject
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = load_model(subject, self.device, dtype)
        self._autocast = PRECISIONS.get(subject.precision or "") if dtype == "trained" else None
        self._peft: Any = None
        self._inside: dict[str, str] = {}
        self._turns: dict[str | None, Turns] = {}
        self._lock = threading.Lock()
        self._fit_embeddings(say)
        first = next(iter(subject.adapters), None)
        self._turns[None] = self._load_turns(None if first is None else subject.adapters[first])

    def _fit_embeddings(self, say: Callable[[str], None]) -> None:
        resized = None
        torch.manual_seed(0)  # rows that only the adapter has are the base's by chance
        for name, source in self.subject.adapters.items():
            rows = adapters.fit_embeddings(self.model, source)
            if rows is None:
                continue
            if resized is not None:
                raise UserError(
                    f"{resized} and {name} have vocabularies of different sizes", fix="try one at a time"
                )
            resized = name
            say(f"{name} has {rows:,} rows of embeddings: those that the base lacks are random in the base")

    def _load_turns(self, source: AdapterSource | None) -> Turns:
        subject = self.subject
        place = subject.tokenizer if source is None or source.tokenizer is None else str(source.tokenizer)
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        own = getattr(self.model.config.get_text_config(), "eos_token_id", None)
        known = [end for one in (ends, own) for end in (one if isinstance(one, list) else [one])]
        return load_turns(
            place,
            revision=subject.revision if place == subject.base else None,
            trust_remote_code=subject.trust_remote_code,
            model_ends=[end for end in known if end is not None],
            **rendering(Path(place) if source is None else source.adapter),
        )

    def widen(self, rows: int) -> None:
        """Give the base embeddings for tokens that it lacks, by chance: a run's template may have brought some."""
        if self.model.get_input_embeddings().weight.shape[0] < rows:
            torch.manual_seed(0)
            self.model.resize_token_embeddings(rows, mean_resizing=False)

    @property
    def names(self) -> list[str]:
        """The adapters that are on the base."""
        return list(self._inside)

    def attach(self, *names: str) -> None:
        """Put adapters on the base, by default all.

        Raises:
            UserError: one does not fit the base.
        """
        for name in names or self.subject.adapters:
            source = self.subject.adapters[name]
            config = adapters.read_config(source)
            inside = f"adapter_{len(self._inside)}"
            self._peft = adapters.attach(
                self.model if self._peft is None else self._peft, source, config, inside
            )
            self._inside[name] = inside
            self._turns[name] = self._load_turns(source)
        self.model = self._peft.get_base_model() if self._peft is not None else self.model
        self.model.eval()

    def turns(self, adapter: str | None = None) -> Turns:
        """Return how an adapter's prompts are rendered. The base gets those of the first adapter, to be compared."""
        if adapter not in self._turns:
            raise UserError(
                f"there is no adapter {adapter!r}",
                fix=f"one of: {', '.join(self._inside) or 'none is loaded'}",
            )
        return self._turns[adapter]

    @contextmanager
    def _using(self, adapter: str | None) -> Iterator[None]:
        with self._lock, torch.no_grad():
            off: AbstractContextManager[Any] = nullcontext()
            if adapter is not None:
                self._peft.set_adapter(self._inside[adapter])
            elif self._peft is not None:
                off = self._peft.disable_adapter()
            as_trained: AbstractContextManager[Any] = nullcontext()
            if self._autocast is not None and self.device.type == "cuda":
                as_trained = torch.autocast("cuda", self._autocast)
            try:
                with off, as_trained:
                    yield
            except torch.OutOfMemoryError as error:
                raise no_room(error, self.subject.base) from error

    def answer(
        self,
        messages: Sequence[Message],
        adapter: str | None = None,
        settings: GenerationSettings | None = None,
    ) -> Reply:
        """Begin the assistant's next turn; None is the base, with every adapter off.

        Raises:
            UserError: the template refuses the conversation, or the model takes no more tokens.
        """
        settings, turns = settings or GenerationSettings(), self.turns(adapter)
        ids = turns.prompt(messages)
        room = self._room(len(ids))
        if room < 1:
            raise UserError(
                f"the conversation has {len(ids):,} tokens, as many as the model takes",
                fix="begin a new one, or say less",
            )

        def run(streamer: BaseStreamer, stop: threading.Event) -> None:
            with self._using(adapter):
                if settings.seed is not None:
                    torch.manual_seed(settings.seed)
                self._generate([ids], turns, settings, room, streamer=streamer, stop=stop)

        return Reply(run, Stream(turns))

    def complete(
        self, prompts: Sequence[Sequence[int]], adapter: str | None, settings: GenerationSettings
    ) -> list[list[int]]:
        """Continue prompts together, each to the end of its turn; return what is new, the end included."""
        turns = self.turns(adapter)
        with self._using(adapter):
            room = self._room(max(map(len, prompts)))
            if room < 1:
                return [[] for _ in prompts]
            rows = self._generate(prompts, turns, settings, room)
        found = []
        for row in rows:
            ends = [place for place, token in enumerate(row) if token in turns.ends.tokens]
            found.append(row[: ends[0] + 1] if ends else row)
        return found

    def _room(self, length: int) -> int:
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return (most or 1 << 30) - length

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        turns: Turns,
        settings: GenerationSettings,
        room: int,
        *,
        streamer: BaseStreamer | None = None,
        stop: threading.Event | None = None,
    ) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids_BT = torch.full((len(prompts), longest), turns.pad)
        mask_BT = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):  # padded on the left: what is new follows the prompt
            ids_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask_BT[row, longest - len(prompt) :] = 1
        criteria: list[StoppingCriteria] = [Stopped(stop)] if stop is not None else []
        if turns.ends.texts:
            criteria.append(EndsAsText(turns, longest))
        sampling = settings.for_transformers()
        sampling["max_new_tokens"] = min(settings.max_new_tokens, room)
        out_BT = self.model.generate(
            input_ids=ids_BT.to(self.device),
            attention_mask=mask_BT.to(self.device),
            eos_token_id=sorted(turns.ends.tokens) or None,
            pad_token_id=turns.pad,
            stopping_criteria=StoppingCriteriaList(criteria),
            streamer=streamer,
            **sampling,
        )
        return out_BT[:, longest:].tolist()

    def losses(
        self, rows: Sequence[tuple[Sequence[int], Sequence[int]]], adapter: str | None
    ) -> list[tuple[float, int]]:
        """Return the summed loss of each row of ids and labels, and over how many tokens it is.

        A token is predicted from those before it, so the first of a row carries no loss whatever its label.
        """
        found: list[tuple[float, int]] = []
        waiting: list[tuple[Sequence[int], Sequence[int]]] = []
        with self._using(adapter):
            for row in rows:
                longest = max(len(ids) for ids, _ in [*waiting, row])
                if waiting and longest * (len(waiting) + 1) > TOKENS_AT_ONCE:
                    found += self._losses(waiting)
                    waiting = []
                waiting.append(row)
            return found + (self._losses(waiting) if waiting else [])

    def _losses(self, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[float, int]]:
        longest = max(len(ids) for ids, _ in rows)
        ids_BT = torch.zeros((len(rows), longest), dtype=torch.long)
        mask_BT, labels_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, NO_LOSS)
        for row, (ids, labels) in enumerate(rows):
            ids_BT[row, : len(ids)] = torch.tensor(ids)
            labels_BT[row, : len(ids)] = torch.tensor(labels)
            mask_BT[row, : len(ids)] = 1
        logits_BTV = self.model(
            input_ids=ids_BT.to(self.device), attention_mask=mask_BT.to(self.device), use_cache=False
        ).logits
        found = []
        for logits_TV, labels_T in zip(logits_BTV, labels_BT.to(self.device), strict=True):
            trained_T = labels_T[1:] != NO_LOSS
            # Only the tokens that carry loss become float32: a vocabulary is wide.
            loss = torch.nn.functional.cross_entropy(
                logits_TV[:-1][trained_T].float(), labels_T[1:][trained_T], reduction="sum"
            )
            found.append((float(loss), int(trained_T.sum())))
        return found
