"""The generated sections are the installed libraries' settings, and a TRL file means what TRL reads in it."""

from __future__ import annotations

import dataclasses
import enum
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.config import libraries, library
from sft.config.generate import generate
from sft.config.loader import load_run
from sft.config.old_names import CONVERTED, RENAMED
from sft.config.retired import STILL_FIELDS
from sft.config.run import RunConfig, section_of_key
from sft.errors import ExitCode, UserError

SECTIONS = ("script", "training", "model", "mixture")
OTHERWISE = {*STILL_FIELDS, *RENAMED, *CONVERTED}
"""Fields of TRL's that the kit reads otherwise, or not at all."""


def _plain(value: Any) -> Any:
    """Make values comparable: enums by value, dataclasses and sections as mappings."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.model_dump() if hasattr(value, "model_dump") else value


def test_the_generated_file_is_what_the_installed_libraries_give(tmp_path: Path) -> None:
    again = tmp_path / "library.py"
    again.write_text(generate(), encoding="utf-8")
    root = Path(library.__file__).parents[2]
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        "format",
        "-q",
        "--config",
        str(root / "pyproject.toml"),
        str(again),
    ]
    subprocess.run(ruff, check=True)
    written = Path(library.__file__).read_text(encoding="utf-8")
    assert again.read_text(encoding="utf-8") == written, (
        "accept it with: python -m sft.config.generate && ruff format"
    )


def test_keys_and_defaults_are_trls() -> None:
    import trl
    from trl.scripts.utils import DatasetConfig

    for theirs, ours in (
        (trl.ScriptArguments, library.ScriptArguments),
        (trl.SFTConfig, library.SFTConfig),
        (trl.ModelConfig, library.ModelConfig),
        (trl.DatasetMixtureConfig, library.DatasetMixtureConfig),
        (DatasetConfig, library.DatasetConfig),
    ):
        fields = {field.name: field for field in dataclasses.fields(theirs) if field.init}
        assert list(fields) == list(ours.model_fields)
        for name, field in fields.items():
            declared = ours.model_fields[name]
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                assert declared.is_required(), name
            else:
                default = field.default
                if field.default_factory is not dataclasses.MISSING:
                    default = field.default_factory()
                assert declared.get_default(call_default_factory=True) == _plain(default), name


def test_no_key_belongs_to_two_sections() -> None:
    names = [
        name
        for section in (*SECTIONS, "kit")
        for name in RunConfig.model_fields[section].annotation.model_fields
    ]  # type: ignore[union-attr]
    assert len(names) == len(set(names)) == len(section_of_key())


# --- a TRL file as it stands

TRL_FILES = {
    "minimal": "model_name_or_path:\n  Qwen/Qwen2.5-0.5B\ndataset_name:\n  stanfordnlp/imdb\nreport_to:\n  none\n"
    "learning_rate:\n  0.0001\nlr_scheduler_type:\n  cosine\n",
    "processes": "model_name_or_path: m\ndataset_name: d\nnum_processes: 4\n",
    "profile": "model_name_or_path: m\ndataset_name: d\naccelerate_config: zero2\nmain_process_port: 29501\n"
    "num_machines: 2\nmachine_rank: 1\nmain_process_ip: 10.0.0.1\n",
    "env": "env:\n  CUDA_VISIBLE_DEVICES: 0\n  SFT_TEST_FLAG: true\n  SFT_TEST_TEXT: a b\nmodel_name_or_path: m\n"
    "dataset_name: d\n",
    "mixture": "model_name_or_path: m\ndatasets:\n  - path: a\n    name: x\n    split: train[:10%]\n    columns: [text]\n"
    "    fraction: 0.5\n  - path: b\n    data_files: {train: t.jsonl}\n    fraction: 0.5\nstreaming: false\n"
    "test_split_size: 0.1\n",
    "lora": "model_name_or_path: m\ndataset_name: d\nuse_peft: true\nlora_r: 64\nlora_target_modules: [q_proj, v_proj]\n"
    "lora_modules_to_save: [lm_head]\nload_in_4bit: true\ndtype: bfloat16\nbnb_4bit_quant_storage: bfloat16\n"
    "use_bnb_nested_quant: true\nuse_rslora: true\n",
    "trainer": "model_name_or_path: m\ndataset_name: d\nlearning_rate: 2e-4\nwarmup_steps: 0.03\neval_strategy: steps\n"
    "eval_steps: 0.1\nlogging_steps: 5\nsave_total_limit: 2\noptim: adafactor\nmax_length: null\npacking: true\n"
    "packing_strategy: bfd_split\nassistant_only_loss: true\ngradient_checkpointing_kwargs: {use_reentrant: true}\n"
    'lr_scheduler_kwargs: \'{"num_cycles": "2", "deep": {"on": "true"}}\'\nmodel_init_kwargs: {a: 1}\n'
    "report_to: [none]\nneftune_noise_alpha: 5\nmetric_for_best_model: eval_loss\nlabel_names: [labels]\n"
    "accelerator_config: {split_batches: true}\nbf16: false\n",
    "lora_one": "model_name_or_path: m\ndataset_name: d\nuse_peft: true\nlora_target_modules: all-linear\n"
    "pad_to_multiple_of: 8\neos_token: '</s>'\n",
}


@pytest.mark.parametrize("name", TRL_FILES)
def test_a_trl_file_is_a_run_file_and_means_what_trl_reads_in_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trl
    import yaml

    text = TRL_FILES[name] + f"output_dir: {tmp_path}/out\nuse_cpu: true\n"
    path = tmp_path / "trl.yaml"
    path.write_text(text, encoding="utf-8")
    given = yaml.safe_load(text)
    parser = trl.TrlParser((trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig))
    with monkeypatch.context() as scope:
        scope.setattr(os, "environ", dict(os.environ))
        *theirs, launch_words = parser.parse_args_and_config(
            ["--config", str(path)], return_remaining_strings=True
        )
        their_environment = {key: os.environ[key] for key in given.get("env", {})}

    config = load_run(path, environment={}).config
    ours = [
        trl.ScriptArguments(**config.script.model_dump(exclude_unset=True)),
        trl.SFTConfig(**config.training.model_dump(exclude_unset=True)),
        trl.ModelConfig(**config.model.model_dump(exclude_unset=True)),
        trl.DatasetMixtureConfig(**config.mixture.model_dump(exclude_unset=True)),
    ]
    for their, our in zip(theirs, ours, strict=True):
        assert _plain(our) == _plain(their)
    assert config.kit.env == their_environment
    launch = dict(zip(launch_words[::2], launch_words[1::2], strict=True))
    for flag, value in launch.items():
        key = RENAMED[flag.removeprefix("--")]
        assert str(getattr(config.launch, key.removeprefix("launch."))) == value
    assert len(config.launch.model_fields_set) == len(launch)


def test_every_field_of_trls_is_read_as_trl_reads_it(tmp_path: Path) -> None:
    """Each field alone with its default written out: the key is known, and the value survives."""
    for section in SECTIONS:
        declared: Any = RunConfig.model_fields[section].annotation
        for name, field in declared.model_fields.items():
            if name in OTHERWISE:
                continue
            default = field.get_default(call_default_factory=True)
            if default is None:
                continue
            loaded = load_run(None, ["--model_name_or_path", "m", "--dataset_name", "d", f"--{name}={_word(default)}"],
                              environment={})  # fmt: skip
            assert _plain(getattr(getattr(loaded.config, section), name)) == _plain(default), name


def _word(value: Any) -> str:
    import json

    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def test_every_launch_key_of_accelerate_is_understood_or_refused_by_name(tmp_path: Path) -> None:
    from accelerate.commands.launch import launch_command_parser

    positional = {"training_script", "training_script_args", "help", "env"}
    for action in launch_command_parser()._actions:
        if action.dest in positional:
            continue
        words = ["--model_name_or_path", "m", "--dataset_name", "d", f"--{action.dest}", "surely_not"]
        message = ""
        try:
            load_run(None, words, environment={})
        except UserError as error:
            message = str(error)
        assert "unknown key" not in message, action.dest
        assert not message or action.dest in message or RENAMED.get(action.dest, "?") in message


# --- other versions


def test_other_versions_are_generated_once_and_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(libraries, "installed_versions", lambda: {"trl": "9.9.9", "transformers": "5.23.0"})
    path = tmp_path / "sft" / "library-transformers5.23.0-trl9.9.9.py"
    first = libraries.load_library()
    assert first is not library
    assert list(first.SFTConfig.model_fields) == list(library.SFTConfig.model_fields)
    told = f"Reading the settings of transformers5.23.0-trl9.9.9 once, into {path}\n"
    assert capsys.readouterr() == ("", told)
    path.write_text(path.read_text().replace("How to train.", "Read from the cache."))
    assert libraries.load_library().SFTConfig.__doc__ == "Read from the cache."
    assert capsys.readouterr() == ("", "")


def test_pinned_versions_and_a_login_node_without_libraries_need_no_generation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        libraries.subprocess, "run", lambda *_, **__: pytest.fail("nothing is to be generated")
    )
    for versions in ({}, library.VERSIONS):
        monkeypatch.setattr(libraries, "installed_versions", lambda versions=versions: versions)
        assert libraries.load_library() is library


def test_settings_that_cannot_be_generated_are_an_environment_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(libraries, "installed_versions", lambda: {"trl": "0.0.1"})
    monkeypatch.setattr(libraries.sys, "executable", "/bin/false")
    with pytest.raises(UserError) as caught:
        libraries.load_library()
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert caught.value.problems[0].fix == "install the versions of constraints.txt"
    assert list((tmp_path / "sft").glob("*.py")) == []
