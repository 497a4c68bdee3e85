"""docs/topics.md: its keys, its parts, its commands, and that its figures are those of benchmarks/topics.py."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sft.check.run import check_run
from sft.config.loader import load_run
from sft.config.run import RunConfig
from sft.plan.hardware import Hardware
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "topics.md"
TEXT = PAGE.read_text("utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in TEXT.split("\n## ")[1:]}
TOPICS = {
    "LoRA": "use_peft",
    "QLoRA": "load_in_4bit",
    "ZeRO": "launch",
    "DeepSpeed": "launch",
    "FSDP": "launch",
    "FlashAttention": "attn_implementation",
    "SDPA": "attn_implementation",
    "GaLore": "optim",
    "NEFTune": "neftune_noise_alpha",
    "Packing": "packing",
}
"""Topic -> the key that turns it on."""
PARTS = ("What it does", "The key", "When not", "Memory and speed", "The paper")
PAPERS = {
    "LoRA": {"2106.09685"},
    "QLoRA": {"2305.14314"},
    "ZeRO": {"1910.02054", "2101.06840", "2104.07857"},
    "DeepSpeed": set(),
    "FSDP": {"2304.11277"},
    "FlashAttention": {"2205.14135", "2307.08691"},
    "SDPA": {"2112.05682"},
    "GaLore": {"2403.03507"},
    "NEFTune": {"2310.05914"},
    "Packing": {"2107.02027", "2404.10830"},
}
NEEDED = ["--model_name_or_path", "m", "--dataset_name", "d", "--output_dir", "out"]
topics = importlib.import_module("benchmarks.topics")


def machine(gpus: int) -> Hardware:
    """Describe a node with GPUs of 80 GB."""
    return Hardware(("NVIDIA H100 80GB HBM3",) * gpus, (80 * 10**9,) * gpus, 16, 256 * 10**9)


def part(topic: str, name: str) -> str:
    """Return what stands under a bold word of a topic."""
    found = re.search(rf"\*\*{name}s?\.\*\* (.*?)(?=\n\*\*[A-Z][a-z ]+\.\*\*|\Z)", SECTIONS[topic], re.DOTALL)
    assert found is not None, f"{topic} has no {name}"
    return found[1].strip()


def snippet(topic: str) -> str:
    """Return the YAML under a topic's key."""
    (found,) = re.findall(r"```yaml\n(.*?)```", SECTIONS[topic], re.DOTALL)
    return found


def loaded(place: Path, text: str) -> RunConfig:
    """Load lines of a run file as they are written."""
    (place / "run.yaml").write_text(text)
    return load_run(place / "run.yaml", NEEDED, environment={}).config


