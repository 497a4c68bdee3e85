"""The flow's card: settings, loss curve, plan against what was measured, checkpoints, samples."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from sft.units import gib

SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
# What Markdown or HTML would take for its own, in text that comes from data and models.
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def components(
    title: str,
    results: Mapping[str, Any],
    checkpoints: Sequence[Mapping[str, Any]],
    samples: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> list[Any]:
    """Return what the card holds, from top to bottom.

    Args:
        results: of `sft.flow.results.Results.to_dict`.
        checkpoints: references, as the datastore lists them.
        samples: question, answer before, answer after.
        notes: what is missing, and why.
    """
    # Its module exports them in a way, and types them in another, that a strict check does not take.
    cards: Any = import_module("metaflow.cards")
    Markdown, Table, VegaChart = cards.Markdown, cards.Table, cards.VegaChart

    parts: list[Any] = [Markdown(f"# {plain(title)}"), Markdown(summary(results["metrics"]))]
    parts += [Markdown(f"*{plain(note)}*") for note in notes]
    parts.append(Markdown("## Loss"))
    curve = loss_chart(results["losses"], results["eval_losses"])
    parts.append(VegaChart(curve) if curve else Markdown("No loss was logged (logging_steps)."))
    parts.append(Markdown("## Plan and measurement"))
    parts.append(Table([list(row) for row in results["planned"]], headers=["what", "planned", "measured"]))
    if samples:
        parts.append(Markdown("## Samples"))
        rows = [[Markdown(plain(text)) for text in row] for row in samples]
        parts.append(Table(rows, headers=["question", "base", "tuned"]))
    parts.append(Markdown("## Checkpoints in the datastore"))
    parts.append(
        Table(checkpoint_rows(checkpoints), headers=["step", "epoch", "loss", "eval loss", "size", "attempt"])
    )
    parts.append(Markdown("## Settings"))
    settings = [[key, _spelled(value)] for key, value in sorted(results["settings"].items())]
    parts.append(Table(settings, headers=["key", "value"]))
    return parts


def summary(metrics: Mapping[str, Any]) -> str:
    """Say in one line what came out."""
    parts = [f"{metrics.get('status', 'ended')} at step {metrics.get('step', '?')}"]
    parts += [f"{name} {metrics[key]:.4g}" for key, name in (("train_loss", "mean loss"), ("eval_loss", "loss on held-out rows")) if isinstance(metrics.get(key), float)]  # fmt: skip
    return plain(", ".join(parts))


def loss_chart(
    losses: Sequence[Sequence[float]], eval_losses: Sequence[Sequence[float]]
) -> dict[str, Any] | None:
    """Return the curve as Vega-Lite, or None where there is nothing to draw."""
    values = [
        {"step": step, "loss": loss, "rows": rows}
        for rows, curve in (("training", losses), ("held out", eval_losses))
        for step, loss in curve
        if loss == loss and abs(loss) != float("inf")
    ]
    if not values:
        return None
    return {
        "$schema": SCHEMA,
        "width": 640,
        "height": 280,
        "data": {"values": values},
        "mark": {"type": "line", "point": True, "tooltip": True},
        "encoding": {
            "x": {"field": "step", "type": "quantitative", "title": "step"},
            "y": {"field": "loss", "type": "quantitative", "title": "loss", "scale": {"zero": False}},
            "color": {"field": "rows", "type": "nominal", "title": None},
        },
    }


def checkpoint_rows(references: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each checkpoint, by step."""
    told = [(one.get("metadata") or {}, one) for one in references]
    rows = sorted(
        (item for item in told if isinstance(item[0].get("step"), int)), key=lambda item: item[0]["step"]
    )
    return [
        [
            str(known["step"]),
            f"{known.get('epoch', 0):.2f}",
            _number(known.get("loss")),
            _number(known.get("eval_loss")),
            gib(known.get("bytes", 0)),
            str(one.get("attempt", "-")),
        ]
        for known, one in rows
    ]


def plain(text: str) -> str:
    """Have text shown as it is where Markdown is read, with its lines."""
    return SPECIAL.sub(r"\\\1", text).replace("\n", "  \n")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, (int, float)) else "-"


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
