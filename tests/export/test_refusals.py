"""What a merge refuses once weights are read, and that it leaves nothing behind then."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sft.errors import ExitCode, UserError
from sft.export import package
from sft.export.merge import merge
from tests import tiny
from tests.export.adapters import write_adapter

COMMAND = """
import argparse, sys
from sft.cli import merge
parser = argparse.ArgumentParser()
merge.add_arguments(parser)
sys.exit(merge.run(parser.parse_args(), []))
"""


def test_a_result_that_differs_is_refused_and_removed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter")
    honest = package.write_package

    def corrupting(model, *rest):  # type: ignore[no-untyped-def]
        model.model.layers[0].mlp.up_proj.weight.data.mul_(1.5)
        return honest(model, *rest)

    monkeypatch.setattr("sft.export.merge.write_package", corrupting)
    with pytest.raises(UserError) as caught:
        merge(adapter, tmp_path / "merged")

    assert caught.value.exit_code == ExitCode.TRAINING_FAILED
    assert caught.value.problems[0].what.startswith("the merged model differs from base and adapter by ")
    assert os.listdir(tmp_path) == ["adapter"]


def test_max_difference_is_enforced(tmp_path: Path) -> None:
    base = tiny.write_tiny_model(tmp_path / "base", dtype="bfloat16")
    adapter = write_adapter(base, tmp_path / "adapter")
    with pytest.raises(UserError) as caught:
        merge(adapter, tmp_path / "merged", max_difference=1e-4)
    assert "after writing and loading (bound 0.0001)" in str(caught.value)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("layers", [1, 3], ids=["fewer_layers", "more_layers"])
def test_an_adapter_of_another_base_is_refused(tiny_model: Path, tmp_path: Path, layers: int) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter", target_modules=["q_proj", "up_proj"])
    other = tiny.write_tiny_model(tmp_path / "other", layers=layers)
    with pytest.raises(UserError) as caught:
        merge(adapter, tmp_path / "merged", base=str(other))
    assert str(caught.value).startswith(f"the adapter does not fit the base {other}: the ")
    assert caught.value.problems[0].fix == "give the base that it was trained on with --base"


def test_an_adapter_of_other_shapes_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    adapter = write_adapter(tiny_model, tmp_path / "adapter")
    config = AutoConfig.from_pretrained(tiny_model)
    config.hidden_size, config.head_dim = 32, 8
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="the adapter does not fit the base"):
        merge(adapter, tmp_path / "merged", base=str(tmp_path / "other"))


def test_a_torn_base_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    adapter = write_adapter(base, tmp_path / "adapter")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError) as caught:
        merge(adapter, tmp_path / "merged")
    assert str(caught.value).startswith(f"the base model {base} cannot be loaded: ")
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


def test_an_adapter_with_nan_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter", std=float("nan"))
    with pytest.raises(UserError, match="the adapter holds NaN or infinite weights in "):
        merge(adapter, tmp_path / "merged")


def test_prompt_tuning_has_no_place_in_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(
        tmp_path / "adapter"
    )
    with pytest.raises(UserError) as caught:
        merge(tmp_path / "adapter", tmp_path / "merged")
    assert caught.value.problems[0].what == (
        "a PROMPT_TUNING adapter cannot be merged: it adds to the input, not to the weights"
    )


def test_into_dequantized_needs_a_quantised_base(tiny_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter")
    with pytest.raises(
        UserError, match="--into dequantized needs an adapter that was trained on a quantised base"
    ):
        merge(adapter, tmp_path / "merged", into="dequantized")


def test_too_little_memory_is_told_before_loading(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter")
    monkeypatch.setattr("sft.export.base.available_memory_bytes", lambda: 1000)
    with pytest.raises(UserError) as caught:
        merge(adapter, tmp_path / "merged")
    assert caught.value.exit_code == ExitCode.DOES_NOT_FIT


def test_the_command_prints_the_path_and_a_killed_one_leaves_no_output(
    tiny_model: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter")
    target = tmp_path / "out" / "merged"
    command = [sys.executable, "-c", COMMAND, str(adapter), "--output", str(target)]

    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.merged.merging-*")) and time.monotonic() < deadline:
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not target.exists()

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"{target}\n", done.stderr
    assert "largest logit difference " in done.stderr
    assert os.listdir(target.parent) == ["merged"]


def test_help_imports_no_torch() -> None:
    code = COMMAND.splitlines()[:-1]
    program = "\n".join([*code, "parser.format_help()", "print('torch' in sys.modules)"])
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout == "False\n", shown.stderr
