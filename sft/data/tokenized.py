"""Rows that came tokenized: `input_ids` with labels, or with masks of what carries loss.

The first of these counts: `labels`; else the masks that are there, together (a token carries loss where each says 1);
else every token carries loss.
"""

from __future__ import annotations

from typing import Any

from sft.data.refusal import kind, malformed, nothing_to_learn
from sft.data.sample import Tokens

IGNORED = -100
MASKS = ("completion_mask", "assistant_masks", "loss_mask")


def read_tokens(row: dict[str, Any]) -> Tokens:
    """Check ids and labels.

    Raises:
        BadRow: they are no lists of whole numbers of one length, the row is padded, or nothing carries loss.
    """
    ids = _numbers(row["input_ids"], "input_ids")
    if not ids:
        raise nothing_to_learn("input_ids is an empty list", "remove the row", reason="no tokens")
    if min(ids) < 0:
        raise malformed(f"input_ids holds {min(ids)}", "ids are 0 or more", reason="bad tokens")
    if row.get("attention_mask") is not None:
        attention = _beside(row["attention_mask"], "attention_mask", ids)
        if 0 in attention:
            what = f"the row is padded: attention_mask is 0 in {attention.count(0)} of its {len(ids)} tokens"
            raise malformed(what, "store the rows without padding", reason="padded tokens")
    labels = _labels(row, ids)
    if labels is not ids and labels.count(IGNORED) == len(labels):
        raise nothing_to_learn(
            "no token of this row carries loss", "remove the row", reason="nothing trained"
        )
    return Tokens(ids, labels)


def _labels(row: dict[str, Any], ids: list[int]) -> list[int]:
    if row.get("labels") is not None:
        labels = _beside(row["labels"], "labels", ids)
        if labels == ids:
            return labels
        for place, (label, token) in enumerate(zip(labels, ids, strict=True)):
            if label != token and label != IGNORED:
                raise malformed(
                    f"label {place + 1} is {label}, neither the token's own id {token} nor {IGNORED}",
                    "store labels that are not shifted: the model shifts them",
                    reason="bad labels",
                )
        return labels
    masks = [_beside(row[name], name, ids) for name in MASKS if row.get(name) is not None]
    if not masks:
        return ids
    for name, mask in zip((name for name in MASKS if row.get(name) is not None), masks, strict=True):
        if not set(mask) <= {0, 1}:
            raise malformed(
                f"{name} holds more than 0 and 1", "use 1 where there is loss", reason="bad labels"
            )
    return [token if all(bits) else IGNORED for token, *bits in zip(ids, *masks, strict=True)]


def _beside(value: Any, name: str, ids: list[int]) -> list[int]:
    numbers = _numbers(value, name)
    if len(numbers) != len(ids):
        what = f"{name} has {len(numbers)} entries, and input_ids has {len(ids)}"
        raise malformed(what, "make them equally long", reason="bad labels")
    return numbers


def _numbers(value: Any, name: str) -> list[int]:
    """Return a list of whole numbers; true and false count as 1 and 0 in masks alone."""
    if value is None:
        raise nothing_to_learn(f"{name} is null", "fill it, or remove the row", reason="no tokens")
    if not isinstance(value, (list, tuple)):
        raise malformed(
            f"{name} is {kind(value)}, not a list", "write a list of whole numbers", reason="bad tokens"
        )
    allowed = {int, bool} if name in (*MASKS, "attention_mask") else {int}
    if not set(map(type, value)) <= allowed:
        wrong = next(item for item in value if type(item) not in allowed)
        raise malformed(
            f"{name} holds {kind(wrong)}, not whole numbers alone", "write whole numbers", reason="bad tokens"
        )
    return list(value)
