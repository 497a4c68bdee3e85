"""`sft eject`: what is written where, what is refused, and a login node that has none of the GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sft.cli.main import main
from sft.plan.hardware import Hardware
from tests import tiny

NO_GPU = Hardware((), (), 2, 8 << 30)


@pytest.fixture(autouse=True)
def run_file(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be beside a run file and its rows, on a machine with no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sft.plan.hardware.detect", lambda: NO_GPU)
    tiny.write_chats(tmp_path / "chats.jsonl", 20)
    path = tmp_path / "run.yaml"
    path.write_text(
        f"model_name_or_path: {tiny_model}\ndataset_name: chats.jsonl\nmax_steps: 3\noutput_dir: out\n"
    )
    return path


def eject(*words: str) -> int:
    return main(["eject", "run.yaml", "--output", "stock", *words])


def contents(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()
    }


def test_the_directory_is_printed_and_holds_all_that_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eject("--learning_rate", "1e-4") == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'stock'}\n"
    assert told.err.splitlines()[:2] == [
        "note: single on 1 CPU process, bf16 precision",
        "note: 8 rows a step = per_device_train_batch_size 8 x gradient_accumulation_steps 1 x 1 process",
    ]
    assert told.err.splitlines()[-1] == "rows: text"
    files = contents(tmp_path / "stock")
    assert sorted(files) == [
        "README.md",
        "accelerate.yaml",
        "data/train.jsonl",
        "job.sbatch",
        "run.sh",
        "trl_sft.yaml",
    ]
    settings = yaml.safe_load(files["trl_sft.yaml"])
    assert settings["learning_rate"] == 1e-4
    assert settings["output_dir"] == str(tmp_path / "out")
    assert "# Written by: sft eject run.yaml --output stock --learning_rate 1e-4\n" in files["trl_sft.yaml"]
    assert all((tmp_path / "stock" / script).stat().st_mode & 0o100 for script in ("run.sh", "job.sbatch"))


def test_the_same_run_gives_the_same_files(tmp_path: Path) -> None:
    assert eject() == 0
    first = contents(tmp_path / "stock")
    assert eject("--force") == 0
    again = contents(tmp_path / "stock")
    assert {name: text.replace(" --force", "") for name, text in again.items()} == first
    assert [path.name for path in tmp_path.iterdir() if "writing" in path.name] == []


def test_what_a_former_ejection_left_is_replaced_whole(tmp_path: Path) -> None:
    words = ["--strategy", "zero2", "--processes_per_node", "2"]
    assert eject("--chat_template", tiny.CHAT_TEMPLATE, *words) == 0
    assert {"deepspeed.json", "chat_template.jinja"} < set(contents(tmp_path / "stock"))
    (tmp_path / "stock" / "mine.txt").write_text("kept")
    assert eject("--force") == 0
    files = contents(tmp_path / "stock")
    assert {"deepspeed.json", "chat_template.jinja"}.isdisjoint(files)
    assert files["mine.txt"] == "kept"


def test_nothing_is_written_over_ejected_files_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eject() == 0
    before = contents(tmp_path / "stock")
    capsys.readouterr()
    assert eject("--learning_rate", "1e-4") == 2
    assert capsys.readouterr().err == (
        f"{tmp_path / 'stock'} holds ejected files already\n"
        "  where: --output\n"
        "  fix:   name another directory, or say --force\n"
    )
    assert contents(tmp_path / "stock") == before


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_what_sft_eject_did_not_write_stays(
    force: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stock" / "data").mkdir(parents=True)
    (tmp_path / "stock" / "data" / "train.jsonl").write_text("mine\n")
    assert eject(*force) == 2
    assert capsys.readouterr().err == (
        f"{tmp_path / 'stock'} is there, and sft eject did not write it\n"
        "  where: --output\n"
        "  fix:   name another directory\n"
    )
    assert contents(tmp_path / "stock") == {"data/train.jsonl": "mine\n"}


def test_rows_are_not_written_over_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert eject() == 0
    before = contents(tmp_path / "stock")
    capsys.readouterr()
    assert main(["eject", "stock/trl_sft.yaml", "--output", "stock", "--force"]) == 2
    assert capsys.readouterr().err == (
        f"the rows of the run lie in {tmp_path / 'stock'}, which is written anew\n"
        "  where: --output\n"
        "  fix:   name another directory\n"
    )
    assert contents(tmp_path / "stock") == before


def test_a_refused_run_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chats.jsonl").write_text('{"messages": 7}\n')
    assert eject() == 2
    assert "chats.jsonl" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chats.jsonl", "run.yaml"]


def test_a_key_that_changes_the_training_is_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("from transformers import TrainerCallback as Mine\n")
    words = ["--callbacks", "mine.py:Mine"]
    told = (
        "callbacks has no equivalent in stock TRL: TRL's script takes no callbacks of yours, and what they do to the"
        " training is not done\n  where: --callbacks\n  fix:   remove callbacks, or say --lossy\n"
    )
    assert eject(*words) == 2
    assert capsys.readouterr().err == told
    assert not (tmp_path / "stock").exists()
    assert eject(*words, "--lossy") == 0
    assert f"warning: {told}" in capsys.readouterr().err
    text = (tmp_path / "stock" / "README.md").read_text()
    assert "- `callbacks`: TRL's script takes no callbacks of yours" in text
    assert "callbacks" not in yaml.safe_load((tmp_path / "stock" / "trl_sft.yaml").read_text())


def test_a_login_node_ejects_for_gpus_and_nodes_that_it_does_not_have(tmp_path: Path) -> None:
    words = ["--gpus_per_node", "4", "--num_machines", "2", "--strategy", "zero3"]
    assert eject(*words) == 0
    files = contents(tmp_path / "stock")
    accelerate = yaml.safe_load(files["accelerate.yaml"])
    assert (accelerate["num_machines"], accelerate["num_processes"], accelerate["use_cpu"]) == (2, 8, False)
    assert "main_process_ip" not in accelerate
    assert accelerate["deepspeed_config"]["deepspeed_config_file"] == str(tmp_path / "stock/deepspeed.json")
    assert "#SBATCH --gpus-per-node=4\n" in files["job.sbatch"]
    assert '--machine_rank "$SLURM_NODEID"' in files["job.sbatch"]
    assert "use_cpu" not in yaml.safe_load(files["trl_sft.yaml"])


def test_the_users_own_accelerate_file_is_copied(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("distributed_type: MULTI_GPU\nnum_processes: 2\nuse_cpu: true\n")
    assert eject("--accelerate_config", "own.yaml") == 0
    text = (tmp_path / "stock" / "accelerate.yaml").read_text()
    assert text.startswith("# Copy of ")
    assert yaml.safe_load(text)["num_processes"] == 2
