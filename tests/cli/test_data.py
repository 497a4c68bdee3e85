"""`sft data`: rows drawn, counted and prepared from a run file, on a machine without a GPU and without torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sft.cli.completion import whole_parser
from sft.cli.main import main
from sft.plan.hardware import Hardware
from tests import tiny

LONG = "⟦trained⟧  context  ⟪special token⟫  ⏎ newline  ⇥ tab  ␣ space at an edge\n⟨U+202E⟩ character that would not show\n"
PREVIEW = "note: not prepared yet (`sft data prepare`), so rows are taken from the first 512 of each split\n"


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(
        "sft.plan.hardware.detect", lambda: Hardware((), (), cpu_cores=2, memory_bytes=1 << 34)
    )


@pytest.fixture
def run_file(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three chats, in the directory that the command runs in."""
    monkeypatch.chdir(tmp_path)
    rows = tiny.chats(3)
    rows[1]["messages"][1]["content"] = "a" * 300
    tiny.write_rows(tmp_path / "chats.jsonl", rows)
    return write_run(tmp_path / "run.yaml", tiny_model)


def write_run(path: Path, model: Path, **more: object) -> Path:
    settings = {
        "model_name_or_path": str(model),
        "dataset_name": "chats.jsonl",
        "assistant_only_loss": True,
        "max_length": 128,
        "max_cut_answers": 1,
        "data_cache": "cache",
        "output_dir": "out",
        **more,
    }
    with path.open("w", encoding="utf-8") as file:
        YAML().dump(settings, file)
    return path


def call(*words: object) -> int:
    return main(["data", *map(str, words)])


def ruled(left: str, right: str) -> str:
    return left + " " + "━" * (80 - len(left) - len(right) - 5) + f" {right} ━━\n"


# --- show


