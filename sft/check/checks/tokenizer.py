"""The tokenizer is the model's: its ids have rows in the embeddings, the template's tokens are tokens, answers can end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sft.check.checks.model_weights import embedding_rows
from sft.check.finding import Finding, error, warning
from sft.check.local_rows import first_row
from sft.check.subject import Subject
from sft.check.vocabulary import Vocabulary, has_tokenizer, read_vocabulary

NAME = "tokenizer"
COST = "the tokenizer's files, and the first row of the data"
NEEDS = "nothing"

CONTROL = re.compile(r"<\|[^|<>\s'\"{}]{1,40}\|>|<[a-z]+_of_[a-z]+>")
"""How chat templates spell the tokens that steer a chat."""
SHOWN = 4
ANSWER = "forty-two-it-is"


def look(subject: Subject) -> Iterator[Finding]:
    """Look at the files alone; whether the tokenizer can be built is told where the rows are prepared."""
    directory = subject.model_directory
    if directory is None:
        return
    name = str(subject.config.model.model_name_or_path)
    where = f"{subject.where('model_name_or_path')}, {directory}"
    if Path(name).is_dir() and not has_tokenizer(directory) and any(directory.glob("*.safetensors")):
        fix = "copy tokenizer.json, tokenizer_config.json and what lies beside them from the model that it was made of"
        yield error(f"the model {name} has no tokenizer", where, fix)
        return
    vocabulary = read_vocabulary(directory)
    training = subject.config.training
    if vocabulary is None:
        return
    if training.eos_token is not None and vocabulary.special is not None:
        special = {**vocabulary.special, "eos_token": training.eos_token}
        vocabulary = replace(vocabulary, special=special)
    yield from _padding(subject, vocabulary, where)
    template, own = _template(subject, vocabulary)
    if template is not None and not own:
        yield from _pieces(subject, vocabulary, template)
    if training.chat_template_path is None or own is False:
        yield from _beyond(subject, vocabulary, template or "", where)
    if template is not None:
        yield from _end(subject, vocabulary, template, where)


def _template(subject: Subject, vocabulary: Vocabulary) -> tuple[str | None, bool]:
    """Return the chat template, and whether it is the model's own. One of another model brings its tokens with it."""
    given, path = subject.config.kit.chat_template, subject.config.training.chat_template_path
    if given is not None:
        return given, False
    if path is None:
        return vocabulary.template, True
    if not path.endswith((".jinja", ".j2")):
        return None, True
    try:
        return Path(path).read_text(encoding="utf-8"), False
    except (OSError, UnicodeDecodeError):
        return None, False  # told where the rows are prepared


def _key(subject: Subject) -> str:
    return subject.where("chat_template" if subject.config.kit.chat_template else "chat_template_path")


def _padding(subject: Subject, vocabulary: Vocabulary, where: str) -> Iterator[Finding]:
    """TRL pads with pad_token, the tokenizer's, or its end-of-sequence token, and refuses what is no token."""
    training, special = subject.config.training, vocabulary.special
    if training.pad_token is not None:
        is_cloned = training.chat_template_path is not None
        if vocabulary.id_of(training.pad_token) is None and not is_cloned:
            yield error(
                f"the vocabulary has no token {training.pad_token!r}",
                subject.where("pad_token"),
                "name a token that the tokenizer has, or leave pad_token out",
            )
    elif special is not None and not {"pad_token", "eos_token"} & special.keys():
        yield error(
            "the tokenizer names neither a pad_token nor an eos_token: rows cannot be made equally long, and no answer"
            " ends",
            where,
            "set eos_token, and pad_token, to tokens of the vocabulary",
        )


def _pieces(subject: Subject, vocabulary: Vocabulary, template: str) -> Iterator[Finding]:
    """Tell control tokens of a template of the user's that the vocabulary lacks."""
    missing = [one for one in _spelled(template) if vocabulary.id_of(one) is None]
    if missing:
        yield warning(
            f"the chat template writes {', '.join(missing[:SHOWN])}, which the vocabulary lacks: each falls into pieces"
            " that the model has to learn as text",
            _key(subject),
            "take a template in tokens of this model, or name in chat_template_path a model that has both: its tokens"
            " are added",
        )


