"""Render chat templates as transformers' `apply_chat_template` does, without loading it.

The environment is a sandbox, because templates are code from whoever made the model. A test compares what
is rendered here with transformers over every template that TRL and transformers ship.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sft.data.sample import BadRow, Message

OPEN, CLOSE = "\ufdd0\ufdd1", "\ufdd1\ufdd0"
"""What stands around the assistant's text while a template is rendered: noncharacters, which no text holds."""
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning; templates read the first, gpt-oss the second."""

Span = tuple[int, int]
"""First character and the one after the last."""


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: the part of a template that the assistant writes."""

    tags = {"generation"}

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.marked = 0
        """Blocks rendered since this was last set to 0: a text with more marks has some of its own."""

    def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
        """Wrap what the block renders in marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Any) -> str:
        """Render the block."""
        self.marked += 1
        return f"{OPEN}{caller()}{CLOSE}"


class Namespace(jinja2.utils.Namespace):
    """A template's `namespace()`, without names that lead out of the sandbox."""

    def __init__(*values: Any, **named: Any) -> None:  # no `self`, so that a template may name one so
        self, *rest = values
        attributes = dict(*rest, **named)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a template may not set the attribute {name!r}")


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as it is: jinja2's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


class _Dict:
    """`dict` as templates may call it."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=Namespace
    )
    return environment


class ChatTemplate:
    """One compiled template.

    Args:
        variables: what the tokenizer gives every template: `bos_token`, `eos_token`...

    Raises:
        jinja2.TemplateSyntaxError: the text is no template.
    """

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self.text = text
        self.variables = dict(variables)
        self.has_markers = bool(re.search(r"\{%-?\s*generation\s*-?%\}", text))
        environment = _environment()
        self._template = environment.from_string(text)
        # A context of plain dicts: jinja2 would copy its chained ones for every row.
        self._names = {**environment.globals, **self.variables, "documents": None}
        self._generation = cast(Generation, environment.extensions[Generation.identifier])

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        **more: Any,
    ) -> str:
        """Render a conversation.

        Raises:
            BadRow: the template raises, or has markers and the text itself holds the marks.
        """
        text = self._render(messages, tools, add_generation_prompt, more)
        return self._taken_apart(text)[0] if self.has_markers else text

    @cached_property
    def generation_prompt(self) -> str:
        """What generation starts behind: the header of the assistant's turn; empty where it cannot be told."""
        question = [Message(role="user", content="a")]
        try:
            without, text = self.render(question), self.render(question, add_generation_prompt=True)
        except BadRow:
            return ""
        return text.removeprefix(without) if text.startswith(without) else ""

    def render_with_spans(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None, **more: Any
    ) -> tuple[str, list[Span]]:
        """Render a conversation, and say which characters the generation markers enclose.

        Raises:
            BadRow: the template raises, or the text itself holds the marks.
        """
        return self._taken_apart(self._render(messages, tools, False, more))

    def _taken_apart(self, marked: str) -> tuple[str, list[Span]]:
        first, *pieces = marked.split(OPEN)
        parts, spans, at = [first], [], len(first)
        for piece in pieces:
            inside, mark, outside = piece.partition(CLOSE)
            if not mark or CLOSE in outside:
                raise _reserved()
            spans.append((at, at + len(inside)))
            parts += (inside, outside)
            at += len(inside) + len(outside)
        if CLOSE in first or len(spans) > self._generation.marked:
            raise _reserved()
        return "".join(parts), spans

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None,
        add_generation_prompt: bool,
        more: Mapping[str, Any],
    ) -> str:
        self._generation.marked = 0
        try:
            names = {
                **self._names,
                "messages": with_reasoning(messages),
                "tools": list(tools) if tools is not None else None,
                "add_generation_prompt": add_generation_prompt,
                **more,
            }
            return "".join(self._template.root_render_func(self._template.new_context(names, shared=True)))
        except (
            jinja2.exceptions.TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise BadRow(
                f"the chat template refuses the row: {error or type(error).__name__}",
                "mend the row, or set chat_template_path to a template that takes it",
                reason="refused by the chat template",
                malformed=True,
            ) from None

    def literals(self) -> str:
        """Return all text that the template itself holds, piece by piece with a NUL between."""
        tree = _environment().parse(self.text)
        found = {node.data for node in tree.find_all(nodes.TemplateData)}
        found |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        return "\0".join(sorted(found))


def with_reasoning(messages: Sequence[Message]) -> list[Message]:
    """Give a message's reasoning under every name that templates read it by."""
    return list(_named(messages))


def _named(messages: Sequence[Message]) -> Iterator[Message]:
    for message in messages:
        for name in REASONING:
            reasoning = message.get(name)
            if reasoning is not None:
                yield {"thinking": reasoning, **message, "reasoning_content": reasoning}
                break
        else:
            yield message


def _reserved() -> BadRow:
    return BadRow(
        "the row holds the noncharacters U+FDD0 and U+FDD1, which mark the assistant's text",
        "remove them from the text",
        reason="reserved characters",
        malformed=False,
    )
