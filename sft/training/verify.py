"""Compare prepared tokens with what transformers' own tokenizer makes of the same rows."""

from __future__ import annotations

from typing import Any

from trl import get_training_chat_template

from sft.config.run import RunConfig
from sft.data.cache import Entry
from sft.errors import UserError


def verify_tokens(entry: Entry, tokenizer: Any, config: RunConfig) -> None:
    """Tokenize a few rows again through transformers, which would serve the model, and compare.

    Raises:
        UserError: the tokens differ: tokenizer.json is not what transformers makes of it.
    """
    if hasattr(tokenizer, "tokenizer"):  # a processor; the text goes through its tokenizer
        tokenizer = tokenizer.tokenizer
    for role, probes in entry.manifest["probes"].items():
        for probe in probes:
            ids = probe["ids"]
            found = _again(probe, tokenizer, config)
            if found is None or found[: len(ids)] == ids:
                continue
            at = next(
                (i for i, (one, other) in enumerate(zip(ids, found, strict=False)) if one != other),
                len(found),
            )
            raise UserError(
                f"the {role} row {probe['where']} was prepared with other tokens than transformers gives it, from "
                f"token {at} on: {tokenizer.decode(ids[at : at + 5])!r} and {tokenizer.decode(found[at : at + 5])!r}",
                where="tokenizer_backend",
                fix="set tokenizer_backend: transformers, which prepares the data through transformers",
            )


def _again(probe: dict[str, Any], tokenizer: Any, config: RunConfig) -> list[int] | None:
    """Tokenize a row as TRL would; None where there is nothing to compare."""
    if "messages" in probe:
        if "strftime_now" in str(tokenizer.chat_template):  # prepared on another day, perhaps
            return None
        template = get_training_chat_template(tokenizer) if probe["differs"] else None
        return list(
            tokenizer.apply_chat_template(
                probe["messages"],
                tools=probe["tools"],
                chat_template=template,
                return_dict=True,
                **probe["kwargs"],
            )["input_ids"]
        )
    if "text" not in probe:
        return None
    text, end = probe["text"], config.training.eos_token or tokenizer.eos_token or ""
    return list(tokenizer(text if text.endswith(end) else text + end)["input_ids"])
