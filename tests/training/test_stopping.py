"""When a run stops by itself, what it promises, and who hears what: arithmetic and callbacks, with a clock of our own."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from transformers import TrainerControl, TrainerState

from sft.config.kit import KitConfig, LaunchConfig
from sft.deadline import Deadline
from sft.rundir import RunDirectory
from sft.training import stopping
from sft.training.lead_time import (
    MARGIN,
    RECENT_STEPS,
    SaveTimes,
    StepTimes,
    guessed_save_seconds,
    lead_seconds,
)
from sft.training.promise import promised_steps
from sft.training.rank import Rank

CPU = torch.device("cpu")
times = some.floats(0.001, 1000)


class FakeClock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def take(self, seconds: float) -> None:
        self.now += seconds


def test_a_save_that_nobody_has_seen_is_guessed_from_the_trained_parameters() -> None:
    assert guessed_save_seconds(0) == 30.0
    assert guessed_save_seconds(8_000_000_000) == 30.0 + 640.0


@given(some.lists(times, min_size=1, max_size=60))
def test_the_longest_of_the_recent_steps_counts(seconds: list[float]) -> None:
    clock = FakeClock()
    steps = StepTimes(clock)
    for taken in seconds:
        clock.take(taken)
        steps.end()
    assert steps.longest == pytest.approx(max(seconds[-RECENT_STEPS:]))


def test_what_an_evaluation_takes_is_no_part_of_a_step() -> None:
    clock = FakeClock()
    steps = StepTimes(clock)
    clock.take(2)
    steps.end()
    clock.take(500)
    steps.begin()
    clock.take(3)
    steps.end()
    assert steps.longest == 3


@given(times, some.floats(0, 2000))
def test_a_save_waits_for_what_is_left_of_the_one_before(save: float, since: float) -> None:
    clock = FakeClock()
    saves = SaveTimes(lambda: save, 30.0, clock)
    assert saves.seconds() == save
    assert saves.seconds(2) == 2 * save
    saves.begin()
    clock.take(since)
    assert saves.seconds() == pytest.approx(save + max(0.0, save - since))


@given(
    times,
    some.floats(0, 300),
    some.floats(0, 60),
    some.lists(some.floats(0.5, 1.0), min_size=200, max_size=200),
)
def test_a_run_that_stops_in_time_has_left_before_its_deadline(
    step: float, save: float, leave: float, speeds: list[float]
) -> None:
    """Steps of any length up to the longest, and the run goes on while it may: the save is complete before."""
    clock = FakeClock()
    deadline = clock() + 100 * step + save + leave
    steps, saves = StepTimes(clock), SaveTimes(lambda: save, 30.0, clock)
    clock.take(step)
    steps.end()
    for speed in speeds:
        needed = lead_seconds(step=steps.longest, saves=saves.seconds(), leave=leave)
        if deadline - clock() < needed:
            break
        clock.take(step * speed)
        steps.end()
    clock.take(save)
    assert clock() + leave <= deadline + 1e-6


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Config:
    def __init__(self, leave_seconds: float = 10.0) -> None:
        self.launch = LaunchConfig(leave_seconds=leave_seconds)
        self.kit = KitConfig()


class Value:
    def __init__(self, value: str) -> None:
        self.value = value


class Arguments:
    """What the callback reads of TrainingArguments."""

    device = CPU
    gradient_accumulation_steps = 2
    load_best_model_at_end = True
    eval_delay = 0

    def __init__(self, save: str = "steps", evaluate: str = "no") -> None:
        self.save_strategy, self.eval_strategy = Value(save), Value(evaluate)


class Stage:
    """One rank's callback, driven by hand."""

    def __init__(self, directory: Path, seconds_left: float | None = None, save: float | None = 4.0) -> None:
        self.clock, self.told = FakeClock(), Told()
        self.rank = Rank(RunDirectory(directory))
        self.rank.run.kit.mkdir(parents=True, exist_ok=True)
        self.stop = stopping.StopCallback(self.rank, self.told, Config(), self.clock)  # type: ignore[arg-type]
        self.stop._saves = SaveTimes(lambda: save, 30.0, self.clock)
        if seconds_left is not None:
            self.stop._deadline = Deadline(self.clock() + seconds_left, "launch.time_limit 5")
        self.arguments: Any = Arguments()
        self.state = TrainerState(global_step=0, max_steps=1000, save_steps=50, eval_steps=20, epoch=0.0)
        self.control = TrainerControl()

    def step(self, seconds: float = 1.0, *, epoch: float | None = None, due: bool = False) -> TrainerControl:
        self.clock.take(seconds)
        self.state.global_step += 1
        self.state.epoch = self.state.global_step / 300 if epoch is None else epoch
        self.control.should_save = due
        self.stop.on_step_end(self.arguments, self.state, self.control)
        return self.control


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_nothing_heard_nothing_done(stage: Stage) -> None:
    assert [stage.step().should_training_stop for _ in range(30)] == [False] * 30
    assert (stage.stop.reason, stage.told.notes) == (None, [])


