"""From an event to the line that a person reads. Pure functions; nothing here prints."""

from __future__ import annotations

import math
from typing import Any

from sft.events import Event

PHASES = {
    "load": "loading the model",
    "prepare": "preparing the data",
    "train": "training",
    "evaluate": "evaluating",
    "save": "saving a checkpoint",
    "export": "saving the result",
    "push": "pushing to the Hub",
}
# Said by events of their own, and too frequent for a line each in a log file.
PASSING_PHASES = ("evaluate", "save")
GIB = 1024**3
EVALUATION_TIMES = (
    "runtime",
    "samples_per_second",
    "steps_per_second",
    "num_tokens",
    "model_preparation_time",
)


def number(value: Any) -> float | None:
    """Read a number that an event holds; NaN and infinities are spelled as strings there."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def clock(seconds: float) -> str:
    """Write a duration as HH:MM:SS, with the days in front where there are any."""
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86400)
    text = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}d {text}" if days else text


def _plain(value: Any) -> str:
    """Write one value of a summary or of a metric."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def step_text(event: Event) -> str:
    """Write how far the run is: `step 20/100`, or `step 20` where the end is unknown."""
    step, last = number(event.get("step")), number(event.get("max_steps"))
    if step is None:
        return ""
    return f"step {step:.0f}/{last:.0f}" if last and last > 0 else f"step {step:.0f}"


def measures(event: Event) -> dict[str, str]:
    """Write each measure of a `log` event by its field, in the order they are shown."""
    written: dict[str, str] = {}
    if step := step_text(event):
        written["step"] = step
    if (loss := number(event.get("loss"))) is not None:
        written["loss"] = f"loss {loss:.3f}" if abs(loss) < 1e4 else f"loss {loss:.3g}"
    if (rate := number(event.get("learning_rate"))) is not None:
        written["learning_rate"] = f"lr {rate:.1e}"
    speed = number(event.get("trained_tokens_per_second"))
    if speed is not None and math.isfinite(speed):
        written["speed"] = f"{speed:,.0f} tokens/s"
    peak = number(event.get("peak_memory_bytes"))
    if peak is not None and math.isfinite(peak):
        written["peak"] = f"peak {peak / GIB:.1f} GiB"
    left = number(event.get("seconds_left"))
    if left is not None and math.isfinite(left):
        written["left"] = f"left {clock(left)}"
    return written


def log_line(event: Event) -> str | None:
    """Write a `log` event as one line; None where it holds no loss (the trainer's closing totals)."""
    return "  ".join(measures(event).values()) if "loss" in event else None


def evaluation_line(event: Event) -> str:
    """Write an `evaluate` event: its metrics without the `eval_` in front and without the timings."""
    metrics = {key.removeprefix("eval_"): value for key, value in event.items() if key.startswith("eval_")}
    written = [
        f"{name} {figure:.3f}"
        for name, value in metrics.items()
        if not name.endswith(EVALUATION_TIMES) and (figure := number(value)) is not None
    ]
    return "  ".join([f"evaluation at {step_text(event) or 'the start'}", *written])


def model_line(event: Event) -> str:
    """Write the summary of what was loaded, whichever fields it has."""
    written = []
    for key, value in event.items():
        if key in ("time", "event") or value is None:
            continue
        name, size = key.replace("_", " "), number(value)
        if key.endswith("bytes") and size is not None:
            written.append(f"{name.removesuffix(' bytes')} {size / GIB:.2f} GiB")
        else:
            written.append(f"{name} {_plain(value)}")
    return "model: " + "; ".join(written)


def _start_line(event: Event) -> str:
    world, step = number(event.get("world_size")) or 1, number(event.get("step")) or 0
    processes = f"{world:.0f} process" + ("es" if world > 1 else "")
    return f"resumed from step {step:.0f} on {processes}" if step else f"started on {processes}"


def _push_line(event: Event) -> str:
    what, url = event.get("what") or "the run", event.get("url")
    state = {"waiting": "waits to be pushed", "done": "pushed", "failed": "could not be pushed"}
    line = f"{what}: {state.get(str(event.get('state')), event.get('state'))}"
    return f"{line} ({url})" if url else line


def _end_line(event: Event) -> str:
    step = f" at {step_text(event)}" if step_text(event) else ""
    more = ", to be resumed from there" if event.get("status") == "stopped" and step else ""
    return f"{event.get('status', 'ended')}{step}{more}"


def ordinary_line(event: Event) -> str | None:
    """Write what stays on the screen of an event other than `log`; None where nothing does."""
    match event.get("event"):
        case "start":
            return _start_line(event)
        case "model":
            return model_line(event)
        case "evaluate":
            return evaluation_line(event)
        case "save":
            return f"saved {event.get('path') or step_text(event)}"
        case "push":
            return _push_line(event)
        case "note":
            return str(event.get("text", ""))
        case "end":
            return _end_line(event)
    return None


def plain_line(event: Event) -> str | None:
    """Write an event as a log file shows it; None where it shows nothing."""
    if event.get("event") == "log":
        return log_line(event)
    if event.get("event") == "phase" and event.get("phase") not in PASSING_PHASES:
        return PHASES.get(str(event.get("phase")), str(event.get("phase")))
    return ordinary_line(event)
