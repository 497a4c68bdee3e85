"""Which characters of a conversation carry loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sft.data.sample import BadRow, Chat
from sft.data.spans import Masker, Rendered, message_spans
from sft.data.template import ChatTemplate, Span


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """What decides a row's tokens and its mask; the keys are the run file's.

    Attributes:
        completion_only_loss: None trains the completion of rows that have one.
        max_length: tokens a row may have; None for no limit, and where packing splits long rows.
    """

    assistant_only_loss: bool = False
    completion_only_loss: bool | None = None
    max_length: int | None = None
    truncation_mode: Literal["keep_start", "keep_end"] = "keep_start"
    special_tokens_in_content: Literal["text", "refuse"] = "text"
    eos_token: str | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """A rendered conversation, and the characters that carry loss (None for all)."""

    text: str
    spans: list[Span] | None
    how: str
    differs: bool = False


def choose(masker: Masker, chat: Chat, settings: EncodeSettings) -> Chosen:
    """Render a conversation and choose the characters that carry loss.

    Raises:
        BadRow: the template raises, or what is asked for cannot be told apart.
    """
    flagged = any(trained is not None for trained in chat.trained)
    completion_only = chat.prompt_messages is not None and settings.completion_only_loss is not False
    if settings.assistant_only_loss or flagged:
        rendered = masker.render(chat)
        spans = _flagged(rendered, chat, settings.assistant_only_loss) if flagged else rendered.spans
        text, how, template = rendered.text, rendered.how, rendered.template
        differs = rendered.differs
    else:
        template, differs = masker.template, False
        text = template.render(chat.messages, chat.tools, **chat.template_kwargs)
        spans, how = [(0, len(text))], "the completion" if completion_only else "the whole conversation"
    if completion_only and not (
        settings.assistant_only_loss and _begins_behind_prompt(template, chat, text, spans)
    ):
        edge = _prompt_edge(template, chat, text)
        spans = [(max(start, edge), stop) for start, stop in spans if stop > edge]
    return Chosen(text, None if spans == [(0, len(text))] else spans, how, differs)


def _begins_behind_prompt(template: ChatTemplate, chat: Chat, text: str, spans: Sequence[Span]) -> bool:
    """Whether the completion's edge cuts nothing off, so that it need not be looked for.

    So it is where every answer is in the completion and the first span begins behind the header of its turn; a
    template may count the header, or a part of it, to what the assistant says.
    """
    if any(message["role"] == "assistant" for message in chat.messages[: chat.prompt_messages]):
        return False
    header = "" if chat.template_kwargs else template.generation_prompt
    return bool(header and spans) and text.endswith(header, 0, spans[0][0])


def _flagged(rendered: Rendered, chat: Chat, assistant_only: bool) -> list[Span]:
    """Apply what single messages say about their own loss."""
    turns = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
    if len(turns) != len(rendered.spans):
        raise BadRow(
            f"messages say whether they are trained, and the chat template marks {len(rendered.spans)} parts of"
            f" {len(turns)} turns of the assistant",
            "put one {% generation %}...{% endgeneration %} around each turn of the assistant in the template, or"
            " take the flags out of the row",
            reason="assistant tokens cannot be told apart",
            malformed=True,
        )
    spans = dict(zip(turns, rendered.spans, strict=True))
    if assistant_only:
        return [span for index, span in spans.items() if chat.trained[index] is not False]
    off = [index for index, trained in enumerate(chat.trained) if trained is False]
    others = [index for index in off if index not in spans]
    spans |= message_spans(rendered.template, chat, rendered.text, others)
    return _without(sorted(spans[index] for index in off), len(rendered.text))


def _without(holes: Sequence[Span], end: int) -> list[Span]:
    """Return what is left of a text of so many characters."""
    kept, at = [], 0
    for start, stop in holes:
        kept.append((at, start))
        at = stop
    return [(start, stop) for start, stop in [*kept, (at, end)] if stop > start]


def _prompt_edge(template: ChatTemplate, chat: Chat, text: str) -> int:
    """Return where the completion begins: behind the prompt as it is rendered for generation.

    A template may render the prompt alone otherwise than before a completion; the completion then begins where the
    two part, as in TRL.
    """
    if not chat.prompt_messages:
        return 0
    prompt = template.render(
        chat.messages[: chat.prompt_messages], chat.tools, add_generation_prompt=True, **chat.template_kwargs
    )
    if text.startswith(prompt):
        return len(prompt)
    parting = (index for index, pair in enumerate(zip(prompt, text, strict=False)) if pair[0] != pair[1])
    return next(parting, min(len(prompt), len(text)))