@pytest.mark.parametrize(
    ("said", "reason"),
    [("", "stop file"), ("please\n", "stop file"), ("SIGUSR1", "SIGUSR1"), ("SIGTERM\n", "SIGTERM")],
)
def test_a_stop_file_is_heard_with_its_reason(stage: Stage, said: str, reason: str) -> None:
    stage.step()
    stage.rank.run.stop_file.write_text(said)
    control = stage.step()
    assert (control.should_save, control.should_training_stop, stage.stop.reason) == (True, True, reason)
    assert stage.told.notes == [f"stopping after step 2: {reason}"]


def test_the_stop_file_is_looked_for_once_a_second(stage: Stage) -> None:
    stage.step()
    stage.rank.run.stop_file.touch()
    assert not stage.step(0.4).should_training_stop
    assert not stage.step(0.4).should_training_stop
    assert stage.step(0.4).should_training_stop


def test_a_signal_is_heard_with_its_name(stage: Stage) -> None:
    stage.rank.stop_signal = signal.SIGUSR1
    assert stage.step().should_training_stop
    assert stage.stop.reason == "SIGUSR1"


def test_the_last_step_has_nothing_to_stop(stage: Stage) -> None:
    stage.rank.stop_signal = signal.SIGTERM
    stage.state.global_step, stage.state.max_steps = 9, 10
    assert not stage.step().should_training_stop
    assert stage.stop.reason is None


def test_it_stops_just_before_it_would_be_too_late(tmp_path: Path) -> None:
    """A step of 1 s, a save of 4 s, 10 s to leave: 1.5 x 5 + 10 = 17.5 s before the end."""
    stage = Stage(tmp_path, seconds_left=60.0)
    taken = 0
    while not stage.step().should_training_stop:
        taken += 1
    assert MARGIN == 1.5
    assert 60.0 - (taken + 1) < 17.5 <= 60.0 - taken
    assert stage.stop.reason == "launch.time_limit 5"
    print(stage.told.notes)


def test_a_save_that_is_due_anyway_is_the_last_where_there_is_no_time_for_another(tmp_path: Path) -> None:
    """At 20 s a run without a save would go on; with one, the next step's would come too late."""
    assert not Stage(tmp_path / "a", seconds_left=21.0).step().should_training_stop
    assert Stage(tmp_path / "b", seconds_left=21.0).step(due=True).should_training_stop


def test_only_rank_0_says_how_long_a_save_takes(tmp_path: Path) -> None:
    """Another rank is never told, and its guess would count for ever."""
    stage = Stage(tmp_path, seconds_left=13.0, save=None)
    stage.rank.index = 1
    assert not stage.step().should_training_stop
    stage.rank.index = 0
    assert stage.step().should_training_stop


def test_a_save_that_is_only_guessed_counts_once(tmp_path: Path) -> None:
    """1.5 x (1 + 30) + 10 s are needed; the save that is due will say how long the next takes."""
    assert not Stage(tmp_path / "a", seconds_left=58.0, save=None).step(due=True).should_training_stop
    assert Stage(tmp_path / "b", seconds_left=57.0, save=None).step(due=True).should_training_stop


