"""One task, trained by TRL's trainer, by the kit's recipe and by the loops of examples/, is the same training.

Loss, gradient norm and learning rate of every step, the held-out loss and accuracy, and the weights in the end: in
float32, on the same rows in the same shuffled order, with padding and accumulation, on one process and on two.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.examples.running import TEST_ROWS, Curve, commands, curve, run, run_here
from tests.training.here import Trained, train_here
from tests.training.launching import launch, succeeded

STEPS, ROWS = 8, 8
RATES = {"full": 5e-3, "lora": 3e-2}
WORDS = {
    method: ("--steps", str(STEPS), "--rows_per_step", str(ROWS), "--learning_rate", str(rate))
    for method, rate in RATES.items()
}
SCRIPTS = {"full": ("custom_loop", "custom_loop_accelerate"), "lora": ("lora_loop", "lora_loop_accelerate")}
TOLERANCE = 2e-4
"""Largest difference of a step's loss. The sums of gradients are taken in another order, and Adam magnifies that; a lost
rank, another order of rows or another weight of their tokens makes far more."""
Here = Callable[..., str]


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a script in this process, in a directory as the quickstart leaves it."""
    monkeypatch.chdir(place)

    def call(name: str, *words: str) -> str:
        return run_here(name, *words, monkeypatch=monkeypatch, capsys=capsys)

    return call


def settings(place: Path, method: str) -> dict[str, Any]:
    """Return the same training as a run file."""
    lora = {
        "use_peft": True,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_target_modules": "all-linear",
    }
    return {
        "model_name_or_path": str(place / "quickstart" / "base"),
        "dataset_name": str(place / "quickstart" / "data"),
        "dtype": "float32",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "assistant_only_loss": True,
        "max_length": 256,
        "max_steps": STEPS,
        "total_train_batch_size": ROWS,
        "per_device_train_batch_size": 2,
        "learning_rate": RATES[method],
        "lr_scheduler_type": "linear",
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 0,
        **(lora if method == "lora" else {}),
    }


def of_recipe(events: list[Any]) -> tuple[list[float], list[float], list[float]]:
    """Return losses, norms and rates of a run's events."""
    logs = [event for event in events if event["event"] == "log" and "loss" in event]
    return tuple([event[key] for event in logs] for key in ("loss", "grad_norm", "learning_rate"))


def scores(output: Path, place: Path) -> list[float]:
    """Score what was saved with transformers and PEFT alone: loss and accuracy over the answers' tokens."""
    import json

    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = place / "quickstart" / "base"
    tokenizer = AutoTokenizer.from_pretrained(base)
    if (output / "adapter_config.json").exists():
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), output
        )
    else:
        model = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    loss, right, count = 0.0, 0, 0
    lines = (place / "quickstart" / "data" / "test.jsonl").read_text().splitlines()[:TEST_ROWS]
    for line in lines:
        chat = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        ids_T, said_T = torch.tensor(chat["input_ids"]), torch.tensor(chat["assistant_masks"]).bool()
        with torch.no_grad():
            logits_TV = model.eval()(input_ids=ids_T[None]).logits[0, :-1]
        picked_TV, wanted_T = logits_TV[said_T[1:]], ids_T[1:][said_T[1:]]
        loss += torch.nn.functional.cross_entropy(picked_TV, wanted_T, reduction="sum").item()
        right += int((picked_TV.argmax(-1) == wanted_T).sum())
        count += len(wanted_T)
    return [loss / count, right / count]


def weights(output: Path) -> torch.Tensor:
    """Return all that was saved as one vector."""
    (file,) = (
        output / name
        for name in ("model.safetensors", "adapter_model.safetensors")
        if (output / name).exists()
    )
    tensors = load_file(file)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def agree(found: Curve, wanted: Curve) -> None:
    assert len(wanted.losses) == STEPS
    assert wanted.losses[-1] < wanted.losses[0] - 0.3, "the run must learn, or the comparison says nothing"
    assert found.losses == pytest.approx(wanted.losses, abs=TOLERANCE)
    assert found.norms == pytest.approx(wanted.norms, rel=5e-3)
    assert found.rates == pytest.approx(wanted.rates, rel=1e-3)
    assert found.held_out == pytest.approx(wanted.held_out, abs=TOLERANCE)


def trainers_words(method: str, output: str) -> tuple[str, ...]:
    return (*WORDS[method], "--output", output, "--lora_r", "16" if method == "lora" else "0")


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_on_one_process(method: str, place: Path, here: Here) -> None:
    wanted = curve(here("sft_minimal", *trainers_words(method, "runs/trainer")))
    for name in SCRIPTS[method]:
        agree(curve(here(name, *WORDS[method], "--output", f"runs/{name}")), wanted)
    recipe: Trained = train_here(place / "recipe", settings(place, method))
    losses, norms, rates = of_recipe(recipe.of_kind("log"))
    outputs = [place / "runs" / name for name in ("trainer", *SCRIPTS[method])] + [recipe.run.output_dir]
    agree(Curve(losses, norms, rates, scores(outputs[-1], place)), wanted)
    assert wanted.held_out[1] > 0.1, "so little is guessed right that accuracy says nothing"
    start = weights(outputs[0])
    for output in outputs:
        assert scores(output, place) == pytest.approx(wanted.held_out, abs=TOLERANCE)
        assert torch.allclose(weights(output), start, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora"])
def test_on_two_processes(method: str, place: Path, here: Here) -> None:
    wanted = curve(here("sft_minimal", *trainers_words(method, "runs/trainer")))
    launched = run(place, commands("sft_minimal")[1], *trainers_words(method, "runs/trainer_2"))
    agree(curve(launched), wanted)
    for name in SCRIPTS[method]:
        launched = run(place, commands(name)[1], *WORDS[method])
        agree(curve(launched), wanted)
        assert scores(place / "runs" / f"{name}_2", place) == pytest.approx(wanted.held_out, abs=TOLERANCE)
    two = {"launch": {"strategy": "ddp", "processes_per_node": 2}}
    recipe = succeeded(launch(place / "recipe", {**settings(place, method), **two}))
    losses, norms, rates = of_recipe(recipe.of_kind("log"))
    agree(Curve(losses, norms, rates, scores(recipe.run.output_dir, place)), wanted)


def test_bfloat16_is_near_float32(here: Here) -> None:
    """Mixed precision rounds; the plain loop and accelerate's round alike."""
    words = ("--steps", "4", "--learning_rate", "5e-3")
    exact = curve(here("custom_loop", *words, "--output", "exact"))
    plain = curve(here("custom_loop", *words, "--output", "plain", "--bf16"))
    through = curve(here("custom_loop_accelerate", *words, "--output", "acc", "--mixed_precision", "bf16"))
    assert plain.losses != exact.losses
    assert plain.losses == pytest.approx(exact.losses, abs=0.05)
    assert through.losses == pytest.approx(plain.losses, abs=0.01)
