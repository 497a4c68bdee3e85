"""Conversations to token ids by the template that was trained, and where a turn ends. Imports no torch.

The same template, tokenizer and care for spelled special tokens as in `sft.data`, so that a prompt has the tokens
that it had in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from sft.data.sample import BadRow, Chat, Message
from sft.data.spans import training_template
from sft.data.special_text import SpecialText
from sft.data.template import ChatTemplate
from sft.data.tokenizer import TokenizerFiles, read_tokenizer
from sft.errors import UserError

ASKED, ANSWERED = "Qzx asks", "Qzx answers"
"""Contents of the turns that a template is tried on: words that no template writes itself."""
UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a turn: tokens, or text where the template has no token for it."""

    tokens: frozenset[int]
    texts: tuple[str, ...] = ()


class Turns:
    """Renders conversations, and decodes answers.

    Args:
        assistant_only: the run trained by TRL's training template where it has one for this template.
        is_plain: no template is to be used: what is asked is continued as it stands.
        model_ends: the ids that the model's own configuration ends with.
    """

    def __init__(
        self,
        files: TokenizerFiles,
        *,
        assistant_only: bool = False,
        is_plain: bool = False,
        model_ends: Sequence[int] = (),
    ) -> None:
        self.tokenizer: Tokenizer = files.build()
        text = None if is_plain else files.template(has_tools=False)
        self.template: ChatTemplate | None = None
        if text is not None:
            plain = ChatTemplate(text, files.special)
            trained = training_template(text) if assistant_only and not plain.has_markers else None
            self.template = plain if trained is None else ChatTemplate(trained, files.special)
            self._special = SpecialText(self.tokenizer, files.control, self.template.literals())
        end = files.special.get("eos_token")
        own = None if end is None else self.tokenizer.token_to_id(end)
        found = Ends(frozenset(), ()) if self.template is None else ends_of(self.template, self.tokenizer)
        known = {own} if own is not None else set()
        self.ends = Ends(frozenset(known | set(model_ends) | found.tokens), found.texts)
        pad = self.tokenizer.token_to_id(files.special.get("pad_token") or "")
        self.pad = pad if pad is not None else min(self.ends.tokens, default=0)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokenize a conversation up to where the assistant's next turn begins.

        Raises:
            UserError: the template refuses the conversation.
        """
        if self.template is None:
            return list(self.tokenizer.encode(str(messages[-1]["content"])).ids)
        chat = Chat(list(messages))
        try:
            if self._special.spelled_in(chat):
                marked = self._special.mark(chat).messages
                return self._special.encode(self.template.render(marked, add_generation_prompt=True))[0]
            text = self.template.render(chat.messages, add_generation_prompt=True)
        except BadRow as bad:
            raise UserError(bad.what.replace("the row", "the conversation"), fix="say it otherwise") from None
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def header(self) -> list[int]:
        """Return the ids of what an answer begins behind; empty where there is no such thing."""
        if self.template is None or not self.template.generation_prompt:
            return []
        return list(self.tokenizer.encode(self.template.generation_prompt, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Spell an answer, without special tokens and without what ends it."""
        kept = list(ids)
        for place, token in enumerate(kept):
            if token in self.ends.tokens:
                del kept[place:]
                break
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        return self.until_end(text)[0]

    def until_end(self, text: str) -> tuple[str, bool]:
        """Cut a text where one of the ends that are text begins; say whether one did."""
        places = [at for end in self.ends.texts if (at := text.find(end)) >= 0]
        return (text[: min(places)], True) if places else (text, False)


class Stream:
    """Spells tokens as they come: only what can change no more."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._ids: list[int] = []
        self.text = ""
        self.is_over = False

    def put(self, token: int) -> str:
        """Take one token and return the text that is new."""
        if token in self._turns.ends.tokens:
            self.is_over = True
            return self.rest()
        self._ids.append(token)
        text = self._turns.tokenizer.decode(self._ids, skip_special_tokens=True)
        text, ended = self._turns.until_end(text)
        if ended:
            self.is_over = True
            return self._new(text)
        return self._new(text[: len(text) - self._held(text)])

    def rest(self) -> str:
        """Return what was held back, once there is no more."""
        text = self._turns.tokenizer.decode(self._ids, skip_special_tokens=True)
        return self._new(self._turns.until_end(text)[0])

    def _new(self, text: str) -> str:
        if not text.startswith(self.text):  # a decoder that took back what it had written: wait for more
            return ""
        piece, self.text = text[len(self.text) :], text
        return piece

    def _held(self, text: str) -> int:
        """Count the characters at the end that may turn out to be others, or to begin an end."""
        held = len(text) - len(text.rstrip(UNFINISHED))
        for end in self._turns.ends.texts:
            for size in range(min(len(end) - 1, len(text)), held, -1):
                if text.endswith(end[:size]):
                    held = size
                    break
        return held


def load_turns(
    place: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **settings: Any,
) -> Turns:
    """Read the tokenizer of a directory or a model on the Hub, with the template that it was saved with.

    Raises:
        UserError: it is not there, or is broken.
    """
    files = read_tokenizer(
        place,
        revision=revision,
        trust_remote_code=trust_remote_code,
        say=lambda line: None,
        key="the tokenizer",
    )
    return Turns(files, **settings)


def ends_of(template: ChatTemplate, tokenizer: Tokenizer) -> Ends:
    """Find what a template writes behind the assistant's words.

    The first added token behind them ends the turn; where there is none, what the template writes between them and
    the next question does: a token, or else its text.
    """
    asked = Message(role="user", content=ASKED)
    said = Message(role="assistant", content=ANSWERED)
    for turns in ([asked, said], [asked, said, asked]):
        try:
            text = template.render(turns)
        except BadRow:
            continue
        _, found, behind = text.rpartition(ANSWERED)
        if not found:
            continue
        tail = behind.partition(ASKED)[0]
        added = {
            number for number, token in tokenizer.get_added_tokens_decoder().items() if token.content.strip()
        }
        for number in tokenizer.encode(tail, add_special_tokens=False).ids:
            if number in added:
                return Ends(frozenset([number]))
        if tail.strip():
            return Ends(frozenset(), (tail.rstrip(),))
    return Ends(frozenset())
