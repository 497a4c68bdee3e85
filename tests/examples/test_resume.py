"""A loop that is killed goes on, with the same command, to the very weights of one that was not."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.examples.running import commands, run, run_here, shell

STEPS, EVERY, KILLED_AT = 60, 4, 10
"""Killed at the line of a step between two checkpoints, with most of the run before it."""
WORDS = ("--steps", str(STEPS), "--save_every", str(EVERY), "--learning_rate", "1e-3")


def killed(place: Path, command: str, *words: str) -> list[str]:
    """Start a command, kill all of its processes once it tells of a step, and return the steps that it told of."""
    process = subprocess.Popen(
        ["bash", "-c", " ".join(["exec", command, *words])],
        cwd=place,
        env=shell(place),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    told = []
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            told.append(line.strip())
        if line.startswith(f"step {KILLED_AT}/"):
            break
    # By descent: torchrun gives each of its workers a session of its own.
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    told += [line.strip() for line in process.stdout if line.startswith("step ")]
    process.wait()
    assert KILLED_AT <= len(told) < STEPS, "it was killed on its way"
    return told


def steps(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith(("step ", "held out"))]


def weights(output: Path) -> bytes:
    (file,) = (
        output / name
        for name in ("model.safetensors", "adapter_model.safetensors")
        if (output / name).exists()
    )
    return file.read_bytes()


def leave_torn(output: Path) -> None:
    """Add what a kill in the middle of a save leaves."""
    (output / "checkpoint.pt.new").write_bytes(b"half")
    (output / "checkpoint-56.new").mkdir()
    (output / "checkpoint-56.new" / "model.safetensors").write_bytes(b"half")
    if (
        output / f"checkpoint-{EVERY}" / "trainer_state.json"
    ).exists():  # the trainer's own: not whole without it
        (output / "checkpoint-56").mkdir()


def went_on(whole: str, told: list[str], resumed: str) -> None:
    """See that a run went on from a checkpoint behind its start, and printed from there what the whole one printed."""
    lines, again = steps(whole), steps(resumed)
    assert len(lines) == STEPS + 1
    assert told == lines[: len(told)]
    assert again == lines[-len(again) :]
    first = STEPS - (len(again) - 1)
    assert first % EVERY == 0
    assert 0 < first <= len(told)


def test_a_killed_loop_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    name = "custom_loop_accelerate"
    whole = run_here(name, *WORDS, "--output", "runs/whole", monkeypatch=monkeypatch, capsys=capsys)
    told = killed(place, commands(name)[0], *WORDS)
    leave_torn(place / "runs" / name)
    resumed = run_here(name, *WORDS, monkeypatch=monkeypatch, capsys=capsys)
    went_on(whole, told, resumed)
    assert weights(place / "runs" / name) == weights(place / "runs" / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "name", ["custom_loop", "custom_loop_accelerate", "lora_loop", "lora_loop_accelerate", "sft_minimal"]
)
def test_every_killed_loop_goes_on(name: str, processes: int, place: Path) -> None:
    command = commands(name)[processes - 1]
    output = place / "runs" / (name if processes == 1 else f"{name}_2")
    whole = run(place, command, *WORDS)
    output.rename(output.with_name("whole"))
    told = killed(place, command, *WORDS)
    leave_torn(output)
    resumed = run(place, command, *WORDS)
    went_on(whole, told, resumed)
    assert weights(output) == weights(output.with_name("whole"))


def test_what_is_not_there_or_of_other_settings_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)

    def refused(name: str, *words: str) -> str:
        with pytest.raises(SystemExit) as end:
            run_here(name, *words, monkeypatch=monkeypatch, capsys=capsys)
        assert end.value.code != 0
        return str(end.value.code) + capsys.readouterr().err

    for name in ("custom_loop", "custom_loop_accelerate", "lora_loop", "lora_loop_accelerate", "sft_minimal"):
        assert "bash launch/quickstart.sh brings both" in refused(name, "--model", "nowhere")
        assert "--rows_per_step" in refused(name, "--rows_per_step", "3")
    assert "there is no nowhere/config.json" in refused("prepare_data", "--model", "nowhere")
    (place / "broken.jsonl").write_text('{"messages": []}\n{"messages"\n')
    assert "broken.jsonl:2 is no JSON" in refused("prepare_data", "--data", "broken.jsonl")

    for name in ("custom_loop", "lora_loop_accelerate"):
        run_here(name, "--steps", "1", monkeypatch=monkeypatch, capsys=capsys)
        told = refused(name, "--steps", "2")
        assert f"runs/{name}/checkpoint.pt is of other settings" in told
