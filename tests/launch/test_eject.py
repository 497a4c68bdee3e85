"""The texts of `sft eject`: whole files, values that would break out of them, and keys that stock TRL lacks."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sft.config.kit import KitConfig, LaunchConfig
from sft.errors import UserError
from sft.launch.eject import Ejected, refusals, refuse, trl_settings, yaml_value
from sft.launch.eject_data import EjectedData
from sft.launch.eject_readme import EXPRESSED, INSTEAD, readme
from sft.launch.eject_scripts import stock_files, stock_sbatch_lines
from sft.plan.hardware import Hardware
from sft.plan.plan import make_plan
from tests.training.here import read_settings

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens" / "eject"
SHELLCHECK = ROOT / ".venv" / "bin" / "shellcheck"
FOUR_GPUS = Hardware(("NVIDIA A100",) * 4, (40 << 30,) * 4, 16, 256 << 30)
VERSIONS = {"torch": "2.13.0", "trl": "1.16.0"}
SCRIPTS = ("run.sh", "job.sbatch")


def eject(
    tmp_path: Path,
    directory: Path,
    settings: Mapping[str, Any],
    data: EjectedData | None = None,
) -> Ejected:
    """Plan settings for machines of four GPUs, where nobody has said yet where they meet."""
    base = {"model_name_or_path": "/work/models/tiny", "dataset_name": "/work/data/chats"}
    loaded = read_settings(tmp_path, {**base, **settings})
    plan = make_plan(loaded, FOUR_GPUS, is_placed=False)
    config = loaded.config
    name = config.launch.slurm.job_name or config.run.output_dir.name
    sbatch = stock_sbatch_lines(config.launch, plan, name=name, log=directory / "job-%j.log")
    told = data or EjectedData("left", rows=(("train", 200),))
    return Ejected(loaded, plan, directory, told, sbatch, "sft eject run.yaml --output stock")


ONE: dict[str, Any] = {
    "output_dir": "/work/runs/llama",
    "use_peft": True,
    "lora_target_modules": ["q_proj"],
    "learning_rate": 2e-4,
    "assistant_only_loss": True,
    "packing": True,
    "total_train_batch_size": 64,
    "chat_template": "{{ messages }}",
    "report_to": "wandb",
    "push_to_hub": True,
    "merge": True,
    "env": {"NCCL_DEBUG": "INFO"},
    "launch": {"gpus_per_node": 4, "time_limit": "04:00:00", "stop_grace_seconds": 60},
}
TWO: dict[str, Any] = {
    "output_dir": "/work/runs/llama",
    "dtype": "float32",
    "per_device_train_batch_size": 2,
    "total_train_batch_size": 64,
    "validation_fraction": 0.1,
    "eval_strategy": "steps",
    "launch": {
        "nodes": 2,
        "gpus_per_node": 4,
        "strategy": "zero3",
        "time_limit": "1-00:00:00",
        "setup": ["module load cuda", "conda activate peft"],
        "wrap": "apptainer exec --nv kit.sif",
        "slurm": {"partition": "gpu", "account": "my_account", "job_name": "llama 8B", "cpus_per_task": 16},
    },
}
WRITTEN = EjectedData("text", rows=(("train", 180), ("test", 20)))
TOKENS = EjectedData("tokens", "rows.jsonl:7: TRL would make other tokens of it", (("train", 40),))


@pytest.mark.parametrize(
    ("name", "settings", "data"), [("ddp", ONE, TOKENS), ("zero3-two-nodes", TWO, WRITTEN)]
)
def test_the_files_are_the_golden_ones(
    name: str, settings: dict[str, Any], data: EjectedData, tmp_path: Path
) -> None:
    ejected = eject(tmp_path, Path("/work/stock"), settings, data)
    texts = stock_files(ejected) | {"README.md": readme(ejected, VERSIONS)}
    if os.environ.get("SFT_ACCEPT"):
        (GOLDENS / name).mkdir(parents=True, exist_ok=True)
        for file, text in texts.items():
            (GOLDENS / name / file).write_text(text)
    assert sorted(texts) == sorted(path.name for path in (GOLDENS / name).iterdir())
    for file, text in texts.items():
        accept = "accept with: SFT_ACCEPT=1 pytest tests/launch/test_eject.py"
        assert text == (GOLDENS / name / file).read_text(), accept


HOSTILE = 'it\'s "$(touch pwned)" `touch pwned` $HOME ; touch pwned } \\ *'


def _fakes(place: Path) -> Path:
    """Stand-ins that tell how they were called: what they are given is what the real ones would be."""
    place.mkdir()
    tell = '#!/usr/bin/env bash\nprintf "%s\\0" "$(basename "$0")" "$HOSTILE" "$@" >"$TOLD"\n'
    (place / "accelerate").write_text(tell)
    (place / "wrap").write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$1" >"$TOLD.wrap"\nshift\nexec "$@"\n')
    (place / "scontrol").write_text(
        '#!/usr/bin/env bash\n[[ $3 == "node[1-2]" ]] && printf "node1\\nnode2\\n"\n'
    )
    (place / "srun").write_text(
        '#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nSLURM_NODEID=1 exec "$@"\n'
    )
    for path in place.iterdir():
        path.chmod(0o755)
    return place


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("script", SCRIPTS)
def test_hostile_values_reach_the_launch_as_they_are(
    script: str, named: bool, nodes: int, tmp_path: Path
) -> None:
    directory = tmp_path / HOSTILE.replace("/", "")
    directory.mkdir()
    settings = {
        "env": {"HOSTILE": HOSTILE.replace("$", "$$")},
        "output_dir": str(tmp_path / "out"),
        "launch": {
            "nodes": nodes,
            "gpus_per_node": 2,
            "wrap": shlex.join(["wrap", HOSTILE]),
            "slurm": {"job_name": HOSTILE, "extra": [f"--comment={HOSTILE}"]},
        },
    }
    ejected = eject(tmp_path, directory, settings)
    if named:
        ejected = dataclasses.replace(
            ejected, plan=dataclasses.replace(ejected.plan, main_process_ip=HOSTILE, main_process_port=4711)
        )
    for name, text in stock_files(ejected).items():
        (directory / name).write_text(text)
    _check_scripts(directory, "--severity=error")  # it warns of every quote within quotes
    environment = {
        "PATH": f"{_fakes(tmp_path / 'bin')}:{os.environ['PATH']}",
        "HOME": "/root",
        "TOLD": str(tmp_path / "told"),
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
    }
    if script == "run.sh":
        environment |= {"MACHINE_RANK": "1"} | ({} if named else {"HEAD_NODE": "node1"})
    done = subprocess.run(
        ["bash", str(directory / script)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.rglob("pwned"))
    meeting: list[str] = []
    if nodes == 2:
        port = "4711" if named else "29500" if script == "run.sh" else "23456"
        meeting = ["--machine_rank", "1", "--main_process_ip", HOSTILE if named else "node1"]
        meeting += ["--main_process_port", port]
    assert (tmp_path / "told").read_text().split("\0")[:-1] == [
        *("accelerate", HOSTILE, "launch", "--config_file", str(directory / "accelerate.yaml"), *meeting),
        *("-m", "trl.scripts.sft", "--config", str(directory / "trl_sft.yaml")),
    ]
    assert (tmp_path / "told.wrap").read_text() == HOSTILE + "\0"


def _check_scripts(directory: Path, *options: str) -> None:
    done = subprocess.run(
        [str(SHELLCHECK), "--shell=bash", *options, *SCRIPTS],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", ["ddp", "zero3-two-nodes"])
def test_scripts_are_clean(name: str) -> None:
    _check_scripts(GOLDENS / name)


def test_a_name_of_two_lines_makes_no_line_of_the_script(tmp_path: Path) -> None:
    settings = {"output_dir": "/work/a\n#SBATCH --wrap=x", "launch": {"gpus_per_node": 1}}
    with pytest.raises(UserError) as refused:
        eject(tmp_path, tmp_path, settings)
    assert str(refused.value) == (
        "#SBATCH --job-name holds a line break or another control character\n"
        "  where: run_name, output_dir or --output\n"
        "  fix:   name it otherwise, or set launch.slurm.job_name"
    )


def test_only_what_the_kit_would_answer_is_left_out_of_the_job(tmp_path: Path) -> None:
    ejected = eject(tmp_path, Path("/work/stock"), {"launch": {"gpus_per_node": 1, "slurm": {"mem": "8G"}}})
    assert ejected.sbatch == [
        "#SBATCH --job-name=out",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --mem=8G",
        "#SBATCH --output=/work/stock/job-%j.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --no-requeue",
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_every_value_is_read_by_pyyaml_as_what_it_is(value: Any) -> None:
    text = f"key: {yaml_value(value)}\n"
    assert text.count("\n") == 1
    assert yaml.safe_load(text) == {"key": value}


@pytest.mark.parametrize(
    "word", ["no", "Off", "y", "null", "1e5", "2e-4", "010", "24:00:00", "~", "=", "<<", "none"]
)
def test_words_that_yaml_would_take_for_something_else_stay_text(word: str) -> None:
    assert yaml.safe_load(f"key: {yaml_value(word)}") == {"key": word}


def test_a_single_lora_target_is_written_so_that_trl_finds_what_the_kit_finds(tmp_path: Path) -> None:
    for name, modules in (("q_proj", ["q_proj", "layers.0.q_proj"]), ("attn.out", ["layers.1.attn.out"])):
        ejected = eject(tmp_path, tmp_path, {"use_peft": True, "lora_target_modules": [name]})
        (pattern,) = trl_settings(ejected)["lora_target_modules"]
        assert all(re.fullmatch(pattern, module) for module in modules)
        others = ("xq_proj", "q_proj.x", "layers.1.attnxout")
        assert not any(re.fullmatch(pattern, module) for module in others)
    for kept in (["all-linear"], ["q_proj", "v_proj"], [r".*\.q_proj"]):
        ejected = eject(tmp_path, tmp_path, {"use_peft": True, "lora_target_modules": kept})
        assert trl_settings(ejected)["lora_target_modules"] == kept


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "early_stopping_patience": (
        {"early_stopping_patience": 2, "eval_strategy": "steps", "save_strategy": "steps", "load_best_model_at_end": True},
        "early_stopping_patience has no equivalent in stock TRL: the stock run trains to its end",
    ),
    "callbacks": (
        {"callbacks": ["mine.py:Mine"]},
        "callbacks has no equivalent in stock TRL: TRL's script takes no callbacks of yours, and what they do to the"
        " training is not done",
    ),
    "prepare_model_for_kbit_training": (
        {"prepare_model_for_kbit_training": True, "load_in_4bit": True, "use_peft": True},
        "prepare_model_for_kbit_training has no equivalent in stock TRL: norms, embeddings and head stay in the dtype of"
        " the base model",
    ),
    "compute_metrics": (
        {"compute_metrics": "mine.py:mine", "load_best_model_at_end": True, "eval_strategy": "steps"},
        "compute_metrics has no equivalent in stock TRL, and the run goes by a metric",
    ),
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_changes_the_training_is_refused_by_name(key: str, tmp_path: Path) -> None:
    settings, what = REFUSED[key]
    ejected = eject(tmp_path, tmp_path, settings)
    (problem,) = refusals(ejected.loaded)
    assert (problem.what, problem.fix) == (what, f"remove {key}, or say --lossy")
    assert problem.where is not None
    assert problem.where.startswith(str(tmp_path / "run.yaml"))
    assert f"- `{key}`: " in readme(ejected, VERSIONS)


def test_metrics_by_which_nothing_goes_are_only_told(tmp_path: Path) -> None:
    ejected = eject(tmp_path, tmp_path, {"compute_metrics": "mine.py:mine"})
    assert refusals(ejected.loaded) == []
    assert "- `compute_metrics`: TRL's own metrics are logged, yours are not.\n" in readme(ejected, VERSIONS)


def test_an_array_and_a_name_that_no_shell_sets_are_refused(tmp_path: Path) -> None:
    array = eject(tmp_path, tmp_path, {"launch": {"slurm": {"array": ["--seed 1", "--seed 2"]}}})
    with pytest.raises(UserError, match="a job array is several runs, and each is ejected by itself"):
        refuse(array.loaded)
    named = eject(tmp_path, tmp_path, {"env": {"A;touch pwned;B": "1"}})
    with pytest.raises(UserError, match="env holds 'A;touch pwned;B', which a shell script cannot set"):
        refuse(named.loaded)


def test_every_key_of_the_kit_is_said_or_named_in_the_readme() -> None:
    """A new key of the kit: say in EXPRESSED or INSTEAD what becomes of it when a run is ejected."""
    keys = {*KitConfig.model_fields, *(f"launch.{key}" for key in LaunchConfig.model_fields)}
    assert keys - EXPRESSED - INSTEAD.keys() == set()
    assert (EXPRESSED | INSTEAD.keys()) - keys == set()
    assert EXPRESSED & INSTEAD.keys() == set()


def test_the_environment_of_the_run_file_stands_in_trls_own_key_and_in_the_scripts(tmp_path: Path) -> None:
    ejected = eject(tmp_path, Path("/work/stock"), {"env": {"A": "no", "OMP_NUM_THREADS": "3"}})
    texts = stock_files(ejected)
    assert yaml.safe_load(texts["trl_sft.yaml"])["env"] == {"A": "no", "OMP_NUM_THREADS": "3"}
    for script in SCRIPTS:
        lines = texts[script].splitlines()
        assert {"export A=no", "export OMP_NUM_THREADS=3"} < set(lines)
        assert not any("PYTHONPATH" in line for line in lines)


def test_the_batch_is_the_plans(tmp_path: Path) -> None:
    """Rows that would be joined are accumulated, as `sft launch` has it."""
    settings = {"per_device_train_batch_size": 4, "packing": True, "launch": {"gpus_per_node": 4}}
    ejected = eject(tmp_path, tmp_path, {**settings, "total_train_batch_size": 32})
    said = trl_settings(ejected)
    assert (said["per_device_train_batch_size"], said["gradient_accumulation_steps"]) == (1, 8)
    assert "total_train_batch_size" not in json.dumps(said)
