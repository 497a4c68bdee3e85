"""Read a model's tokenizer from its own files. No transformers, except through one door that says so.

A model that has a `tokenizer.json` is tokenized by that file; `_sft`'s ranks, where transformers is loaded
anyway, compare what it gives with transformers' own tokenizer before the first step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from sft.data import rebuilt
from sft.errors import ExitCode, UserError
from sft.json_file import UnreadableError, read_json

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that every template may name."""
TEMPLATE_DIRECTORY = "additional_chat_templates"
PATTERNS = ("*token*", "*.jinja", f"{TEMPLATE_DIRECTORY}/*", "vocab*", "merges.txt", "*.model", "config.json")
"""The files of a model on the Hub that a tokenizer is made of."""
IGNORED = (
    "original/*", "onnx/*", "gguf/*", "openvino/*", "coreml/*", "metal/*", "checkpoint-*/*", "runs/*",
    "*.bin", "*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.gguf", "*.onnx", "*.h5",
    "*.msgpack", "*.npz", "*.tflite", "*.zip", "*.tar*", "*.index.json",
)  # fmt: skip
"""What is never fetched for its name alone: other formats of the model, and weights. Matches whole paths."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer as plain data, so that it can be handed to a worker.

    Attributes:
        backend: the JSON of a `tokenizers.Tokenizer`.
        special: `bos_token`, `eos_token`..., as far as the tokenizer has them.
        templates: chat templates by name; the usual one is "default".
        control: added tokens that steer the chat beside the special ones, where the tokenizer lists them.
        added: tokens that chat_template_path brought and the vocabulary lacked.
    """

    backend: str
    special: dict[str, str]
    templates: dict[str, str]
    control: tuple[str, ...] | None = None
    added: tuple[str, ...] = ()

    def build(self) -> Tokenizer:
        """Make the tokenizer, with neither padding nor truncation, and with white space in the offsets of tokens."""
        tokenizer = Tokenizer.from_str(self.backend.replace('"trim_offsets":true', '"trim_offsets":false'))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def template(self, has_tools: bool) -> str | None:
        """Return the template that a conversation is rendered with, as `apply_chat_template` picks it."""
        if has_tools and "tool_use" in self.templates:
            return self.templates["tool_use"]
        return self.templates.get("default")


def read_tokenizer(
    name: str,
    *,
    revision: str | None = None,
    backend: str = "auto",
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    key: str = "model_name_or_path",
) -> TokenizerFiles:
    """Read the tokenizer of a local directory or a model on the Hub (from the cache, where there is no network).

    Raises:
        UserError: it is not there, or is broken.
    """
    directory = _directory(name, revision, key)
    file = directory / "tokenizer.json"
    config = _json(directory / "tokenizer_config.json")
    why, taken = None, "TokenizersBackend"
    if not file.is_file():
        why = f"{name} has no tokenizer.json"
    elif backend == "transformers":
        why = "tokenizer_backend: transformers"
    else:
        try:
            written = file.read_text(encoding="utf-8")
            tokenizer = Tokenizer.from_str(written)
        except Exception as error:  # the library raises plain Exception for whatever is wrong in the file
            raise UserError(
                f"the tokenizer of {name} cannot be read: {error}",
                where=str(file),
                fix="fetch the model again",
            ) from None
        fields = json.loads(written)
        found = rebuilt.tokenizer_class(config, _json(directory / "config.json"), fields)
        if found is None:
            why = f"{name} does not say which kind of tokenizer it has"
        elif not rebuilt.is_as_built(found, config, fields):
            why = f"{found} does not take the tokenizer.json of {name} as it is"
        else:
            taken = found
    if why is not None:
        say(f"{why}: loading the tokenizer through transformers, which takes some seconds")
        return _through_transformers(directory, trust_remote_code, key)
    special = rebuilt.DEFAULTS.get(taken, {}) | _special_tokens(directory, config)
    special = {name: token for name, token in special.items() if token}
    _add_missing(tokenizer, _listed(directory, config), config, special)
    control = config.get("chat_control_tokens")
    return TokenizerFiles(
        tokenizer.to_str(),
        special,
        _templates(directory, config),
        tuple(control) if isinstance(control, list) and control else None,
    )


def with_template_of(own: TokenizerFiles, other: TokenizerFiles) -> TokenizerFiles:
    """Take another tokenizer's template, the tokens that it needs, and its end-of-sequence token, as TRL does.

    Source:
        trl.clone_chat_template: added tokens of the source that the vocabulary lacks, in the order of their ids.
    """
    tokenizer, source = own.build(), other.build()
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    missing = [
        token
        for _, token in sorted(source.get_added_tokens_decoder().items())
        if token.content not in vocabulary
    ]
    tokenizer.add_tokens(missing)
    special = {name: token for name, token in own.special.items() if name != "eos_token"}
    if "eos_token" in other.special:
        special["eos_token"] = other.special["eos_token"]
    template = other.template(has_tools=False)
    return replace(
        own,
        backend=tokenizer.to_str(),
        special=special,
        templates={} if template is None else {"default": template},
        added=tuple(token.content for token in missing),
    )


