"""`sft schema`: what an editor is given agrees with what the loader takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sft.cli.main import main
from sft.config.fields import every_key
from sft.config.loader import load_run
from sft.config.old_names import CONVERTED, RENAMED, SILENT
from sft.config.retired import RETIRED
from sft.config.schema import json_schema
from sft.errors import UserError

KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Check a value against the parts of JSON Schema that the kit's schema uses, and no other."""
    known = {"$schema", "title", "description", "default", "deprecated", "definitions", "format", "$ref", "type", "enum",
             "const", "anyOf", "allOf", "properties", "additionalProperties", "required", "items", "minimum", "maximum",
             "exclusiveMinimum", "pattern"}  # fmt: skip
    assert set(schema) <= known, set(schema) - known
    if "$ref" in schema:
        return valid(value, root["definitions"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema and not any(valid(value, option, root) for option in schema["anyOf"]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(
        isinstance(value, KINDS[kind]) and not (isinstance(value, bool) and kind in ("integer", "number"))
        for kind in kinds
    ):
        return False
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key, item in value.items():
            inner = properties.get(key, others)
            if inner is False or (isinstance(inner, dict) and not valid(item, inner, root)):
                return False
        return set(schema.get("required", [])) <= set(value)
    if isinstance(value, list) and "items" in schema:
        return all(valid(item, schema["items"], root) for item in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return schema.get("minimum", value) <= value <= schema.get("maximum", value) and value > schema.get(
            "exclusiveMinimum", value - 1
        )
    return "pattern" not in schema or not isinstance(value, str) or bool(re.search(schema["pattern"], value))


SCHEMA = json_schema()


def test_the_schema_holds_every_name_that_a_run_file_may_hold() -> None:
    flat = {key for key in every_key() if "." not in key}
    assert set(SCHEMA["properties"]) == flat | set(RENAMED) | set(CONVERTED) | set(RETIRED) | {"launch"}
    launch = SCHEMA["properties"]["launch"]
    assert set(launch["properties"]) == {
        key.split(".")[1] for key in every_key() if key.startswith("launch.")
    }
    assert SCHEMA["additionalProperties"] is False
    assert launch["additionalProperties"] is False
    assert SCHEMA["definitions"]["SlurmConfig"]["additionalProperties"] is False


def test_every_key_is_described_and_old_names_are_deprecated() -> None:
    properties = SCHEMA["properties"]
    assert [key for key, schema in properties.items() if not schema.get("description")] == []
    assert {key for key, schema in properties.items() if schema.get("deprecated")} == (
        set(RENAMED) | set(CONVERTED) | set(RETIRED)
    ) - SILENT
    assert properties["max_seq_length"] == {"deprecated": True, "description": "Now max_length."}
    assert properties["learning_rate"] == {
        "default": 2e-05,
        "description": "The initial learning rate for AdamW.",
        "type": "number",
    }
    assert properties["save_strategy"]["enum"] == ["no", "steps", "epoch", "best"]


GOOD: dict[str, Any] = {
    "model_name_or_path": "m",
    "dataset_name": "d",
    "packing": "yes",
    "max_length": None,
    "lora_target_modules": ["q_proj"],
    "report_to": "wandb",
    "evaluation_strategy": "epoch",
    "datasets": [{"path": "a", "fraction": 0.5}],
    "env": {"A": "b"},
    "launch": {"nodes": 2, "strategy": "multi_gpu", "slurm": {"partition": "gpu"}, "time_limit": "24:00:00"},
}


def test_a_good_run_file_is_valid_for_editor_and_loader(tmp_path: Path) -> None:
    assert valid(GOOD, SCHEMA, SCHEMA)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(GOOD))
    assert load_run(path, environment={}).config.launch.strategy == "ddp"


@pytest.mark.parametrize(
    "bad",
    [
        {"lerning_rate": 1},
        {"learning_rate": "fast"},
        {"save_strategy": "sometimes"},
        {"launch": {"node": 2}},
        {"launch": {"nodes": 0}},
        {"launch": {"strategy": "zero9"}},
        {"launch": {"slurm": {"queue": "gpu"}}},
        {"launch": {"time_limit": "soon"}},
        {"datasets": [{"pth": "a"}]},
        {"packing": 3},
    ],
)
def test_a_bad_one_is_invalid_for_both(tmp_path: Path, bad: dict[str, Any]) -> None:
    whole = {"model_name_or_path": "m", "dataset_name": "d", **bad}
    assert not valid(whole, SCHEMA, SCHEMA)
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(whole))
    with pytest.raises(UserError):
        load_run(path, environment={})


def test_the_command_prints_the_schema_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == SCHEMA
    assert err == ""


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("learning_rate", "learning_rate: a number\n  default: 2e-05\n  The initial learning rate for AdamW.\n"
         "  from: TRL, SFTConfig\n"),
        ("save-strategy", "save_strategy: one of no, steps, epoch, best\n  default: steps\n  The checkpoint save "
         "strategy to adopt during training. Options: 'no', 'epoch', 'steps', 'best'.\n  from: TRL, SFTConfig\n"),
        ("merge", "merge: true or false\n  default: false\n  Merge the adapter into its base once training has "
         "ended, into <output_dir>/merged.\n  from: the kit\n"),
        ("gpu_ids", "gpu_ids is read as launch.gpu_ids\nlaunch.gpu_ids: text\n  default: none\n  Which GPUs of this "
         "machine, as accelerate takes them: 0,1 (accelerate's key).\n  from: the kit\n"),
        ("splits", "splits is an old name: it is read under today's, and `sft check` says how\n"),
        ("hub_token", "hub_token is not needed any more: a token in a run file ends up in logs and on the Hub\n"
         "  instead: export HF_TOKEN, or `hf auth login`\n"),
    ],
)  # fmt: skip
def test_one_key_is_explained(key: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", key]) == 0
    assert capsys.readouterr().out == text


def test_every_key_can_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for key in [*every_key(), *RENAMED, *CONVERTED, *RETIRED]:
        assert main(["schema", key]) == 0


def test_an_unknown_key_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "lerning_rate"]) == 2
    assert capsys.readouterr() == ("", "there is no key lerning_rate\n  fix:   did you mean learning_rate?\n")


# --- shell completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_knows_commands_and_keys(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("launch", "schema", "learning_rate", "total_train_batch_size", "launch.slurm.partition"):
        assert word in script
    assert "hub_token" not in script


def test_bash_completes_a_key_and_its_values(tmp_path: Path) -> None:
    script = tmp_path / "sft.bash"
    done = subprocess.run(
        [sys.executable, "-m", "sft.cli.main", "completion", "bash"], capture_output=True, check=True
    )
    script.write_bytes(done.stdout)
    ask = f"""
source {script}
complete_line() {{
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_sft; echo "${{COMPREPLY[@]}}"
}}
complete_line sft la
complete_line sft launch --learning_r
complete_line sft launch --save_strategy s
"""
    shell = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert shell.stdout.split("\n")[:3] == ["launch", "--learning_rate", "steps"], shell.stderr
