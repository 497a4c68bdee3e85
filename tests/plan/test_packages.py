"""A setting whose package is missing is told by `sft check`, with the command that brings it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from sft.cli.main import main
from sft.config.loader import load_run
from sft.errors import ExitCode, UserError
from sft.extras import install_command
from sft.plan.packages import require_packages

COMMON = ["--model_name_or_path", "m", "--dataset_name", "d", "--use_cpu", "true"]


def config(*words: str) -> object:
    return load_run(None, [*COMMON, *words], environment={}).config


@pytest.fixture
def nothing_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("nothing_optional")
@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (("--attn_implementation", "flash_attention_2"), "flash_attn", "flash-attn"),
        (("--use_liger_kernel",), "liger_kernel", "liger"),
        (("--optim", "galore_adamw"), "galore_torch", "galore"),
        (("--optim", "apollo_adamw_layerwise"), "apollo_torch", "apollo"),
    ],
)
def test_missing_extra(words: tuple[str, ...], package: str, extra: str) -> None:
    with pytest.raises(UserError) as caught:
        require_packages(config(*words))  # type: ignore[arg-type]
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    problem = caught.value.problems[0]
    assert (problem.what, problem.fix) == (f"the package {package} is not installed", install_command(extra))


@pytest.mark.usefixtures("nothing_optional")
@pytest.mark.parametrize(
    ("optim", "package", "name"),
    [
        ("adamw_torch_4bit", "torchao", "torchao"),
        ("schedule_free_adamw", "schedulefree", "schedulefree"),
        ("lomo", "lomo_optim", "lomo-optim"),
    ],
)
def test_missing_optimizer_that_no_extra_brings(optim: str, package: str, name: str) -> None:
    with pytest.raises(UserError) as caught:
        require_packages(config("--optim", optim))  # type: ignore[arg-type]
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == (
        f"the package {package} is not installed, which optim: {optim} needs\n"
        "  where: optim\n"
        f"  fix:   pip install {name}, or choose another optim"
    )


@pytest.mark.usefixtures("nothing_optional")
@pytest.mark.parametrize("words", [(), ("--optim", "adamw_8bit"), ("--attn_implementation", "sdpa")])
def test_what_needs_no_extra_asks_for_none(words: tuple[str, ...]) -> None:
    require_packages(config(*words))  # type: ignore[arg-type]


def test_flash_attention_may_come_through_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "kernels" else None)
    require_packages(config("--attn_implementation", "flash_attention_2"))  # type: ignore[arg-type]


@pytest.mark.skipif(
    importlib.util.find_spec("liger_kernel") is not None, reason="liger-kernel is installed here"
)
def test_sft_check_tells_it(
    tiny_model: Path, tiny_chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"model_name_or_path: {tiny_model}\ndataset_name: {tiny_chats}\nuse_cpu: true\nuse_liger_kernel: true\n"
        f"output_dir: {tmp_path / 'out'}\n"
    )
    assert main(["check", str(run_file)]) == ExitCode.ENVIRONMENT
    assert "the package liger_kernel is not installed\n" in capsys.readouterr().err
