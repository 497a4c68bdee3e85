"""The chat templates that the installed TRL and transformers ship, conversations to render, and a tokenizer for them."""

from __future__ import annotations

import importlib.util
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from sft.data.tokenizer import TokenizerFiles

SPELLING = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")
"""What looks like a control token in a template."""


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


@lru_cache(maxsize=1)
def trl_templates() -> dict[str, str]:
    """All templates of TRL by file name, those for training included."""
    files = sorted((_package("trl") / "chat_templates").glob("*.jinja"))
    return {path.stem: path.read_text(encoding="utf-8") for path in files}


@lru_cache(maxsize=1)
def transformers_templates() -> dict[str, str]:
    """What transformers ships: no file of templates, but three processors carry one in their code."""
    from transformers.models.llama4.processing_llama4 import chat_template as llama4
    from transformers.models.qwen2_audio.processing_qwen2_audio import Qwen2AudioProcessor
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE as SMOLVLM

    default: Any = Qwen2AudioProcessor.default_chat_template
    return {"llama4": llama4, "qwen2_audio": default.fget(None), "smolvlm_video": SMOLVLM}


def templates() -> dict[str, str]:
    """Every shipped template by name."""
    return {
        **trl_templates(),
        **{f"transformers/{name}": text for name, text in transformers_templates().items()},
    }


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a town <today>.",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "description": "Its name"},
                "days": {"type": "integer"},
            },
            "required": ["town"],
        },
    },
}


def _call(arguments: Any) -> dict[str, Any]:
    return {"id": "call12345", "type": "function", "function": {"name": "weather", "arguments": arguments}}


def _turns(*contents: str, system: str | None = None) -> dict[str, Any]:
    roles = ("user", "assistant")
    messages = [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]
    return {"messages": [*([] if system is None else [{"role": "system", "content": system}]), *messages]}


CONVERSATIONS: dict[str, dict[str, Any]] = {
    "single": _turns("What is 2 plus 2?", "It is 4."),
    "system": _turns("Hello there.", "Good day.", system="Be brief & <kind>."),
    "turns": _turns("One?", "First answer.", "Two?", "Second answer.", "Three?", "Third answer."),
    "system and turns": _turns("One?", "First.", "Two?", "Second.", system="Count."),
    "empty question": _turns("", "You said nothing."),
    "white space": _turns("  indented\n\n", "\n  kept?  \n\n"),
    "unicode": _turns("Καλημέρα 👩‍👩‍👧‍👦 שלום é", "Guten Tag, 世界 🤖", "مرحبا", "Na sowas 🙂"),
    "quotes": _turns("Say \"yes\" & 'no' <b>{{ x }}</b> {% if %}", "`ok` {# no comment #}"),
    "reasoning": {
        "messages": [
            {"role": "user", "content": "Why is it?"},
            {"role": "assistant", "reasoning_content": "Let me think.", "content": "Because."},
        ]
    },
    "reasoning twice": {
        "messages": [
            {"role": "user", "content": "Why is it?"},
            {"role": "assistant", "thinking": "Thoughts of old.", "content": "Because."},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "reasoning": "Thoughts of now.", "content": "Nothing."},
        ]
    },
    "reasoning in content": _turns(
        "Why?", "<think>\nhm\n</think>\n\nBecause.", "So?", "<think>\nha\n</think>\n\nYes."
    ),
    "tools": {
        "messages": [
            {"role": "user", "content": "Weather of Ulm?"},
            {"role": "assistant", "content": "", "tool_calls": [_call({"town": "Ulm", "days": 2})]},
            {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": '{"sun": true}'},
            {"role": "assistant", "content": "Sunny."},
        ],
        "tools": [WEATHER],
    },
    "tools without content": {
        "messages": [
            {"role": "user", "content": "Weather of Ulm?"},
            {"role": "assistant", "tool_calls": [_call({"town": "Ulm"})]},
            {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "rain ü"},
            {"role": "assistant", "content": "Rain."},
        ],
        "tools": [WEATHER],
    },
    "tools with text for arguments": {
        "messages": [
            {"role": "system", "content": "Use tools."},
            {"role": "user", "content": "Weather of Ulm?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [_call('{"town": "Ulm"}')]},
            {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "rain"},
            {"role": "assistant", "content": "Rain."},
            {"role": "user", "content": "Thanks."},
            {"role": "assistant", "content": "Not at all."},
        ],
        "tools": [WEATHER],
    },
    "tools unused": {**_turns("Hi", "Hello", "Bye", "Ciao"), "tools": [WEATHER]},
    "late system": {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "system", "content": "Now in French."},
            {"role": "assistant", "content": "Salut"},
        ]
    },
    "user twice": {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "user", "content": "Are you there?"},
            {"role": "assistant", "content": "Yes"},
        ]
    },
    "user last": _turns("Hi", "Hello", "Bye"),
    "assistant first": {
        "messages": [{"role": "assistant", "content": "Welcome."}, {"role": "user", "content": "Hi"}]
    },
    "developer": {
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
        ]
    },
    "with variables": {
        **_turns("Hi", "Hello"),
        "template_kwargs": {"enable_thinking": False, "date_string": "1 May"},
    },
}


@lru_cache(maxsize=1)
def base_tokenizer() -> str:
    """A small byte-level BPE as JSON."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = [
        str(message.get("content", "")) for chat in CONVERSATIONS.values() for message in chat["messages"]
    ]
    tokenizer.train_from_iterator([*texts * 3, "user assistant system model tool weather answer"], trainer)
    return tokenizer.to_str()


SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}


@lru_cache(maxsize=1)
def plain_tokenizer() -> Any:
    """transformers' tokenizer, with no more special tokens than every template gets."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(base_tokenizer()), **SPECIAL)


@lru_cache(maxsize=256)
def files_for(template: str) -> TokenizerFiles:
    """A tokenizer that has what a template spells as tokens: special ones, but for `<think>` and its like."""
    tokenizer = Tokenizer.from_str(base_tokenizer())
    for token in [*SPECIAL.values(), *sorted(set(SPELLING.findall(template)))]:
        special = not re.fullmatch(r"</?[a-z_]+>", token) or token in ("<s>", "</s>", "<bos>", "<eos>")
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False)])
    return TokenizerFiles(tokenizer.to_str(), dict(SPECIAL), {"default": template})


@lru_cache(maxsize=256)
def transformers_tokenizer(template: str) -> Any:
    """The same tokenizer as transformers has it."""
    from transformers import PreTrainedTokenizerFast

    files = files_for(template)
    fast = PreTrainedTokenizerFast(tokenizer_object=files.build(), **files.special)
    fast.chat_template = template
    return fast