def test_the_first_rows_are_drawn_without_preparing_the_rest(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("show", run_file, "-n", 2) == 0
    out, err = capsys.readouterr()
    assert out == (
        LONG
        + "\n"
        + ruled("━━ row 1 · chats.jsonl:1", "33 tokens, 8 trained (24%)")
        + "⟪<|im_start|>⟫user⏎\n"
        "What is number 0 about lists?⟪<|im_end|>⟫⏎\n"
        "⟪<|im_start|>⟫assistant⏎\n"
        "⟦Number 0 about lists is 0.⟪<|im_end|>⟫⟧⏎\n"
        "· x 95 padding\n"
        "\n"
        + ruled("━━ row 2 · chats.jsonl:2", "128 tokens, 104 trained (81%), 198 cut off")
        + "⟪<|im_start|>⟫user⏎\n"
        "What is number 1 about files?⟪<|im_end|>⟫⏎\n"
        "⟪<|im_start|>⟫assistant⏎\n"
        f"⟦{'a' * 79}\n{'a' * 25}⟧\n"
        "\n"
        "2 rows, 161 tokens, 112 trained (70%), and as one micro-batch 95 padding (37% of\n"
        "it)\n"
    )
    assert err == PREVIEW
    assert not (run_file.parent / "cache" / "prepared").exists()


def test_prepared_rows_are_shown_as_they_were_packed(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("prepare", run_file, "--packing") == 0
    capsys.readouterr()
    assert call("show", run_file, "--packing", "--rows", "2,1", "--tokens") == 0
    out, err = capsys.readouterr()
    assert err == ""
    titles = [line.split(" ━")[0].split(" ─")[0] for line in out.splitlines() if line[:2] in ("━━", "──")]
    assert [title for title in titles if "row" in title] == ["━━ row 2", "━━ row 1"]
    samples = sorted(title.partition(", ")[2] for title in titles if "sample" in title)
    assert samples == [
        "128 tokens, 104 trained · chats.jsonl:2",
        "33 tokens, 8 trained · chats.jsonl:1",
        "39 tokens, 14 trained · chats.jsonl:3",
    ]
    assert out.endswith("\n\n2 rows, 200 tokens, 126 trained (63%), packed: no padding\n")
    assert sum(line.split()[2:3] == ["trained"] for line in out.splitlines()) == 126


@pytest.mark.parametrize(
    ("words", "no_color", "coloured"),
    [([], "", False), (["--color", "always"], "1", True), (["--color", "never"], "", False)],
)
def test_colour_is_for_terminals_unless_it_is_asked_for(
    run_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    no_color: str,
    coloured: bool,
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    assert call("show", run_file, *words) == 0
    out = capsys.readouterr().out
    assert ("\x1b[1;32m" in out, "⟦" in out) == (coloured, not coloured)


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_a_terminal_gets_colour_unless_it_is_declined(
    run_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    coloured: bool,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert call("show", run_file) == 0
    assert ("\x1b[1;32m" in capsys.readouterr().out) == coloured


def test_the_page_is_written_and_its_path_printed(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", run_file, "--html", "rows.html", "-n", 1) == 0
    assert capsys.readouterr().out == "rows.html\n"
    text = (run_file.parent / "rows.html").read_text(encoding="utf-8")
    assert "<title>What run.yaml trains</title>" in text
    assert "<dd>train, 3 prepared rows of the first that were read</dd>" in text
    assert text.count('tabindex="0"') == 33


def test_a_page_that_cannot_be_written_is_a_problem_of_the_environment(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("show", run_file, "--html", "missing/rows.html") == 4
    assert capsys.readouterr().err == PREVIEW + (
        "the page cannot be written: No such file or directory\n"
        "  where: missing/rows.html\n"
        "  fix:   name a file in a directory that is there and that you may write to\n"
    )


def test_what_is_not_there_is_said(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("show", run_file, "--rows", "4") == 2
    assert capsys.readouterr().err == PREVIEW + (
        "there is no row 4: 3 rows of the train split are prepared\n  where: --rows\n  fix:   choose from 1 to 3\n"
    )
    assert call("show", run_file, "--split", "test") == 2
    assert capsys.readouterr().err == PREVIEW + (
        "the run has no test split\n"
        "  where: --split\n"
        "  fix:   set eval_strategy and a test split, or use --split train\n"
    )


def test_the_test_split_is_shown_where_there_is_one(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--eval_strategy", "steps", "--validation_fraction", "0.4")
    assert call("show", run_file, "--split", "test", *words) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 row, ")


@pytest.mark.parametrize("words", [["-n", "0"], ["-n", "x"], ["--rows", "1,,2"], ["--rows", "0"]])
def test_rows_are_numbers_from_one(
    run_file: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        call("show", run_file, *words)
    assert end.value.code == 2
    assert "is no number of rows, counted from 1" in capsys.readouterr().err


# --- stats


def test_the_numbers_of_a_run_are_told(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("stats", run_file) == 0
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "note: no GPU here, so steps are those of 1 process; launch.gpus_per_node says of how many GPUs"
    ]
    assert out.splitlines() == [
        "train",
        "  rows          3 read: 2 trained whole, 1 truncated, 0 dropped",
        "  shapes        messages (3)",
        "  tokens        200, of which 126 carry loss (63%)",
        "  loss on       generation markers (3)",
        "  length        median 39, mean 133, p90 326, p99 326, from 33 to 326 tokens",
        "  too long      1 row beyond max_length 128: answers 1 cut; 198 tokens cut off",
        "  padding       48% in random order (this run), 48% with",
        "                train_sampling_strategy: group_by_length; in micro-batches of 8",
        "  steps         1 an epoch, 3 in 3 epochs, of 8 rows = 8 x 1 accumulated x 1",
        "                process",
        "",
        "   tokens  rows",
        "    33-64     2  " + "█" * 63,
        "   65-128     0",
        "  ── max_length 128 ── longer rows are cut",
        "  129-256     0",
        "  257-512     1  " + "█" * 31 + "▌",
    ]


def test_a_login_node_counts_the_steps_of_the_gpus_that_are_asked_for(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("stats", run_file, "--json", "--gpus_per_node", 2, "--total_train_batch_size", 2) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert list(document) == ["entry", "splits"]
    assert (run_file.parent / document["entry"] / "manifest.json").is_file()
    train = document["splits"]["train"]
    assert (train["batch"]["total"], train["batch"]["processes"]) == (2, 2)
    assert (train["steps_an_epoch"], train["steps"]) == (2, 6)


def test_numbers_are_told_even_where_no_plan_can_be_made(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("stats", run_file, "--json", "--gpus_per_node", 2, "--total_train_batch_size", 3) == 0
    out, err = capsys.readouterr()
    assert err == (
        "note: no plan can be made, so steps and padding are left out: "
        "total_train_batch_size 3 is not a multiple of 2 (2 GPUs)\n"
    )
    assert json.loads(out)["splits"]["train"]["steps_an_epoch"] is None


def test_both_splits_have_numbers_and_only_one_has_steps(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--eval_strategy", "steps", "--validation_fraction", "0.4", "--use_cpu")
    assert call("stats", run_file, "--json", *words) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert list(splits) == ["train", "test"]
    assert [split["steps_an_epoch"] for split in splits.values()] == [1, None]
    assert sum(split["rows_read"] for split in splits.values()) == 3


# --- prepare


def test_preparing_prints_the_place_and_happens_once(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("prepare", run_file) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "train: 3 rows (3 messages): 2 trained whole, 1 truncated, 0 dropped"
    manifest = Path(out.strip()) / "manifest.json"
    made = manifest.stat().st_mtime_ns
    assert call("prepare", run_file) == 0
    assert capsys.readouterr().out == out
    assert manifest.stat().st_mtime_ns == made


def test_strict_refuses_a_row_that_would_be_dropped(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--max_length", "20")
    assert call("prepare", run_file, *words, "--strict") == 2
    assert capsys.readouterr().err.startswith(
        "max_length leaves none of the row's trained tokens: it has 33 tokens"
    )


# --- all of them


def test_the_commands_load_no_torch(run_file: Path) -> None:
    code = (
        "import sys\nfrom sft.cli.main import main\n"
        "for action in ('show', 'stats', 'prepare'):\n"
        "    assert main(['data', action, 'run.yaml']) == 0\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'accelerate', 'deepspeed'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["show", "--help"], ["stats", "--help"], ["prepare", "--help"]]
)
def test_help_loads_nothing_but_the_standard_library(words: list[str]) -> None:
    code = f"""
import sys
from sft.cli.main import main
try:
    main(['data', *{words!r}])
except SystemExit as end:
    assert end.code == 0
outside = {{'torch', 'numpy', 'rich', 'jinja2', 'datasets', 'tokenizers', 'pydantic', 'ruamel'}} & set(sys.modules)
assert not outside, outside
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: sft data")


def test_a_shell_completes_the_flags_and_keys_of_each_command() -> None:
    commands = whole_parser()._subparsers._group_actions[0].choices["data"]  # type: ignore[union-attr,index]
    inner = next(action for action in commands._actions if action.dest == "action").choices
    flags = {
        name: {flag for action in parser._actions for flag in action.option_strings}
        for name, parser in inner.items()
    }  # type: ignore[union-attr]
    assert list(flags) == ["show", "stats", "prepare"]
    assert {"--html", "--rows", "--max_length"} <= flags["show"]
    assert {"--json", "--packing"} <= flags["stats"]
    assert {"--strict", "--data_cache"} <= flags["prepare"]


def test_ctrl_c_while_preparing_leaves_nothing(run_file: Path, tiny_model: Path) -> None:
    slow = "import time\ndef row(row):\n    time.sleep(0.05)\n    return row\n"
    (run_file.parent / "slow.py").write_text(slow)
    tiny.write_rows(run_file.parent / "chats.jsonl", tiny.chats(2000))
    write_run(run_file, tiny_model, dataset_mapping="slow.py:row", dataset_num_proc=2)
    process = subprocess.Popen(
        [sys.executable, "-m", "sft.cli.main", "data", "prepare", str(run_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not list(run_file.parent.glob("cache/prepared/.*")) and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "interrupted\n")
    assert not list(run_file.parent.glob("cache/prepared/*"))
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