def test_the_page_has_every_topic() -> None:
    assert list(SECTIONS) == [*TOPICS, "Measured", "Computed"]


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_has_its_five_parts_in_order(topic: str) -> None:
    places = [SECTIONS[topic].index(f"\n**{name}") for name in PARTS]
    assert places == sorted(places)
    assert all(part(topic, name) for name in PARTS)
    sentences = re.findall(r"[.:](?=\s|$)", part(topic, "What it does"))
    assert 2 <= len(sentences) <= 5


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("gpus", [1, 8])
def test_a_snippet_is_a_run_file_that_nothing_is_said_against(topic: str, gpus: int, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(snippet(topic))
    # Not the packages: FlashAttention's cannot be installed everywhere.
    checks = ("combinations", "precision")
    checked = check_run(tmp_path / "run.yaml", [*NEEDED, "--dtype", "float32"], machine(gpus), checks=checks)
    assert (checked.notes, checked.warnings) == ((), ())


@pytest.mark.parametrize("topic", TOPICS)
def test_the_key_of_a_topic_stands_in_its_snippet_and_changes_the_run(topic: str, tmp_path: Path) -> None:
    key, settings = TOPICS[topic], YAML(typ="safe").load(snippet(topic))
    assert key in settings
    assert f"{key}:" in part(topic, "The key").split("```")[0] or topic == "DeepSpeed"
    with_key, without = loaded(tmp_path, snippet(topic)), loaded(tmp_path, "seed: 42\n")
    assert with_key.settings() != without.settings()


def test_every_key_and_value_within_a_sentence_is_accepted(tmp_path: Path) -> None:
    words = {found for found in re.findall(r"`([^`\n]+)`", TEXT) if re.match(r"[a-z_0-9]+: \S", found)}
    assert len(words) > 8
    for text in sorted(words):
        loaded(tmp_path, text + "\n" + "use_peft: true\n" * text.startswith("load_in_4bit"))


def test_every_single_key_that_is_named_is_one(tmp_path: Path) -> None:
    keys = {"lora_modules_to_save": ["lm_head"], "bnb_4bit_quant_storage": "bfloat16", "max_length": 256}
    for key, value in keys.items():
        assert f"`{key}`" in TEXT
        loaded(tmp_path, json.dumps({key: value}))


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_names_its_papers(topic: str) -> None:
    paper = part(topic, "The paper")
    linked = re.findall(r"\[arXiv:(\d{4}\.\d{5})\]\(https://arxiv\.org/abs/(\d{4}\.\d{5})\)", paper)
    assert all(shown == target for shown, target in linked)
    assert {shown for shown, _ in linked} == PAPERS[topic]
    for number in PAPERS[topic]:  # a year beside each, no later than its number says
        assert f"20{number[:2]}" in paper
    if topic == "DeepSpeed":
        assert "Not on arXiv" in paper


def test_the_tables_have_the_cases_of_the_benchmark() -> None:
    for kind, names in (("measured", topics.NAMES), ("computed", tuple(topics.COMPUTED))):
        (table,) = re.findall(rf"<!-- {kind}: table -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
        rows = [line.split("|")[1].strip().removesuffix(" x 2") for line in table.splitlines() if "|" in line]
        assert tuple(rows[2:]) == names, f"python benchmarks/topics.py --write docs/topics.md ({kind})"


def test_every_case_stands_under_a_topic() -> None:
    assert topics.wrong_markers(TEXT) == []
    named: dict[str, set[str]] = {"measured": set(), "computed": set()}
    for topic in TOPICS:
        for kind, names in topics.BLOCK.findall(SECTIONS[topic]):
            named[kind] |= set(names.split(", "))
    bases = {case.base for case in topics.CASES}
    assert named["measured"] == set(topics.NAMES) - bases
    assert named["computed"] == set(topics.COMPUTED)
    for body in re.findall(r"<!-- (?:measured|computed): .+? -->\n(.*?)<!-- end -->", TEXT, re.DOTALL):
        assert body.strip(), "python benchmarks/topics.py --write docs/topics.md"


def test_what_was_not_measured_says_so() -> None:
    assert "**Not measured: it needs a GPU.**" in part("FlashAttention", "Memory and speed")
    assert "**Nothing on this page was measured on a GPU.**" in TEXT
    for topic in TOPICS:
        for before in re.findall(r"([^\n]+)\n\n<!-- computed", SECTIONS[topic]):
            assert "omputed by `sft plan`" in before or "not measured" in before


def test_the_computed_figures_are_those_that_the_plan_gives_now() -> None:
    now = topics.rewrite(TEXT, "computed", topics.computed_lines())
    assert now == TEXT, "python benchmarks/topics.py --computed --write docs/topics.md"


def figures(speed: float) -> dict[str, float]:
    """Make what one launch measures."""
    return {
        "seconds": 1 / speed,
        "tokens": 100 * speed,
        "tensors": 2**21,
        "process": 2**30,
        "checkpoint": 2**20,
    }


def test_ratios_are_taken_within_a_round() -> None:
    found = {"full": [figures(1.0), figures(2.0)], "LoRA": [figures(2.0), figures(3.0)]}
    lines = topics.measured_lines(found)
    assert lines["LoRA"] == [
        "- `LoRA` beside `full`: 1.75 (1.50 to 2.00) times the tokens a second, 1.00 times the tensors' bytes on a rank,"
        " 1.00 times the checkpoint's bytes."
    ]
    assert lines["table"][-1] == (
        "| LoRA | full | 0.42 (0.33 to 0.50) | 250 | 1.75 (1.50 to 2.00) | 2.0 | 1.00 | 1,024.0 | 1.0 |"
    )
    assert "full" not in lines


def test_rewriting_changes_one_kind_and_nothing_else() -> None:
    page = "a\n<!-- measured: table -->\nold\n<!-- end -->\nb\n<!-- computed: x, y -->\nold\n<!-- end -->\n"
    once = topics.rewrite(page, "computed", {"x": ["1"], "y": ["2", "3"]})
    assert once == page.replace("x, y -->\nold", "x, y -->\n1\n2\n3")
    assert topics.rewrite(once, "computed", {"x": ["1"], "y": ["2", "3"]}) == once


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--only", "LoRA", "--write", "page.md"], "--write takes all cases"),
        (["--write", "nowhere.md"], "there is no page nowhere.md"),
        (["--write", "page.md"], "it has no `<!-- computed: table -->`; Lora is not measured"),
        (["--rounds", "0"], "--rounds, --steps and --layers are at least 1"),
        (["--keep", "nowhere/kept.json"], "there is no directory nowhere"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_measured(
    words: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    markers = ("<!-- measured: table -->\n<!-- end -->", "<!-- measured: Lora -->\n<!-- end -->")
    Path("page.md").write_text("\n".join(markers))
    monkeypatch.setattr(sys, "argv", ["topics.py", *words])
    with pytest.raises(SystemExit) as ended:
        topics.main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_failed_launch_is_made_once_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries: list[str] = []

    def measure(case: Any, place: Path, steps: int) -> dict[str, float]:
        tries.append(case.name)
        if len(tries) == 1:
            raise RuntimeError("it failed")
        return figures(1.0)

    monkeypatch.setattr(topics, "measure", measure)
    assert topics.measure_or_again(topics.CASES[0], tmp_path, 1) == figures(1.0)
    assert tries == ["full", "full"]


def test_runs_of_other_settings_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "write_model", lambda place, layers: 1)
    monkeypatch.setattr(topics, "measure", lambda case, place, steps: figures(1.0))
    arguments = argparse.Namespace(only=["LoRA"], rounds=1, steps=1, layers=1, keep=tmp_path / "kept.json")
    found, _ = topics.by_turns(arguments, tmp_path)
    assert list(found) == ["full", "LoRA"]
    arguments.steps = 2
    with pytest.raises(RuntimeError, match="other --layers or --steps"):
        topics.by_turns(arguments, tmp_path)


def test_a_launch_is_measured(tmp_path: Path) -> None:
    topics.write_model(tmp_path / "model", 1)
    topics.write_data(tmp_path)
    (case,) = (case for case in topics.CASES if case.name == "LoRA")
    found = topics.measure(case, tmp_path, 1)
    weights = (tmp_path / "model" / "model.safetensors").stat().st_size
    planned = json.loads((tmp_path / "out" / "_sft" / "plan.json").read_text())["memory"]["likely"]
    assert found["tensors"] == pytest.approx(planned, rel=0.05)
    assert found["checkpoint"] < weights / 4
    assert found["process"] > found["tensors"]
    assert found["tokens"] * found["seconds"] == pytest.approx(topics.ROWS * (topics.LENGTH - 1), rel=0.01)


@pytest.mark.slow
def test_the_whole_benchmark_writes_its_page(tmp_path: Path) -> None:
    page = tmp_path / "topics.md"
    page.write_text(topics.BLOCK.sub(r"<!-- \1: \2 -->\n<!-- end -->", TEXT))
    words = ["--rounds", "1", "--steps", "1", "--layers", "1", "--write", str(page)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "topics.py"), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = page.read_text()
    for name in topics.NAMES:
        assert f"\n| {name} | " in written or f"\n| {name} x 2 | " in written
    assert all(body.strip() for body in re.findall(r"-->\n(.*?)<!-- end -->", written, re.DOTALL))
    assert topics.rewrite(written, "computed", topics.computed_lines()) == written


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    model = tiny.write_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    data = tiny.write_chats(tmp_path / "chats.jsonl", 200)
    (block,) = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    environment = {
        **os.environ,
        "MODEL": str(model),
        "DATA": str(data),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    done = subprocess.run(
        ["bash", "-euc", block], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "memory of one GPU" in done.stdout
