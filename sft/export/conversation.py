"""A conversation in the terminal: what is said, who answers, and the commands between. Imports no torch.

Answers go to `write` as they come; everything else goes to `say`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sft.data.sample import Message
from sft.errors import UserError
from sft.export.generation import GenerationSettings

if TYPE_CHECKING:
    from sft.export.generate import Engine

COMMANDS = {
    "/adapter NAME": "answer with this adapter; alone, list them",
    "/base": "answer with the base, every adapter off",
    "/compare TEXT": "ask base and every adapter, outside the conversation",
    "/reset": "begin a new conversation",
    "/system TEXT": "set the system prompt; alone, remove it",
    "/set NAME VALUE": "change how answers are sampled; alone, show it",
    "/help": "this list",
    "/quit": "leave, as Ctrl-D does; Ctrl-C breaks an answer off",
}
BASE = "base"
Print = Callable[[str], None]


@dataclass(slots=True)
class Conversation:
    """One conversation, with one model speaking at a time.

    Attributes:
        speaker: the adapter that answers; None is the base.
    """

    engine: Engine
    write: Print
    say: Print
    settings: GenerationSettings = field(default_factory=GenerationSettings)
    speaker: str | None = None
    system: str | None = None
    messages: list[Message] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Take a line of the user's; return whether the conversation goes on."""
        if not line.strip():
            return True
        try:
            if line.startswith("/"):
                return self._command(line)
            self.ask(line)
        except UserError as error:
            self.say(str(error))
        return True

    def ask(self, text: str) -> None:
        """Say something and write the answer; both are kept, also where the answer was broken off.

        Raises:
            UserError: the conversation cannot be rendered or is too long; then nothing is kept.
        """
        said = Message(role="user", content=text)
        answer = self._answer([*self.messages, said], self.speaker)
        self.messages += [said, Message(role="assistant", content=answer)]

    def _answer(self, messages: list[Message], speaker: str | None) -> str:
        system = [Message(role="system", content=self.system)] if self.system else []
        reply = self.engine.answer([*system, *messages], speaker, self.settings)
        try:
            for piece in reply:
                self.write(piece)
        except KeyboardInterrupt:
            self.write("\n")
            self.say("(broken off)")
            return reply.text
        self.write("\n")
        if reply.ended == "length":
            self.say(
                f"(cut at {reply.tokens} tokens: /set max_new_tokens {2 * self.settings.max_new_tokens} allows more)"
            )
        return reply.text

    def _command(self, line: str) -> bool:
        name, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if name in ("/quit", "/exit"):
            return False
        if name == "/help":
            width = max(map(len, COMMANDS))
            for usage, text in COMMANDS.items():
                self.say(f"  {usage:<{width}}  {text}")
        elif name == "/base":
            self._speak(None)
        elif name == "/adapter":
            self._speak(rest or None, lists=not rest)
        elif name == "/compare":
            self._compare(rest)
        elif name == "/reset":
            self.messages.clear()
            self.say("a new conversation")
        elif name == "/system":
            self.system = rest or None
            self.say("system prompt set" if rest else "no system prompt")
        elif name == "/set":
            self._set(rest)
        else:
            known = ", ".join(usage.partition(" ")[0] for usage in COMMANDS)
            raise UserError(f"there is no command {name}", fix=f"one of: {known}")
        return True

    def _speak(self, name: str | None, *, lists: bool = False) -> None:
        names = self.engine.names
        if lists:
            for one in (None, *names):
                self.say(f"{'*' if one == self.speaker else ' '} {one or BASE}")
            return
        if name is None and self.engine.subject.untrained is not None:
            raise UserError(
                "every weight was trained, so there is no adapter to switch off",
                fix=f"sft chat {self.engine.subject.untrained} talks to the model that it began with",
            )
        if name is not None and name not in names:
            raise UserError(
                f"there is no adapter {name!r}", fix=f"one of: {', '.join(names) or 'none is loaded'}"
            )
        self.speaker = name
        self.say(f"{name or BASE} answers from here on")

    def _compare(self, text: str) -> None:
        if not text:
            raise UserError("there is nothing to ask", fix="/compare TEXT")
        for name in (None, *self.engine.names):
            self.say(f"--- {name or BASE}")
            self._answer([Message(role="user", content=text)], name)

    def _set(self, words: str) -> None:
        if words:
            name, _, value = words.partition(" ")
            self.settings = self.settings.changed(name, value.strip())
        for line in self.settings.lines():
            self.say(f"  {line}")
