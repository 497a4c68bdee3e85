"""What a run has come to, read from its directory: for the flow's artifacts and its card. Plain values, which any store takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sft.events import Event, read_events
from sft.json_file import UnreadableError, read_json
from sft.report.history import History
from sft.rundir import RunDirectory
from sft.units import clock, gib


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One run.

    Attributes:
        settings: the resolved run file, flat, without secrets.
        losses, eval_losses: step and loss, in order of step.
        planned: rows of what, planned, measured.
        metrics: by name, the last value of each.
    """

    settings: dict[str, Any]
    losses: list[tuple[int, float]]
    eval_losses: list[tuple[int, float]]
    planned: list[tuple[str, str, str]]
    metrics: dict[str, float | int | str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as Python's own types, which are read without the kit."""
        return asdict(self)


def read_results(run: RunDirectory) -> Results:
    """Read what a run has left, however it ended."""
    events = list(read_events(run.events_jsonl))
    history = History(events)
    plan, measured, outcome = _read(run, "plan"), _read(run, "measured"), _read(run, "outcome")
    return Results(
        settings=_flat(history.config),
        losses=_curve(history, "train/loss"),
        eval_losses=_curve(history, "eval/loss"),
        planned=_against(plan, measured, events),
        metrics=_metrics(history, measured, outcome),
    )


def _read(run: RunDirectory, name: str) -> dict[str, Any]:
    paths = {"plan": run.plan_json, "measured": run.measured_json, "outcome": run.outcome_json}
    try:
        return read_json(paths[name]) or {}
    except UnreadableError:
        return {}  # a run that was killed while it wrote


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "launch" and isinstance(value, dict):
            flat |= {f"launch.{inner}": held for inner, held in value.items()}
        else:
            flat[key] = value
    return flat


def _curve(history: History, name: str) -> list[tuple[int, float]]:
    return [(row.step, row.metrics[name]) for row in history.rows if name in row.metrics]


def _metrics(
    history: History, measured: dict[str, Any], outcome: dict[str, Any]
) -> dict[str, float | int | str]:
    found: dict[str, float | int | str] = {}
    for row in history.rows:
        found |= {"step": row.step, **row.metrics, **row.summary}
    kept = ("status", "exit_code", "step")
    found |= {key: outcome[key] for key in kept if key in outcome}
    found |= {key: value for key, value in measured.items() if key.endswith("_bytes")}
    return {key.replace("train/", "").replace("eval/", "eval_"): value for key, value in found.items()}


def _against(
    plan: dict[str, Any], measured: dict[str, Any], events: list[Event]
) -> list[tuple[str, str, str]]:
    """Set what was planned beside what was measured; what is not known is a dash."""
    if not plan:
        return []
    starts = [event for event in events if event.get("event") == "start"]
    ranks = str(starts[-1].get("world_size")) if starts else "-"
    logs = [event for event in events if event.get("event") == "log"]
    steps = [event["step"] for event in logs if "step" in event]
    last = next((event["max_steps"] for event in reversed(logs) if "max_steps" in event), None)
    on_gpu = plan.get("device") == "gpu"
    held = measured.get("gpu_reserved_bytes" if on_gpu else "process_bytes")
    memory = plan.get("memory") or {}
    bill = f"about {gib(memory['likely'])}, at most {gib(memory['at_most'])}" if memory else "-"
    speeds = [event["trained_tokens_per_second"] for event in logs if "trained_tokens_per_second" in event]
    return [
        ("strategy, processes", f"{plan.get('strategy')}, {plan.get('processes')}", ranks),
        ("rows a step", str(plan.get("total_train_batch_size", "-")), "-"),
        ("steps", "-" if last is None else str(last), str(max(steps)) if steps else "-"),
        ("memory of one " + ("GPU" if on_gpu else "process"), bill, _held(held, on_gpu)),
        ("trained tokens a second", "-", f"{sum(speeds) / len(speeds):,.0f}" if speeds else "-"),
        ("time of training", "-", _time(events)),
    ]


def _held(held: int | None, on_gpu: bool) -> str:
    """Spell what was held; of a process on the CPU the bill knows tensors alone."""
    if held is None:
        return "-"
    return gib(held) if on_gpu else f"{gib(held)} with Python and its libraries"


def _time(events: list[Event]) -> str:
    """Add the time of every attempt, from its start to the last that is heard of it."""
    total, began, heard = 0.0, None, 0.0
    for event in events:
        if event.get("event") == "start":
            total += heard - began if began is not None else 0.0
            began = event["time"]
        heard = event["time"]
    return clock(total + heard - began) if began is not None else "-"
