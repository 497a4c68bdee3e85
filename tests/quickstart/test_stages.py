"""The stages after the environment: each once for the same inputs, and what is shown at the end."""

from __future__ import annotations

import shutil
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sft.errors import ExitCode, UserError
from sft.events import EventLog
from sft.quickstart import __main__ as stages
from sft.quickstart.__main__ import Quickstart, from_environment
from sft.quickstart.process import run_logged
from sft.quickstart.show import HeldOutLoss, held_out_loss, show

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What the stages read of a clone."""
    root = tmp_path / "clone"
    (root / "recipes").mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "quickstart.yaml", root / "recipes")
    shutil.copy(ROOT / "constraints.txt", root)
    return root


def test_own_model_and_data_go_through_every_stage_once(
    clone: Path, tiny_model: Path, tiny_chats: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--max_steps", "2", "--max_length", "64", "--logging_steps", "1")
    quickstart = Quickstart(clone, str(tiny_model), str(tiny_chats), words)
    stages.main(quickstart)
    first = capfd.readouterr()
    assert "What is number 0 about lists?" in first.out
    assert "before" in first.out
    assert "$ sft launch recipes/quickstart.yaml --output_dir quickstart/run --merge" in first.err
    for name in ("adapter_model.safetensors", "merged/model.safetensors", "_sft/events.jsonl"):
        assert (clone / "quickstart" / "run" / name).is_file()
    assert not (clone / "quickstart" / "base").exists()

    stages.main(quickstart)
    second = capfd.readouterr()
    assert second.out == first.out
    assert second.err.count("finished before") == 2
    assert "$ sft launch" not in second.err


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Launches, noted instead of made; each leaves a merged model."""
    found: list[list[str]] = []

    def launch(command: list[str], directory: Path) -> int:
        found.append(command[command.index("launch") :])
        (directory / "quickstart" / "run" / "merged").mkdir(parents=True, exist_ok=True)
        return 0

    monkeypatch.setattr(stages, "_foreground", launch)
    return found


def test_a_run_of_other_inputs_is_put_aside(
    clone: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    quickstart = Quickstart(clone, "model", "data", ())
    stages._train(quickstart, [], {"seed": 1})
    stages._train(quickstart, [], {"seed": 2})
    assert len(commands) == 2
    assert (clone / "quickstart" / "run-1" / "merged").is_dir()
    assert (
        f"the run of before, made of other inputs, is now {clone}/quickstart/run-1" in capsys.readouterr().err
    )


def test_a_training_that_ended_early_is_left_for_the_launch_to_continue(
    clone: Path, commands: list[list[str]]
) -> None:
    quickstart = Quickstart(clone, "model", "data", ())
    started = ["launch", "recipes/quickstart.yaml", "--output_dir", "quickstart/run", "--merge"]
    stages._train(quickstart, [], {"seed": 1})
    checkpoint = quickstart.run.output_dir / "checkpoint-1"
    checkpoint.mkdir()
    stages._train(quickstart, [], {"seed": 1})
    assert checkpoint.is_dir()
    assert commands == [started, started]


@pytest.mark.parametrize(
    ("code", "what", "exit_code"),
    [
        (3, "The training failed (exit code 3); what went wrong is told above", ExitCode.DOES_NOT_FIT),
        (-9, "The training failed (exit code -9); what went wrong is told above", ExitCode.BUG),
        (75, "The training was stopped", ExitCode.STOPPED),
    ],
)
def test_a_failed_training_keeps_its_exit_code(
    clone: Path, monkeypatch: pytest.MonkeyPatch, code: int, what: str, exit_code: ExitCode
) -> None:
    monkeypatch.setattr(stages, "_foreground", lambda command, directory: code)
    quickstart = Quickstart(clone, "model", "data", ())
    with pytest.raises(UserError) as caught:
        quickstart.once("training", "", {}, lambda: stages._train(quickstart, [], {}), quickstart.run.merged)
    assert caught.value.problems[0].what == what
    assert caught.value.exit_code == exit_code
    assert not (clone / "quickstart" / "stamps" / "training.json").exists()


def test_a_stage_is_done_again_when_its_inputs_or_its_result_have_gone(clone: Path) -> None:
    quickstart, result, done = Quickstart(clone, None, None, ()), clone / "result", []

    def step() -> None:
        done.append(1)
        result.touch()

    for inputs in ({"a": 1}, {"a": 1}, {"a": 2}):
        quickstart.once("stage", "", inputs, step, result)
    assert len(done) == 2
    result.unlink()
    quickstart.once("stage", "", {"a": 2}, step, result)
    assert len(done) == 3


def test_paths_are_resolved_and_names_on_the_hub_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    given = from_environment(["--seed", "1"], {"MODEL": "model", "DATA": "trl-lib/Capybara"})
    assert given == Quickstart(ROOT, str(tmp_path / "model"), "trl-lib/Capybara", ("--seed", "1"))
    assert from_environment([], {"MODEL": "", "DATA": ""}) == Quickstart(ROOT, None, None, ())


def test_held_out_loss_is_of_the_last_start(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert held_out_loss(log.path) is None
    for step, loss in ((0, 9.0), (0, 2.5), (15, 1.75), (30, 1.5)):
        log.write("evaluate", step=step, eval_loss=loss)
    assert held_out_loss(log.path) == HeldOutLoss(2.5, 1.5)


def test_answers_are_shown_side_by_side() -> None:
    text = StringIO()
    show(["Why?"], ["No."], ["Yes."], HeldOutLoss(2.5, 1.5), Console(file=text, width=48))
    assert [line.strip() for line in text.getvalue().splitlines()] == [
        "The same questions, before and after",
        "┏━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━┓",
        "┃ before                ┃ after                ┃",
        "┡━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━┩",
        "│ Why?                  │ Why?                 │",
        "│                       │                      │",
        "│ No.                   │ Yes.                 │",
        "└───────────────────────┴──────────────────────┘",
        "held-out loss: 2.500 before, 1.500 after",
    ]


def test_a_failing_program_shows_the_end_of_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "for i in range(20): print('line', i)\nraise SystemExit(3)"
    with pytest.raises(UserError) as caught:
        run_logged([sys.executable, "-c", program], tmp_path / "log", what="It failed", fix="mend it")
    assert str(caught.value) == f"It failed\n  where: {tmp_path / 'log'}\n  fix:   mend it"
    assert capsys.readouterr().err == "".join(f"      | line {number}\n" for number in range(8, 20))