def test_a_slow_step_is_remembered(tmp_path: Path) -> None:
    stage = Stage(tmp_path, seconds_left=66.5)
    assert not stage.step(20.0).should_training_stop
    assert stage.step(1.0).should_training_stop, "45.5 s are left, and 1.5 x (20 + 4) + 10 are needed"


def test_before_the_first_step_no_deadline_is_minded(tmp_path: Path) -> None:
    """A limit that is too short would else be met by a run that is continued for ever and never trains."""
    stage = Stage(tmp_path, seconds_left=1.0)
    stage.stop.on_train_begin(stage.arguments, stage.state, stage.control)
    assert not stage.control.should_training_stop
    assert stage.step().should_training_stop
    stage = Stage(tmp_path)
    stage.rank.stop_signal = signal.SIGINT
    stage.stop.on_train_begin(stage.arguments, stage.state, stage.control)
    assert stage.control.should_training_stop


def epoch_end(stage: Stage, *, evaluates: bool, saves: bool, logs: bool = True) -> TrainerControl:
    """What DefaultFlowCallback leaves, and then ours."""
    stage.control.should_evaluate, stage.control.should_save, stage.control.should_log = (
        evaluates,
        saves,
        logs,
    )
    stage.stop.on_epoch_end(stage.arguments, stage.state, stage.control)
    return stage.control


def test_a_stop_within_an_epoch_is_not_its_end_and_saves_once(stage: Stage) -> None:
    stage.rank.stop_signal = signal.SIGTERM
    assert stage.step(epoch=1.5).should_save
    stage.stop.on_save(stage.arguments, stage.state, stage.control)
    control = epoch_end(stage, evaluates=True, saves=True)
    assert (control.should_evaluate, control.should_save, control.should_log) == (False, False, False)
    assert stage.arguments.load_best_model_at_end is False


def test_at_an_epochs_end_the_evaluation_comes_before_the_save(stage: Stage) -> None:
    stage.arguments = Arguments(save="epoch", evaluate="epoch")
    stage.rank.stop_signal = signal.SIGTERM
    control = stage.step(epoch=2.0, due=True)
    assert (control.should_save, control.should_training_stop) == (False, True)
    control = epoch_end(stage, evaluates=True, saves=True)
    assert (control.should_evaluate, control.should_save, control.should_log) == (True, True, True)


def evaluate(stage: Stage, seconds: float, batches: int) -> int | None:
    """Evaluate; return the batch after which it was left."""
    for batch in range(1, batches + 1):
        stage.clock.take(seconds)
        try:
            stage.stop.on_prediction_step(stage.arguments, stage.state, stage.control)
        except stopping.StopEvaluation:
            return batch
    stage.stop.on_evaluate(stage.arguments, stage.state, stage.control)
    return None


