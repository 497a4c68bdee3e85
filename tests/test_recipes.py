"""The run files of recipes/: each is checked as it stands, and each is trained for two steps on the tiny model.

The task files are trained by tests/test_tasks_page.py.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sft.check.run import check_run
from sft.data.user_code import load_object
from sft.plan.hardware import Hardware
from sft.rundir import RunDirectory
from tests.training.launching import FSDP_ON_CPU, REPOSITORY, SFT, Launched, succeeded

# quickstart.yaml is launched whole, by launch/quickstart.sh and its tests.
RECIPES = {path.stem: path for path in (REPOSITORY / "recipes").glob("*.yaml") if path.stem != "quickstart"}
NAMES = ("full", "lora", "qlora", "zero3", "fsdp_qlora", "galore", "neftune", "packing")
PROCESSES = {"zero3": 2, "fsdp_qlora": 2}


def machine(gpus: int) -> Hardware:
    """Describe a node with this many GPUs of 80 GB."""
    return Hardware(("NVIDIA H100 80GB HBM3",) * gpus, (80 * 10**9,) * gpus, 16, 256 * 10**9)


def test_every_recipe_is_tested() -> None:
    assert set(RECIPES) == set(NAMES)


@pytest.mark.parametrize("gpus", [0, 1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_right_on_any_machine(
    name: str, gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("USER", raising=False)
    monkeypatch.chdir(tmp_path)
    checked = check_run(RECIPES[name], hardware=machine(gpus))
    assert checked.notes == ()
    assert checked.warnings == ()
    assert checked.plan.batch.total == (24 if name == "packing" else 96)
    assert checked.loaded.config.training.assistant_only_loss


@pytest.mark.parametrize("name", NAMES)
def test_recipe_opens_with_its_own_command(name: str) -> None:
    opening = RECIPES[name].read_text().split("\n\n")[0].splitlines()
    assert all(line.startswith("#") for line in opening)
    commands = [line for line in opening if re.match(r"# (Run|Yours): +sft launch ", line)]
    assert len(commands) == 2
    for line in commands:
        words = line.split("sft launch ")[1].split()
        assert words[0] == f"recipes/{name}.yaml"
        check_run(RECIPES[name], [word for word in words[1:] if word != "--merge"], hardware=machine(1))
    fetched = re.search(r"hf download (\S+) && hf download --repo-type dataset (\S+)", "\n".join(opening))
    assert fetched is not None
    config = check_run(RECIPES[name], hardware=machine(1)).loaded.config
    assert fetched.groups() == (config.model.model_name_or_path, config.script.dataset_name)


def test_check_command_accepts_a_recipe(tiny_model: Path, tiny_chats: Path, tmp_path: Path) -> None:
    named = {
        "model_name_or_path": tiny_model,
        "dataset_name": tiny_chats,
        "output_dir": tmp_path / "out",
        "max_length": 512,
    }
    words = [word for key, value in named.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(
        [*SFT, "check", str(RECIPES["lora"]), *words],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning: " not in done.stderr
    assert f"lora_r: 32  ({RECIPES['lora']}:" in done.stdout


def test_check_command_tells_what_a_machine_without_network_lacks() -> None:
    done = subprocess.run(
        [*SFT, "check", str(RECIPES["lora"])], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert done.returncode != 0
    assert "HF_HUB_OFFLINE" in done.stderr


@pytest.fixture(scope="module")
def trained(
    tiny_model: Path, tiny_chats: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Launched]:
    """Launch every recipe with a tiny model, two at a time."""
    place = tmp_path_factory.mktemp("recipes")

    def launch(name: str) -> Launched:
        settings: dict[str, Any] = {
            "model_name_or_path": tiny_model,
            "dataset_name": tiny_chats,
            "output_dir": place / name,
            "processes_per_node": PROCESSES.get(name, 1),
            "total_train_batch_size": 4,
            "max_steps": 2,
            "max_length": 256,
            # Large and from the first step on, so that two steps can be told apart.
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "logging_steps": 1,
        }
        words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
        environment = {}
        if name == "fsdp_qlora":
            # As in the matrix of strategies: it shows the sharding logic, not FSDP2 on GPUs.
            environment["PYTHONPATH"] = str(FSDP_ON_CPU)
            words += ["--use_cpu", "true"]
        done = subprocess.run(
            [*SFT, "launch", str(RECIPES[name]), *words],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return Launched(done.returncode, done.stdout, done.stderr, RunDirectory(place / name))

    with ThreadPoolExecutor(2) as pool:
        launched = dict(zip(NAMES, pool.map(launch, NAMES), strict=True))
    return lambda name: succeeded(launched[name])


@pytest.mark.parametrize("name", NAMES)
def test_recipe_trains(trained: Callable[[str], Launched], name: str) -> None:
    run = trained(name)
    assert len(run.losses) == 2
    plan = json.loads(run.run.plan_json.read_text())
    sharded = {"zero3": "zero3", "fsdp_qlora": "fsdp2"}
    assert (plan["strategy"], plan["processes"]) == (sharded.get(name, "single"), PROCESSES.get(name, 1))
    has_adapter = name in ("lora", "qlora", "fsdp_qlora")
    assert (run.run.output_dir / "adapter_model.safetensors").exists() == has_adapter
    assert (run.run.output_dir / "model.safetensors").exists() != has_adapter
    (model,) = run.of_kind("model")
    assert (model["trainable"] == model["parameters"]) != has_adapter


def test_weights_are_held_as_the_recipes_say(trained: Callable[[str], Launched]) -> None:
    held = {}
    for name in ("full", "lora", "qlora", "zero3", "fsdp_qlora"):
        (model,) = trained(name).of_kind("model")
        held[name] = (model["dtypes"], model["quantized"])
    assert held == {
        "full": ("float32 106,816", None),
        "lora": ("bfloat16 106,816, float32 65,536", None),
        # Norms, embeddings and head, which are tied here, in float32.
        "qlora": ("bfloat16 65,536, float32 33,088", "4-bit nf4 73,728"),
        "zero3": ("bfloat16 106,816", None),
        "fsdp_qlora": ("bfloat16 98,624", "4-bit nf4 73,728"),
    }


def test_galore_neftune_and_packing_take_effect(trained: Callable[[str], Launched]) -> None:
    full, galore, neftune, packing = (trained(name) for name in ("full", "galore", "neftune", "packing"))
    # The same rows and weights: GaLore's first step is another one, NEFTune's first forward pass is.
    assert galore.losses[0] == full.losses[0]
    assert galore.losses[1] != full.losses[1]
    assert neftune.losses[0] != full.losses[0]
    tokens = [run.of_kind("log")[1]["trained_tokens"] for run in (full, packing)]
    assert tokens[1] > 1.3 * tokens[0], "packed rows must be fuller"


TASKS = {
    path.stem: path for path in (REPOSITORY / "recipes" / "tasks").glob("*.py") if path.stem != "make_data"
}
METRICS = {"instruct": "perplexity", "rewrite": "polite_overlap", "sql": "same_result"}


def test_every_task_is_tested() -> None:
    assert set(TASKS) == set(METRICS)


@pytest.mark.parametrize("gpus", [0, 1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", METRICS)
def test_task_is_right_on_any_machine(
    name: str, gpus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    checked = check_run(TASKS[name], hardware=machine(gpus))
    assert (checked.notes, checked.warnings) == ((), ())
    assert checked.plan.batch.total == 48
    assert checked.loaded.config.kit.eval_metrics[-1].rpartition(":")[2] == METRICS[name]


@pytest.mark.parametrize("name", METRICS)
def test_task_opens_with_its_own_commands(name: str) -> None:
    opening = ast.get_docstring(ast.parse(TASKS[name].read_text())) or ""
    lines = re.findall(r"^(?:Run|Yours|Real): +(?:DATA=\S+ )?sft launch (.*)$", opening, re.MULTILINE)
    assert len(lines) >= 2
    for line in lines:
        path, *words = line.split()
        assert path == f"recipes/tasks/{name}.py"
        check_run(TASKS[name], words, hardware=machine(1))
    assert ("make_data.py quickstart/tasks" in opening) == (name != "instruct")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made")
    script = REPOSITORY / "recipes" / "tasks" / "make_data.py"
    subprocess.run([sys.executable, str(script), str(place)], check=True, capture_output=True)
    return place


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_made_data_is_the_same_each_time_and_its_splits_share_nothing(made: Path, tmp_path: Path) -> None:
    script = REPOSITORY / "recipes" / "tasks" / "make_data.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    for task, key, rows in (("rewrite", "en_neutral_comment", 1920), ("sql", "context", 1920)):
        train, test = (rows_of(made / task / f"{split}.jsonl") for split in ("train", "test"))
        assert train == rows_of(tmp_path / task / "train.jsonl")
        assert (len(train), len(test)) == (rows, 48)
        assert not {row[key] for row in train} & {row[key] for row in test}


def test_the_metrics_of_the_tasks_score_what_they_say(made: Path) -> None:
    score = load_object(f"{TASKS['sql']}:same_result", "eval_metrics")
    for row in rows_of(made / "sql" / "test.jsonl"):
        assert score(row["answer"].replace("SELECT", "select") + ";", row["answer"], row) == 1.0, row
        assert score("", row["answer"], row) == 0.0
    row = {
        "context": "CREATE TABLE a (n TEXT, x INTEGER)",
        "question": "",
        "answer": "SELECT n FROM a WHERE x > 5",
    }
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    for query, right in (
        ("select n from a where not x <= 5;", 1.0),
        ("SELECT n FROM a WHERE x >= 5", 0.0),
        ("SELECT n FROM a", 0.0),
        ("DROP TABLE a", 0.0),
        ("PRAGMA user_version", 0.0),
        (endless, 0.0),
        ("SELECT count(*) FROM a, a AS b, a AS c, a AS d, a AS e, a AS f", 0.0),
    ):
        assert score(query, row["answer"], row) == right, query
    score = load_object(f"{TASKS['rewrite']}:polite_overlap", "eval_metrics")
    for row in rows_of(made / "rewrite" / "test.jsonl"):
        assert score(row["en_neutral_comment"], row["en_neutral_comment"]) == 1.0
        assert score(row["en_toxic_comment"], row["en_neutral_comment"]) == 0.0
    assert score("Please send it.", "Please send it today.") == pytest.approx(6 / 7)


def test_instructions_of_both_shapes_become_chats() -> None:
    to_chat = load_object(f"{TASKS['instruct']}:to_chat", "dataset_mapping")
    chat = [{"role": "user", "content": "Add.\n\n1 and 2"}, {"role": "assistant", "content": "It is 3."}]
    assert to_chat({"instruction": "Add.", "input": "1 and 2", "output": "It is 3."}) == {"messages": chat}
    assert to_chat({"messages": chat}) == {"messages": chat}
    assert to_chat({"instruction": "Add.", "input": "", "output": "3"}) is None
