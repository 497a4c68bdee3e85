"""`sft eval` on runs that know their rows by heart: every sample once, however many processes; base beside tuned."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from sft.cli.main import main
from sft.data.cache import Entry
from sft.errors import ExitCode, UserError
from sft.export.gather import Scored, gathered, means
from sft.export.scores import Scorecard
from tests.export.adapters import write_adapter
from tests.export.taught import CHATS, answer
from tests.training.launching import SFT

MINE = """
import os

def process(prediction, reference, row):
    with open(os.environ["SEEN"], "a") as file:
        file.write(f"{os.getpid()} {row['messages'][0]['content']}\\n")
    return 1.0

def broken(prediction, reference):
    return 1 / 0
"""


@pytest.fixture
def run(lora_run: Path, tmp_path: Path) -> Path:
    """A copy of the LoRA run, to leave results in."""
    return Path(shutil.copytree(lora_run, tmp_path / "run"))


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", *map(str, words), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def prepared(run: Path) -> Any:
    """The rows that the run held out, as it was trained on their like."""
    from sft.config.loader import load_run
    from sft.export.samples import held_out

    entry = held_out(load_run(run / "_sft" / "run.yaml"), "test", print)[1]
    assert isinstance(entry, Entry)
    return entry.dataset("test")


def loss_of(model: Any, rows: Any) -> float:
    """Return the mean loss over all tokens that carry any, a row at a time."""
    total, tokens = 0.0, 0
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        for place, label in enumerate(labels.tolist()[1:]):
            if label != -100:
                total -= float(logits[place, label])
                tokens += 1
    return total / tokens


def test_one_process_or_several_measure_every_sample_exactly_once(
    run: Path,
    full_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from peft import PeftModel

    (tmp_path / "mine.py").write_text(MINE)
    tasks = ["--tasks", "exact_match", "rouge_l", f"{tmp_path}/mine.py:process"]
    results, predictions = {}, {}
    for processes in (1, 2):
        monkeypatch.setenv("SEEN", str(tmp_path / f"seen{processes}"))
        file = tmp_path / f"predictions{processes}.jsonl"
        words = ["--processes", processes, "--predictions", file, "--max-new-tokens", 40]
        results[processes] = evaluated(capsys, run, *tasks, *words)
        predictions[processes] = [json.loads(line) for line in file.read_text().splitlines()]
        seen = [line.split(" ", 1) for line in (tmp_path / f"seen{processes}").read_text().splitlines()]
        questions = sorted(row["messages"][0]["content"] for row in CHATS)
        assert sorted(question for _, question in seen) == sorted(questions * 2), "once for each side"
        assert len({pid for pid, _ in seen}) == processes, "none in the process that gathers"
    for result in results.values():
        assert result.pop("seconds") > 0
    assert results[1] == results[2]
    assert predictions[1] == predictions[2]

    found = results[2]
    assert json.loads((run / "_sft" / "eval.json").read_text()).items() >= found.items()
    assert {key: found[key] for key in ("split", "samples", "step", "adapter")} == {
        "split": "test", "samples": 5, "step": 300, "adapter": str(run),
    }  # fmt: skip
    assert (
        list(found["base"])
        == list(found["tuned"])
        == ["loss", "perplexity", "exact_match", "rouge_l", "process"]
    )
    assert (found["tuned"]["exact_match"], found["tuned"]["rouge_l"], found["base"]["exact_match"]) == (
        1,
        1,
        0,
    )
    assert [one["id"] for one in predictions[2]] == [0, 1, 2, 3, 4]
    assert [one["tuned"]["answer"] for one in predictions[2]] == [answer(row) for row in CHATS]

    rows = prepared(run)
    base = AutoModelForCausalLM.from_pretrained(full_run, dtype=torch.float32)
    assert found["base"]["loss"] == pytest.approx(loss_of(base, rows), rel=1e-5)
    tuned = PeftModel.from_pretrained(base, run).eval()
    assert found["tuned"]["loss"] == pytest.approx(loss_of(tuned, rows), rel=1e-4)
    with tuned.disable_adapter():
        assert found["base"]["loss"] == pytest.approx(loss_of(tuned, rows), rel=1e-5)
    assert found["base"]["perplexity"] == math.exp(found["base"]["loss"])


def test_full_fine_tuning_is_held_against_the_model_that_it_began_with(
    full_run: Path, ends_otherwise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(full_run, tmp_path / "run"))
    words = ["--tasks", "exact_match", "--batch-size", "3", "--max-new-tokens", "40"]
    found = evaluated(capsys, run, *words)
    rows = prepared(run)
    for side, place in (("base", ends_otherwise), ("tuned", run)):
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
        assert found[side]["loss"] == pytest.approx(loss_of(model, rows), rel=1e-4)
    assert (found["adapter"], found["base"]["exact_match"], found["tuned"]["exact_match"]) == (None, 0, 1)


def test_a_function_that_raises_in_a_process_is_told_and_nothing_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    words = ["--tasks", f"{tmp_path}/mine.py:broken", "--max-new-tokens", "4", "--limit", "1"]
    assert main(["eval", str(run), *words]) == 2
    captured = capsys.readouterr()
    assert (
        f"mine.py:broken raised ZeroDivisionError on the sample 0 ({run_data(run)}/test.jsonl:1)"
        in captured.err
    )
    assert (captured.out, "Traceback" in captured.err) == ("", False)
    assert not (run / "_sft" / "eval.json").exists()


def run_data(run: Path) -> str:
    return str(json.loads((run / "_sft" / "run.yaml").read_text())["dataset_name"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{run}", "--tasks", "bleu"], "there is no metric 'bleu'"),
        (["{run}", "--adapter", "{run}/none"], "there is no directory {run}/none"),
        (["{model}"], "{model} belongs to no run, which would say what it is evaluated on"),
        (["{run}/none"], "there is no directory {run}/none"),
        (["{run}", "--limit", "0"], None),
    ],
)
def test_what_cannot_be_evaluated_is_told(
    words: list[str], told: str | None, run: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(run=run, model=tiny_model) for word in words]
    if told is None:
        with pytest.raises(SystemExit) as caught:
            main(["eval", *given])
        assert caught.value.code == 2
        return
    assert main(["eval", *given]) == 2
    assert capsys.readouterr().err.startswith(told.format(run=run, model=tiny_model))


def test_another_adapter_of_the_same_base_is_evaluated_on_the_runs_rows(
    run: Path, full_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_adapter(full_run, tmp_path / "other")
    found = evaluated(capsys, run, "--adapter", other, "--limit", "2")
    assert (found["adapter"], found["samples"], found["step"]) == (str(other), 2, None)
    assert list(found["tuned"]) == ["loss", "perplexity"]
    assert abs(found["tuned"]["loss"] - found["base"]["loss"]) > 1e-3


def test_a_stop_leaves_no_process_and_no_half_results(run: Path, tmp_path: Path) -> None:
    (tmp_path / "aside").mkdir()
    (run / "_sft" / "eval.json").write_text("{}")
    words = ["eval", str(run), "--processes", "2", "--tasks", "exact_match", "--max-new-tokens", "400"]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "aside")}
    process = subprocess.Popen([*SFT, *words], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("evaluating 5 samples"):
                break
        children: list[psutil.Process] = []
        while len(children) < 2:
            children = psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        assert psutil.wait_procs(children, timeout=5)[1] == []
    finally:
        process.kill()
    assert (run / "_sft" / "eval.json").read_text() == "{}"
    assert list((tmp_path / "aside").iterdir()) == []


def told(number: int, side: str = "base", **more: Any) -> dict[str, Any]:
    return {"id": number, "side": side, "loss": 1.0, "tokens": 2, "scores": {}, **more}


def test_a_sample_that_is_missing_or_twice_there_is_noticed() -> None:
    both = [told(number, side) for number in (1, 0) for side in ("base", "tuned")]
    assert [one.id for one in gathered(both, 2)["tuned"]] == [0, 1]
    for wrong in (both[:-1], [*both, told(0)], [*both[:-1], told(1, "tuned")]):
        with pytest.raises(RuntimeError, match="not each of them once"):
            gathered(wrong, 2)


def test_means_are_over_tokens_and_over_samples() -> None:
    scored = [Scored(0, 3.0, 1, {"m": 1.0}, {}), Scored(1, 3.0, 5, {"m": 0.0}, {})]
    assert means(scored) == {"loss": 1.0, "perplexity": math.e, "m": 0.5}
    assert means([Scored(0, 5000.0, 1, {}, {})])["perplexity"] == math.inf
    assert math.isnan(means([Scored(0, math.nan, 1, {}, {})])["loss"])


def test_the_table_is_for_people() -> None:
    card = Scorecard(
        split="test", samples=5, step=3, seconds=1.0, adapter=None,
        base={"loss": 6.25, "exact_match": 0.0}, tuned={"loss": 0.5, "exact_match": 1.0},
    )  # fmt: skip
    assert card.lines() == [
        "  metric         base   tuned   change",
        "  loss         6.2500  0.5000  -5.7500",
        "  exact_match  0.0000  1.0000  +1.0000",
    ]


def test_a_lost_process_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from sft.export import gather
    from sft.export.job import Job
    from tests.export.test_samples import TEST

    def start(path: Path, rank: int) -> subprocess.Popen[bytes]:
        path.with_name(f"rank-{rank}.log").write_text("it went so well\n")
        return subprocess.Popen([sys.executable, "-c", f"import os; os.kill(os.getpid(), {wanted})"])

    monkeypatch.setattr(gather, "_start", start)
    job: Any = object.__new__(Job)
    object.__setattr__(job, "processes", 1)
    object.__setattr__(job, "samples", TEST)
    wanted = int(signal.SIGKILL)
    with pytest.raises(UserError, match="process 0 of the evaluation was killed") as caught:
        gather._run(job, tmp_path / "job", print)
    assert caught.value.exit_code == ExitCode.WORKER_LOST
    wanted = int(signal.SIGSEGV)
    with pytest.raises(RuntimeError, match="ended with -11:\nit went so well"):
        gather._run(job, tmp_path / "job", print)
