"""A run of a model on the Hub that would not fit is refused before a launch, and a Hub that does not tell refuses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sft.check import asked_hub
from sft.check.checks import named
from sft.check.finding import Finding
from sft.check.survey import survey
from sft.errors import ExitCode
from sft.plan.hardware import Hardware
from tests.check.made import write_run
from tests.check.on_hub import NAME, SMALL, headers_of, know_only, write_model
from tests.loopback.files import FilesHub, files_hub
from tests.plan.test_shape import LLAMA_8B

__all__ = ["files_hub"]

UNTOLD = "whether org/model fits is not known: the Hub gave no shapes of it"


@pytest.fixture(autouse=True)
def _one_hub(files_hub: FilesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know_only(files_hub, tmp_path, monkeypatch)


def told(directory: Path, gib: int, gpus: int = 1, offline: bool = False, **settings: Any) -> list[Finding]:
    """Look at a LoRA run of an 8B model on GPUs of so much memory."""
    named_too = {
        "model_name_or_path": NAME,
        "dataset_name": "rows.jsonl",
        "use_peft": True,
        "lora_target_modules": "all-linear",
        "dtype": "bfloat16",
        "max_length": 4096,
        "per_device_train_batch_size": 2,
        **settings,
    }
    hardware = Hardware(("NVIDIA A100-SXM4-40GB",) * gpus, (gib << 30,) * gpus, 8, 64 << 30)
    checks = named(["memory", "hub_shape"])
    return [*survey(write_run(directory, **named_too), (), hardware, checks=checks, offline=offline).findings]


def of(found: list[Finding], check: str) -> list[tuple[str, str, str | None]]:
    """Return what one check found: how grave, what, and the fix."""
    return [(one.gravity, one.problem.what, one.problem.fix) for one in found if one.check == check]


def hub_shape(found: list[Finding]) -> list[tuple[str, str, str | None]]:
    return of(found, "memory, of a model on the Hub")


def test_the_finding_is_that_of_the_same_files_here(files_hub: FilesHub, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", 3)
    files_hub.put_directory(NAME, directory)
    here = told(tmp_path, 1, model_name_or_path=str(directory), per_device_train_batch_size=32)
    assert files_hub.requests == []
    ((gravity, what, _),) = of(here, "memory")
    assert gravity == "error"
    assert what.startswith("the run does not fit: memory of one GPU: about ")
    there = told(tmp_path, 1, per_device_train_batch_size=32)
    assert of(there, "memory") == []
    found, note = hub_shape(there)
    assert found == of(here, "memory")[0]
    assert note[1].endswith("from the Hub: 3 headers, 12 KiB read, no weights")
    assert not (tmp_path / "hub").exists()


def test_a_run_that_does_not_fit_is_refused_and_the_next_look_knows_it_before(
    files_hub: FilesHub, tmp_path: Path
) -> None:
    commit = files_hub.put(NAME, headers_of(LLAMA_8B, 30))
    first = told(tmp_path, 16)
    assert first[0].exit_code == ExitCode.DOES_NOT_FIT
    files_hub.requests.clear()
    second = told(tmp_path, 16)
    assert of(second, "memory") == hub_shape(first)[:1]
    assert hub_shape(second) == []
    assert of(second, "plan") == [
        ("note", f"shapes of org/model at {commit[:8]} as the Hub told them before", None)
    ]
    assert len(files_hub.requests) == 1
    assert of(told(tmp_path, 16, offline=True), "memory") == of(second, "memory")
    assert len(files_hub.requests) == 1


def test_a_new_commit_is_judged_beside_the_remembered_one(files_hub: FilesHub, tmp_path: Path) -> None:
    files_hub.put(NAME, headers_of(SMALL, 2))
    told(tmp_path, 16)
    files_hub.put(NAME, headers_of(LLAMA_8B, 2))
    found = told(tmp_path, 16)
    assert of(found, "memory")[0][0] == "note"
    assert hub_shape(found)[0][0] == "error"


def test_what_is_left_to_the_plan_is_chosen_when_the_shape_is_remembered(
    files_hub: FilesHub, tmp_path: Path
) -> None:
    files_hub.put(NAME, headers_of(SMALL, 2))
    auto = {"launch": {"strategy": "auto"}, "use_peft": False, "lora_target_modules": None}
    first = hub_shape(told(tmp_path, 40, 8, **auto))
    assert first[0] == (
        "warning",
        "the plan was made before the Hub told the shape of org/model: zero3, 2 x 1. With it, it is ddp, 2 x 1",
        "give the same command again: what the Hub told is remembered",
    )
    assert hub_shape(told(tmp_path, 40, 8, **auto)) == []


def test_a_hub_that_does_not_tell_is_a_note(
    files_hub: FilesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub_shape(told(tmp_path, 16)) == [("note", UNTOLD, None)]  # no such model
    files_hub.put(NAME, headers_of(LLAMA_8B, 2))
    files_hub.fault("GET .*safetensors$", status=503, times=2)
    assert hub_shape(told(tmp_path, 16)) == [("note", UNTOLD, None)]
    files_hub.gated = {NAME}
    assert hub_shape(told(tmp_path, 16)) == [("note", UNTOLD, None)]
    files_hub.gated = set()
    monkeypatch.setattr(asked_hub.AskedHub, "_left", lambda self: 0.3)
    files_hub.fault("GET .*safetensors$", hang=True)
    assert hub_shape(told(tmp_path, 16)) == [("note", UNTOLD, None)]
    files_hub.put(NAME, {"model.safetensors": b"", "config.json": b"{}"})
    assert hub_shape(told(tmp_path, 16)) == [("note", UNTOLD, None)]


def test_what_is_no_decoder_is_a_note(files_hub: FilesHub, tmp_path: Path) -> None:
    files = headers_of(LLAMA_8B, 1)
    commit = files_hub.put(NAME, {**files, "config.json": b'{"model_type": "mamba"}'})
    assert hub_shape(told(tmp_path, 16))[1:] == [
        (
            "note",
            f"whether org/model at {commit[:8]} fits is not known: it has no config.json of a decoder",
            None,
        )
    ]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"launch": {"device": "cpu"}}, id="cpu"),
        pytest.param({"launch": {"offline": True}}, id="offline"),
        pytest.param({"model_name_or_path": "/nope/model"}, id="path"),
        pytest.param({"env": {"HF_ENDPOINT": "huggingface.co"}}, id="no address"),
    ],
)
def test_nothing_is_asked_where_nothing_is_at_stake(
    settings: dict[str, Any], files_hub: FilesHub, tmp_path: Path
) -> None:
    assert hub_shape(told(tmp_path, 16, **settings)) == []
    assert files_hub.requests == []


def test_a_token_that_cannot_be_sent_is_not(
    files_hub: FilesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a hf_b")
    assert hub_shape(told(tmp_path, 16)) == []
    assert files_hub.requests == []
