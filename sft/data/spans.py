"""Find which characters of a rendered conversation the assistant wrote, and prove it.

In this order: the template's own generation markers; TRL's training template for the same family; the
template rendered turn by turn, where every shorter rendering is the beginning of the longer one.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sft.data.sample import BadRow, Chat
from sft.data.template import ChatTemplate, Span

MARKERS, TRAINING, PREFIXES = "generation markers", "TRL's training template", "turn by turn"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text.

    Attributes:
        spans: one a turn of the assistant, in order.
        how: what the spans were found by.
        template: what it was rendered with.
        differs: the text is not what the model's own template renders: TRL's training template keeps what that
            one strips from earlier turns, or ends the last turn where that one leaves it open.
    """

    text: str
    spans: list[Span]
    how: str
    template: ChatTemplate
    differs: bool = False


class Masker:
    """Renders conversations and finds the assistant's part.

    Args:
        template: the template that the model is used with.
        enders: tokens that may end a turn; white space behind the last one carries no loss.
    """

    def __init__(self, template: ChatTemplate, enders: Sequence[str]) -> None:
        self.template = template
        self.enders = tuple(enders)
        found = None if template.has_markers else training_template(template.text)
        self.training = None if found is None else ChatTemplate(found, template.variables)
        self._nothing = re.compile("(?:" + "|".join([r"\s", *map(re.escape, enders)]) + ")*+")

    def render(self, chat: Chat) -> Rendered:
        """Render a conversation with its spans.

        Raises:
            BadRow: the template raises, leaves out what the assistant says, or does not let it be told apart.
        """
        template = self.template if self.training is None else self.training
        if not template.has_markers:
            rendered = self._turn_by_turn(chat)
        else:
            text, spans = template.render_with_spans(chat.messages, chat.tools, **chat.template_kwargs)
            turns = sum(message["role"] == "assistant" for message in chat.messages)
            spans = spans if len(spans) == turns else _joined(spans)
            if self.training is None:
                rendered = Rendered(text, spans, MARKERS, template)
            else:
                own = self.template.render(chat.messages, chat.tools, **chat.template_kwargs)
                rendered = Rendered(text, spans, TRAINING, template, differs=own != text)
        self._check_said(chat, rendered)
        return rendered

    def _turn_by_turn(self, chat: Chat) -> Rendered:
        def render(count: int, prompt: bool = False) -> str:
            return self.template.render(
                chat.messages[:count], chat.tools, add_generation_prompt=prompt, **chat.template_kwargs
            )

        full = render(len(chat.messages))
        spans = []
        for index, message in enumerate(chat.messages):
            if message["role"] != "assistant":
                continue
            if index == 0:
                raise unproven(
                    "the first message is the assistant's, and there is nothing to render before it"
                )
            before = render(index, prompt=True)
            after = full if index + 1 == len(chat.messages) else render(index + 1)
            if not (after.startswith(before) and full.startswith(after)):
                raise unproven(f"rendering message {index + 1} changes what stands before it")
            spans.append((len(before), self._end(full, len(before), len(after))))
        return Rendered(full, spans, PREFIXES, self.template)

    def _end(self, text: str, start: int, stop: int) -> int:
        """Leave out white space behind the token that ends the turn: generation has stopped there."""
        bare = len(text[start:stop].rstrip()) + start
        return bare if text[start:bare].endswith(self.enders) else stop

    def _check_said(self, chat: Chat, rendered: Rendered) -> None:
        """Refuse a turn of which nothing but its end is left: the model would learn to say nothing."""
        turns = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if len(turns) != len(rendered.spans):
            return
        for index, (start, stop) in zip(turns, rendered.spans, strict=True):
            if chat.trained and chat.trained[index] is False:
                continue
            found = self._nothing.match(rendered.text, start, stop)
            if found is not None and found.end() == stop:
                raise BadRow(
                    f"the chat template leaves out all that message {index + 1} says",
                    "set chat_template_path to a template that renders such messages, or mend the row",
                    reason="left out by the chat template",
                    malformed=True,
                )


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Join spans that touch, for a template that marks parts of a turn each by itself."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], stop)
        elif stop > start:
            joined.append((start, stop))
    return joined


def unproven(why: str) -> BadRow:
    """Say why the assistant's tokens cannot be told from the others."""
    return BadRow(
        f"the template has no generation markers, TRL has no training template for it, and {why}",
        "put {% generation %}...{% endgeneration %} around the assistant's part of the template and name it in"
        " chat_template_path, or set assistant_only_loss: false",
        reason="assistant tokens cannot be told apart",
        malformed=True,
    )


def message_spans(template: ChatTemplate, chat: Chat, text: str, wanted: Sequence[int]) -> dict[int, Span]:
    """Find the characters of whole messages, header and all, by rendering turn by turn.

    Raises:
        BadRow: a shorter rendering is not the beginning of the whole.
    """
    found = {}
    for index in wanted:
        edges = [
            template.render(chat.messages[:count], chat.tools, **chat.template_kwargs) if count else ""
            for count in (index, index + 1)
        ]
        if not all(text.startswith(edge) for edge in edges):
            raise unproven(f"rendering message {index + 1} changes what stands before it")
        found[index] = (len(edges[0]), len(edges[1]))
    return found


@lru_cache(maxsize=1)
def training_templates() -> Mapping[str, str]:
    """Map every template that TRL knows to the training template that it swaps in.

    Read from the package's files, which needs no import of TRL; a test holds them against the public
    `trl.get_training_chat_template`.
    """
    found = importlib.util.find_spec("trl")
    if found is None or not found.submodule_search_locations:
        return {}
    directory = Path(found.submodule_search_locations[0]) / "chat_templates"
    pairs = {}
    for path in sorted(directory.glob("*_training.jinja")):
        plain = path.with_name(path.name.replace("_training.jinja", ".jinja"))
        if plain.is_file():
            pairs[plain.read_text(encoding="utf-8")] = path.read_text(encoding="utf-8")
    return pairs


def training_template(text: str) -> str | None:
    """Return TRL's training template for a template that it knows."""
    return training_templates().get(text)
