"""docs/run-file.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sft.config.loader import load_run
from sft.config.old_names import CONVERTED
from tests.config.tables import PAGE, SAMPLES, with_tables

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_code() -> None:
    assert with_tables(TEXT) == TEXT, "accept them with: python -m tests.config.tables"
    assert set(SAMPLES) == set(CONVERTED)


def test_the_run_file_of_the_page_is_read(tmp_path: Path) -> None:
    block = next(text for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL) if "model_name" in text)
    path = tmp_path / "run.yaml"
    path.write_text(block)
    config = load_run(path, environment={"USER": "me"}).config
    assert config.training.output_dir == "/work/me/runs/llama-lora"


def test_the_site_file_of_the_page_is_read(tmp_path: Path) -> None:
    block = next(text for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL) if "my_account" in text)
    path = tmp_path / "site.yaml"
    path.write_text(block)
    words = ["--model_name_or_path", "m", "--dataset_name", "d"]
    assert (
        load_run(None, words, environment={"SFT_SITE": str(path)}).config.launch.slurm.account == "my_account"
    )


def test_the_flags_of_the_page_are_read() -> None:
    import shlex

    block = next(text for text in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) if text.startswith("--"))
    words = shlex.split(f"{block} --model_name_or_path m --dataset_name d")
    config = load_run(None, words, environment={}).config
    assert (config.training.packing, config.launch.nodes, config.launch.slurm.partition) == (False, 2, "gpu")


@pytest.mark.parametrize(
    ("written", "section", "key", "value"),
    [
        ("learning_rate: 1e-4", "training", "learning_rate", 1e-4),
        ("packing: yes", "training", "packing", True),
        ("save_strategy: no", "training", "save_strategy", "no"),
        ("run_name: 010", "training", "run_name", "010"),
        ("max_length: 010", "training", "max_length", 10),
        ("max_length: none", "training", "max_length", None),
        ("lora_target_modules: q_proj,k_proj", "model", "lora_target_modules", ["q_proj", "k_proj"]),
        ("lora_modules_to_save: lm_head", "model", "lora_modules_to_save", ["lm_head"]),
    ],
)
def test_the_table_of_values_is_true(
    tmp_path: Path, written: str, section: str, key: str, value: object
) -> None:
    assert f"`{written}`" in TEXT
    assert YAML().load(written)
    path = tmp_path / "run.yaml"
    path.write_text(f"model_name_or_path: m\ndataset_name: d\n{written}\n")
    assert getattr(getattr(load_run(path, environment={}).config, section), key) == value
