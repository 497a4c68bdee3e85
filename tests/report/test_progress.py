"""From events to the lines that a person reads, and how a printer shows them."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest

from sft.report.lines import clock, log_line, plain_line
from sft.report.progress import ProgressPrinter, View, live_line

LOG: dict[str, Any] = {
    "event": "log",
    "step": 20,
    "max_steps": 100,
    "epoch": 0.2,
    "loss": 1.2341,
    "learning_rate": 2e-4,
    "grad_norm": 0.7,
    "trained_tokens_per_second": 1234.4,
    "peak_memory_bytes": 2040109466,
    "seconds_left": 190.2,
}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (LOG, "step 20/100  loss 1.234  lr 2.0e-04  1,234 tokens/s  peak 1.9 GiB  left 00:03:10"),
        ({"event": "log", "step": 3, "loss": "nan"}, "step 3  loss nan"),
        ({"event": "log", "step": 100, "train_runtime": 12.0, "train_loss": 1.0}, None),
        ({"event": "start", "world_size": 1, "step": 0}, "started on 1 process"),
        ({"event": "start", "world_size": 8, "step": 40}, "resumed from step 40 on 8 processes"),
        ({"event": "phase", "phase": "load"}, "loading the model"),
        ({"event": "phase", "phase": "evaluate"}, None),
        ({"event": "phase", "phase": "anything"}, "anything"),
        (
            {"event": "evaluate", "step": 20, "eval_loss": 1.5, "eval_mean_token_accuracy": 0.61, "eval_runtime": 2.0},
            "evaluation at step 20  loss 1.500  mean_token_accuracy 0.610",
        ),
        (
            {"event": "model", "time": 1.0, "parameters": 134515008, "trainable_percent": 0.3414, "dtypes": "bfloat16 134,515,008", "quantized": None, "weight_bytes": 269030016},
            "model: parameters 134,515,008; trainable percent 0.3414; dtypes bfloat16 134,515,008; weight 0.25 GiB",
        ),
        ({"event": "save", "step": 20, "path": "/runs/a/checkpoint-20"}, "saved /runs/a/checkpoint-20"),
        ({"event": "push", "state": "done", "what": "step 20", "url": "http://h/a"}, "step 20: pushed (http://h/a)"),
        ({"event": "push", "state": "waiting"}, "the run: waits to be pushed"),
        ({"event": "note", "text": "offline"}, "offline"),
        ({"event": "end", "status": "finished", "step": 100}, "finished at step 100"),
        ({"event": "end", "status": "stopped", "step": 20}, "stopped at step 20, to be resumed from there"),
        ({"event": "something new"}, None),
    ],
)  # fmt: skip
def test_an_event_becomes_one_plain_line(event: dict[str, Any], line: str | None) -> None:
    assert plain_line(event) == line


def test_a_long_time_shows_its_days() -> None:
    assert clock(2 * 86400 + 3661) == "2d 01:01:01"


def test_the_live_line_leaves_out_what_matters_least_where_there_is_no_room() -> None:
    view = View().after(LOG, now=100.0)
    bar = "━" * 4 + "╌" * 16
    assert [live_line(view, 110.0, width) for width in (120, 100, 75, 65, 50, 30, 8)] == [
        f"training  {bar}  step 20/100  loss 1.234  lr 2.0e-04  1,234 tokens/s  peak 1.9 GiB  left 00:03:00",
        "training  step 20/100  loss 1.234  lr 2.0e-04  1,234 tokens/s  peak 1.9 GiB  left 00:03:00",
        "step 20/100  loss 1.234  lr 2.0e-04  1,234 tokens/s  left 00:03:00",
        "step 20/100  loss 1.234  1,234 tokens/s  left 00:03:00",
        "step 20/100  loss 1.234  left 00:03:00",
        "step 20/100  loss 1.234",
        "step 20/",
    ]


def test_the_live_line_says_what_is_waited_for_and_comes_back_to_training() -> None:
    view = View(phase_since=10.0)
    assert live_line(view, 22.0, 80) == "loading the model  00:00:12"
    view = view.after(LOG, 30.0).after({"event": "phase", "phase": "evaluate"}, 40.0)
    assert live_line(view, 45.0, 80) == "evaluating  step 20/100  00:00:05"
    view = view.after({**LOG, "step": 30}, 50.0)
    assert live_line(view, 50.0, 30) == "step 30/100  loss 1.234"


def show_all(stream: io.StringIO, **options: Any) -> str:
    printer = ProgressPrinter(stream, **options)
    for event in (
        {"event": "phase", "phase": "train"},
        LOG,
        {"event": "phase", "phase": "evaluate"},
        {"event": "evaluate", "step": 20, "eval_loss": 1.5},
        {"event": "phase", "phase": "train"},
    ):
        printer.show(event)
    printer.tick()
    printer.close()
    printer.say("the end")
    return stream.getvalue()


def test_a_log_file_gets_lines_without_control_codes() -> None:
    assert show_all(io.StringIO()) == (
        f"training\n{log_line(LOG)}\nevaluation at step 20  loss 1.500\nthe end\n"
    )


def test_a_terminal_keeps_the_ordinary_lines_and_not_the_live_one() -> None:
    shown = show_all(io.StringIO(), live=True)
    assert "step 20/100" in shown
    assert "evaluation at step 20  loss 1.500\n" in shown
    assert shown.endswith("the end\n")
    assert "\x1b[?25h" in shown, "the cursor comes back"


def test_plain_lines_need_no_rich() -> None:
    code = (
        "import sys; from sft.report.progress import ProgressPrinter;"
        "ProgressPrinter(sys.stderr).show({'event': 'note', 'text': 'x'}); print('rich' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("False\n", "x\n")