def _directory(name: str, revision: str | None, key: str) -> Path:
    """Return where the files lie, fetching them where they are not."""
    if Path(name).is_dir():
        return Path(name)
    if name.startswith(("/", "./", "../", "~")):
        raise UserError(f"there is no model at {name}", where=key, fix="check the path")
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        place = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(PATTERNS), ignore_patterns=list(IGNORED)
        )
        return Path(place)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"there is no model {name} on the Hub, or no access to it: {_line(error)}",
            where=key,
            fix="check the name, or log in with `hf auth login`",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise UserError(
            f"the tokenizer of {name} is not in the cache and the Hub cannot be reached: {_line(error)}",
            where=key,
            fix="fetch the model where there is a network, or name a local directory",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path) or {}
    except UnreadableError as broken:
        raise broken.refusal() from None


def _content(token: Any) -> str | None:
    """Return a token's text: written plainly, or as an AddedToken's fields."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _special_tokens(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Read the named special tokens; tokenizer_config.json wins, as in transformers. Empty for those named as null."""
    older = _json(directory / "special_tokens_map.json")
    named = {
        name: config[name] if name in config else older[name] for name in NAMED if name in {**older, **config}
    }
    extra = config.get("extra_special_tokens")  # a model's own names, e.g. image_token
    return {
        name: _content(token) or ""
        for name, token in (named | (extra if isinstance(extra, dict) else {})).items()
    }


def _listed(directory: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tokens that tokenizer_config.json lists, in the order of their ids.

    Raises:
        UserError: the list is broken.
    """
    found = config.get("added_tokens_decoder") or {}
    is_whole = isinstance(found, dict) and all(
        number.isdecimal() and isinstance(fields, dict) and isinstance(fields.get("content"), str)
        for number, fields in found.items()
    )
    if not is_whole:
        raise _broken(directory, "added_tokens_decoder does not say which tokens have which ids")
    return [found[number] for number in sorted(found, key=int)]


def _broken(directory: Path, what: str) -> UserError:
    file = directory / "tokenizer_config.json"
    return UserError(f"{file.name} is broken: {what}", where=str(file), fix="fetch the model again")


def _add_missing(
    tokenizer: Tokenizer, listed: list[dict[str, Any]], config: dict[str, Any], special: dict[str, str]
) -> None:
    """Add the tokens that tokenizer_config.json lists and tokenizer.json lacks, as transformers does."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for fields in listed:
        if fields["content"] not in known:
            flags = {
                name: bool(fields.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "special")
            }
            normalized = bool(fields.get("normalized", not flags["special"]))
            tokenizer.add_tokens([AddedToken(fields["content"], normalized=normalized, **flags)])
            known.add(fields["content"])
    extra = config.get("extra_special_tokens", config.get("additional_special_tokens", []))
    extra = list(extra.values()) if isinstance(extra, dict) else extra if isinstance(extra, list) else []
    for token in (*special.values(), *filter(None, map(_content, extra))):
        if token not in known:
            tokenizer.add_special_tokens([AddedToken(token, special=True)])
            known.add(token)


def _templates(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Find the chat templates: files of their own, else the configuration."""
    found: dict[str, str] = {}
    if (directory / "chat_template.jinja").is_file():
        found["default"] = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    for path in sorted((directory / TEMPLATE_DIRECTORY).glob("*.jinja")):
        found[path.stem] = path.read_text(encoding="utf-8")
    written = config.get("chat_template")
    if found or written is None:
        return found
    try:
        named = {one["name"]: one["template"] for one in written} if isinstance(written, list) else written
    except (KeyError, TypeError):
        raise _broken(directory, "a chat_template of several has no name or no template") from None
    named = named if isinstance(named, dict) else {"default": named}
    if not all(isinstance(text, str) for text in named.values()):
        raise _broken(directory, "chat_template is no text")
    return named


def _through_transformers(directory: Path, trust_remote_code: bool, key: str) -> TokenizerFiles:
    """The door across the torch line."""
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, TypeError, LookupError, AttributeError) as error:
        raise UserError(
            f"transformers cannot load the tokenizer: {_line(error)}",
            where=key,
            fix="check that the model's directory has its tokenizer files",
        ) from None
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{type(loaded).__name__} is written in Python and does not say which characters a token is made of",
            where=key,
            fix="convert it to a tokenizer.json, or use a model that has one",
        )
    templates = loaded.chat_template or {}
    control = getattr(loaded, "chat_control_tokens", None)
    return TokenizerFiles(
        backend.to_str(),
        dict(loaded.special_tokens_map),
        templates if isinstance(templates, dict) else {"default": templates},
        tuple(control) if control else None,
    )


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