def _spelled(template: str) -> list[str]:
    from jinja2 import TemplateSyntaxError

    from sft.data.template import ChatTemplate

    try:
        text = ChatTemplate(template, {}).literals()
    except TemplateSyntaxError:
        return []  # told where the rows are prepared
    return list(dict.fromkeys(CONTROL.findall(text)))


def _beyond(subject: Subject, vocabulary: Vocabulary, template: str, where: str) -> Iterator[Finding]:
    """Tell tokens without a row in the embeddings: "index out of range", on a GPU an assertion in a kernel."""
    rows = embedding_rows(subject.tensors or [])
    if rows is None:
        return
    special = vocabulary.special or {}
    training = subject.config.training
    alone = subject.plan is not None and subject.plan.micro_batch == 1
    is_padded = not (training.packing or training.padding_free or alone)
    used = {training.pad_token or special.get("pad_token", "")} if is_padded else set()
    used |= {"" if _is_chat(subject) else special.get("eos_token", "")}
    chat = _rendered(vocabulary, template) if template else None
    used |= {token for token in vocabulary.added if token and chat is not None and token in chat}
    beyond = {one: number for one in used if (number := vocabulary.id_of(one)) is not None and number >= rows}
    fix = (
        "take the tokenizer that the model came with; or resize the embeddings once, with resize_token_embeddings,"
        " and save both"
    )
    if beyond:
        told = ", ".join(f"{token} ({number:,})" for token, number in sorted(beyond.items())[:SHOWN])
        yield error(f"the model has embeddings for {rows:,} tokens, and none for {told}", where, fix)
        return
    words = sum(number >= rows for word, number in vocabulary.words.items() if word not in vocabulary.added)
    if words:
        what = f"{words:,} words of the tokenizer have ids beyond the {rows:,} rows of the embeddings: rows that hold"
        yield warning(f"{what} one would end the run", where, fix)


def _end(subject: Subject, vocabulary: Vocabulary, template: str, where: str) -> Iterator[Finding]:
    """Tell answers that end in a token at which generation does not."""
    special = vocabulary.special
    if special is None or not _is_chat(subject):
        return
    ends = _end_of_turn(vocabulary, template)
    number = None if ends is None else vocabulary.id_of(ends)
    if ends is None or ends == special.get("eos_token") or number in vocabulary.stops:
        return
    yield warning(
        f"the chat template ends an answer with {ends}, and generation ends at"
        f" {special.get('eos_token', 'no token at all')}: what is trained would not stop",
        where if "eos_token" not in subject.loaded.sources else subject.where("eos_token"),
        f'set eos_token: "{ends}"',
    )


def _is_chat(subject: Subject) -> bool:
    """Whether the rows go through the template, as far as that is known."""
    if subject.config.training.assistant_only_loss:
        return True
    row = first_row(subject.config) or {}
    return isinstance(row.get("messages", row.get("conversations")), list)


def _end_of_turn(vocabulary: Vocabulary, template: str) -> str | None:
    """Render a chat, and return the token that follows the answer; None where there is none, or no telling."""
    text = _rendered(vocabulary, template)
    if text is None:
        return None
    after = text.rpartition(ANSWER)[2].lstrip()
    found = [token for token in vocabulary.added if token and after.startswith(token)]
    return max(found, key=len, default=None)


def _rendered(vocabulary: Vocabulary, template: str) -> str | None:
    """Render a question and an answer; None where the template takes no such chat, which is told with the rows."""
    from jinja2 import TemplateSyntaxError

    from sft.data.sample import BadRow, Message
    from sft.data.template import ChatTemplate

    chat = [Message(role="user", content="What is it?"), Message(role="assistant", content=ANSWER)]
    try:
        return ChatTemplate(template, dict(vocabulary.special or {})).render(chat)
    except (TemplateSyntaxError, BadRow):
        return None
