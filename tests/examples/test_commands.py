"""The commands on top of every example, run as they stand there: on one process, and on two by `accelerate launch`."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.examples.running import EXAMPLES, NAMES, REPOSITORY, commands, curve, docstring, run, run_here
from tests.training.launching import SFT

TWICE = "custom_loop_accelerate"
"""Run on one process and on two in the short tier; the others on two in the exhaustive one."""
LOOPS = ("custom_loop", "custom_loop_accelerate", "lora_loop", "lora_loop_accelerate")

LATER = ("advanced_usage", "lora_loop", "lora_loop_accelerate")
"""Of the exhaustive tier: each takes half a minute, and is like another that is not."""


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_short_and_opens_with_its_commands(name: str) -> None:
    assert (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").count("\n") < 150
    alone, two = commands(name)
    assert alone == f"python examples/{name}.py"
    launcher = "accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2"
    assert two == f"{launcher} examples/{name}.py --output runs/{name}_2"
    assert docstring(name).splitlines()[1:3] == ["", f"    {alone}"]


def test_the_index_has_every_script_and_its_commands() -> None:
    page = (REPOSITORY / "docs" / "examples.md").read_text(encoding="utf-8")
    listed = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)
    lines = [line for block in listed for line in block.splitlines() if "examples/" in line]
    assert sorted(lines) == sorted(line for name in NAMES for line in commands(name))


def looked_at(name: str, place: Path, output: Path, printed: str) -> list[float]:
    """See that a run left what it says, and return the numbers that do not depend on the processes."""
    if name == "getting_started":
        (before, after) = re.findall(r"([0-9.]+) before, ([0-9.]+) after", printed)[0]
        assert float(before) < 0.7
        assert float(after) > 0.9
        assert "the plot was not dull: good" in printed
        assert "the music is not great: bad" in printed
        losses = [float(loss) for loss in re.findall(r"'loss': '([0-9.]+)'", printed)]
        return [*losses[:2], float(before), float(after)]
    if name == "advanced_usage":
        (best,) = re.findall(r"^best f1 (\S+) in ", printed, re.MULTILINE)
        (saved,) = re.findall(r"^saved in \S+: f1 (\S+)$", printed, re.MULTILINE)
        scores = [float(score) for score in re.findall(r"^step +\d+  f1 (\S+)", printed, re.MULTILINE)]
        assert best == saved == f"{max(scores):.3f}"
        assert float(best) > 0.6 > scores[0]
        kept = [json.loads(line) for line in (output / "curve.jsonl").read_text().splitlines()]
        losses = [row["loss"] for row in kept if "loss" in row]
        assert len(losses) == len(scores) - 1, "the last evaluation is of the best model"
        return [*losses[:3], float(saved)]
    if name == "prepare_data":
        assert (
            "row 1: <|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n[[4<|im_end|>]]\n" in printed
        )
        assert "row 4: The capital of France is[[ Paris.<|im_end|>]]" in printed
        assert "[[Purple.<|im_end|>]]" in printed
        assert "[[Brown.<|im_end|>]]" in printed
        assert re.findall(r"^row (\d) is left out: ", printed, re.MULTILINE) == ["6", "7"]
        assert "5 of 7 rows prepared; transformers agrees on the 4 chats" in printed
        rows = [json.loads(line) for line in (output / "train.jsonl").read_text().splitlines()]
        return [token for row in rows for token in (*row["input_ids"], *row["labels"])]
    found = curve(printed)
    assert len(found.losses) == 10
    assert (
        output / ("model.safetensors" if name.startswith("custom") else "adapter_model.safetensors")
    ).is_file()
    return [*found.losses, *found.norms, *found.rates, *found.held_out]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LATER else [])
        for name in NAMES
        if name != TWICE
    ],
)
def test_the_first_command_runs_as_written(name: str, place: Path) -> None:
    looked_at(name, place, place / "runs" / name, run(place, commands(name)[0]))


@pytest.mark.parametrize(
    "name", [TWICE, *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != TWICE)]
)
def test_both_commands_give_the_same(name: str, place: Path) -> None:
    """Of the classifiers, whose scores are counted in rows, one or two rows may fall differently."""
    alone, two = (run(place, command) for command in commands(name))
    first = looked_at(name, place, place / "runs" / name, alone)
    second = looked_at(name, place, place / "runs" / f"{name}_2", two)
    tolerance = {"getting_started": 0.02, "advanced_usage": 0.02, "prepare_data": 0}.get(name, 5e-4)
    assert second == pytest.approx(first, abs=tolerance)
    if name in LOOPS:  # sft_minimal asks the trainer, and says nothing
        assert re.search(r"^1 x cpu, 40 chats, from step 0$", alone, re.MULTILINE)
        assert re.search(r"^2 x cpu, 40 chats, from step 0$", two, re.MULTILINE)


def test_prepared_rows_are_a_data_set_that_a_run_file_trains(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    run_here("prepare_data", monkeypatch=monkeypatch, capsys=capsys)
    (place / "run.yaml").write_text(
        "model_name_or_path: quickstart/base\ndataset_name: runs/prepare_data/train.jsonl\nmax_length: 256\n"
    )
    done = subprocess.run(
        [*SFT, "data", "show", "run.yaml"], cwd=place, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "The capital of France is⟦ Paris.⟪<|im_end|>⟫⟧" in done.stdout
