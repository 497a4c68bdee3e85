"""A conversation with one base and two adapters: who answers, what is remembered, and every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sft.export.conversation import Conversation
from sft.export.generate import Engine
from sft.export.generation import GenerationSettings
from sft.export.subject import find_subject
from tests.export.adapters import write_adapter
from tests.export.taught import BEFORE, CHATS, answer


@pytest.fixture(scope="module")
def engine(lora_run: Path, full_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    other = write_adapter(full_run, tmp_path_factory.mktemp("other") / "other", std=0.2)
    engine = Engine(find_subject(str(lora_run), [str(other)]))
    engine.attach()
    return engine


class Heard:
    """A conversation, and what it has written."""

    def __init__(self, engine: Engine) -> None:
        self.answers: list[str] = []
        self.told: list[str] = []
        settings = GenerationSettings(max_new_tokens=40)
        self.talk = Conversation(engine, self.answers.append, self.told.append, settings, speaker="out")

    def __call__(self, line: str) -> tuple[str, list[str]]:
        """Say a line; return the answer and what was told beside it."""
        self.answers.clear()
        self.told.clear()
        assert self.talk.take(line)
        return "".join(self.answers), list(self.told)


@pytest.fixture
def say(engine: Engine) -> Heard:
    return Heard(engine)


def question_of(number: int) -> str:
    return CHATS[number]["messages"][0]["content"]


def test_what_was_learned_is_answered_and_remembered(say: Heard) -> None:
    assert say(question_of(2)) == (answer(CHATS[2]) + "\n", [])
    assert [message["role"] for message in say.talk.messages] == ["user", "assistant"]
    say("and then?")
    assert [message["role"] for message in say.talk.messages] == ["user", "assistant"] * 2
    assert say("/reset") == ("", ["a new conversation"])
    assert say.talk.messages == []
    assert say(question_of(1))[0] == answer(CHATS[1]) + "\n"


def test_adapters_and_the_base_take_turns(say: Heard) -> None:
    assert say("/adapter")[1] == ["  base", "* out", "  other"]
    assert say("/adapter other")[1] == ["other answers from here on"]
    other = say(question_of(0))[0]
    say("/reset")
    assert say("/base")[1] == ["base answers from here on"]
    base = say(question_of(0))[0]
    say("/reset")
    say("/adapter out")
    assert say(question_of(0))[0] == answer(CHATS[0]) + "\n"
    assert len({other, base, answer(CHATS[0]) + "\n"}) == 3
    say("/reset")
    answers, told = say(f"/compare {question_of(0)}")
    assert [line for line in told if line.startswith("---")] == ["--- base", "--- out", "--- other"]
    assert answers == base + answer(CHATS[0]) + "\n" + other
    assert say.talk.messages == [], "asked outside the conversation"


def test_how_answers_are_sampled_can_be_changed(say: Heard) -> None:
    shown = say("/set temperature 0.7")[1]
    assert "  temperature 0.7" in shown
    assert say.talk.settings.temperature == 0.7
    assert say("/set")[1] == shown
    say("/set temperature 0")
    assert say("/set max_new_tokens 2")[1]
    answer_, told = say(question_of(0))
    assert answer(CHATS[0]).startswith(answer_.strip())
    assert told == ["(cut at 2 tokens: /set max_new_tokens 4 allows more)"]


def test_a_system_prompt_comes_first(say: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    ask = say.talk.engine.answer
    monkeypatch.setattr(
        say.talk.engine,
        "answer",
        lambda messages, *more: seen.append([m["role"] for m in messages]) or ask(messages, *more),
    )
    say("/system Be brief.")
    say("/set max_new_tokens 1")
    say("Hi")
    say("/system")
    say("Hi")
    assert seen == [["system", "user"], ["user", "assistant", "user"]]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/adapter nobody", "there is no adapter 'nobody'\n  fix:   one of: out, other"),
        ("/set heat 1", "there is no setting 'heat'\n  fix:   one of: max_new_tokens, temperature, top_p"),
        ("/set temperature hot", "temperature cannot be 'hot'\n  fix:   give a number from 0.0 to 10.0"),
        ("/frobnicate", "there is no command /frobnicate\n  fix:   one of: /adapter, /base"),
        ("/compare", "there is nothing to ask\n  fix:   /compare TEXT"),
        ("word " * 700, "the conversation has"),
    ],
)
def test_what_cannot_be_is_told_and_the_conversation_goes_on(line: str, told: str, say: Heard) -> None:
    answers, lines = say(line)
    assert answers == ""
    assert "\n".join(lines).startswith(told)
    assert say.talk.messages == []


def test_ctrl_c_breaks_the_answer_off_and_keeps_what_was_said(say: Heard) -> None:
    pieces: list[str] = []

    def interrupt(piece: str) -> None:
        pieces.append(piece)
        if len(pieces) == 2:
            raise KeyboardInterrupt

    say.talk.write = interrupt
    assert say.talk.take(question_of(3))
    assert say.told == ["(broken off)"]
    assert answer(CHATS[3]).startswith(say.talk.messages[-1]["content"])
    say.talk.write = say.answers.append
    say("/reset")
    assert say(question_of(3))[0] == answer(CHATS[3]) + "\n"


def test_a_run_of_every_weight_has_no_base_to_go_back_to(full_run: Path, ends_otherwise: Path) -> None:
    engine = Engine(find_subject(str(full_run)))
    heard = Heard(engine)
    heard.talk.speaker = None
    assert heard(BEFORE[4]["messages"][0]["content"])[0] == answer(BEFORE[4]) + "\n"
    assert heard("/base")[1] == [
        "every weight was trained, so there is no adapter to switch off\n"
        f"  fix:   sft chat {ends_otherwise} talks to the model that it began with"
    ]


def test_help_and_leaving(say: Heard) -> None:
    assert any(line.startswith("  /set NAME VALUE") for line in say("/help")[1])
    assert say("") == ("", [])
    take: Callable[[str], bool] = say.talk.take
    assert not take("/quit")