def test_ranks_agree_every_few_seconds_of_an_evaluation(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    real = stopping.largest_of
    monkeypatch.setattr(
        stopping,
        "largest_of",
        lambda *given: asked.append(stage.clock()) or real(*given),  # type: ignore[func-returns-value]
    )
    for _ in range(2):
        assert evaluate(stage, 0.01, 1000) is None
        gaps = [round(later - sooner, 2) for sooner, later in itertools.pairwise(asked)]
        print(gaps)
        assert gaps[0] == 0.01, "how long a batch takes is not known before"
        assert set(gaps[1:]) <= {1.99, 2.0}
        assert len(asked) == 6
        asked.clear()


def test_a_signal_ends_an_evaluation_within_seconds(stage: Stage) -> None:
    stage.rank.stop_signal = None
    stage.state.global_step = 20
    assert evaluate(stage, 0.1, 50) is None
    stage.rank.stop_signal = signal.SIGTERM
    assert evaluate(stage, 0.1, 1000) == 1
    assert stage.told.notes == [
        "leaving the evaluation of step 20 (SIGTERM); it is done anew when the run continues"
    ]


def test_an_evaluation_that_would_pass_the_deadline_is_left(tmp_path: Path) -> None:
    stage = Stage(tmp_path, seconds_left=60.0)
    left = evaluate(stage, 1.0, 1000)
    assert left is not None
    assert stage.stop.reason == "launch.time_limit 5"
    assert 60 - left >= 4 + 10, "what the save and the leaving need is still there"


def test_a_stop_at_a_step_that_is_to_be_evaluated_leaves_after_the_first_batch(stage: Stage) -> None:
    """Not before: the evaluation has drawn its random number then, as it has in a run that nobody stops."""
    stage.rank.stop_signal = signal.SIGTERM
    stage.step()
    assert evaluate(stage, 1.0, 10) == 1


@pytest.mark.parametrize(
    ("strategy", "step", "epoch", "history", "due"),
    [
        ("steps", 40, 0.4, [], True),
        ("steps", 40, 0.4, [{"loss": 1.0, "step": 40}, {"eval_loss": 2.0, "step": 20}], True),
        ("steps", 40, 0.4, [{"eval_loss": 2.0, "step": 40}], False),
        ("steps", 41, 0.4, [], False),
        ("steps", 1000, 3.3, [], True),
        ("steps", 0, 0.0, [], False),
        ("epoch", 41, 2.0, [], True),
        ("epoch", 41, 2.1, [], False),
        ("epoch", 41, 2.0, [{"eval_loss": 2.0, "step": 41}], False),
        ("no", 40, 2.0, [], False),
    ],
)
def test_an_evaluation_that_was_left_is_known_by_what_is_missing(
    strategy: str, step: int, epoch: float, history: list[dict[str, float]], due: bool
) -> None:
    state = TrainerState(
        global_step=step,
        max_steps=1000,
        epoch=epoch,
        eval_steps=20,
        log_history=history,  # type: ignore[arg-type]
    )
    arguments: Any = Arguments(evaluate=strategy)
    assert stopping._evaluation_is_due(arguments, state) is due


COMMON: dict[str, Any] = {"save_steps": 50, "steps_per_epoch": 120, "max_steps": 1000, "background": True}


@pytest.mark.parametrize(
    ("strategy", "changes", "steps", "text"),
    [
        (
            "steps",
            {},
            100,
            "at most 50 steps (save_steps), or up to 100 while a checkpoint is still being written",
        ),
        ("steps", {"background": False}, 50, "at most 50 steps (save_steps)"),
        ("steps", {"save_steps": 1, "background": False}, 1, "at most 1 step (save_steps)"),
        (
            "steps",
            {"save_steps": 600},
            1000,
            "at most 600 steps (save_steps), or up to 1000 while a checkpoint is still being written",
        ),
        (
            "epoch",
            {},
            240,
            "at most 120 steps (save_strategy: epoch), or up to 240 while a checkpoint is still being written",
        ),
        (
            "steps",
            {"save_steps": 1000},
            1000,
            "everything that was trained: the first save comes at the end (save_steps)",
        ),
        (
            "no",
            {},
            None,
            "everything that was trained (save_strategy: no); save_strategy: steps would bound it",
        ),
        (
            "epoch",
            {"steps_per_epoch": None},
            None,
            "everything that was trained (save_strategy: epoch); save_strategy: steps would bound it",
        ),
        (
            "best",
            {},
            None,
            "what was trained since the best evaluation (save_strategy: best); save_strategy: steps would bound it",
        ),
    ],
)
def test_what_a_kill_can_cost_is_said(
    strategy: str, changes: dict[str, Any], steps: int | None, text: str
) -> None:
    promise = promised_steps(strategy, **COMMON | changes)
    assert (promise.steps, promise.text) == (steps, f"a kill at any moment loses {text}")


def test_the_promise_is_said_at_the_start_with_the_deadline(tmp_path: Path) -> None:
    stage = Stage(tmp_path, seconds_left=60.0)
    assert stage.stop._deadline is not None
    stage.stop._promise(stage.arguments, stage.state, range(100))
    assert stage.told.notes == [
        f"stops by itself before {stage.stop._deadline.clock} (launch.time_limit 5); a kill at any moment loses at most"
        " 50 steps (save_steps), or up to 100 while a checkpoint is still being written"
    ]
    stage = Stage(tmp_path)
    stage.arguments = Arguments(save="no")
    stage.stop._promise(stage.arguments, stage.state, None)
    assert stage.told.notes == [
        "warning: a kill at any moment loses everything that was trained (save_strategy: no); save_strategy: steps would"
        " bound it"
    ]
