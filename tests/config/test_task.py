"""Task files: what they resolve to, which line a message names, and what is wrong with the file itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from sft.config.code import with_neighbours
from sft.config.loader import LoadedRun, load_run
from sft.data.user_code import load_object
from sft.errors import UserError
from sft.launch.submit import settings_text

HEAD = 'NEEDED = {"model_name_or_path": "m", "dataset_name": "d"}\n'
"""One line; a test's own text starts in line 2."""


def read(place: Path, text: str, *words: str, name: str = "task.py", head: str = HEAD) -> LoadedRun:
    """Read a task file; only $HOME is set."""
    path = place / name
    path.write_text(head + text, encoding="utf-8")
    return load_run(path, words, environment={"HOME": "/home/me"})


def refusal(place: Path, text: str, *words: str, head: str = HEAD) -> str:
    with pytest.raises(UserError) as caught:
        read(place, text, *words, head=head)
    return str(caught.value).replace(f"{place}/", "")


YAML = """\
model_name_or_path: $HOME/model
datasets:
  - path: one.jsonl
    split: train
  - path: two.jsonl
dataset_mapping: {user: question, assistant: "{answer}!"}
learning_rate: 2e-4
max_length: null
packing: yes
save_strategy: no
run_name: 10
max_seq_length: 512
lora_target_modules: [q_proj, k_proj]
lr_scheduler_kwargs: {num_cycles: 2}
env: {A: true, B: 1, C: text}
callbacks: [mine.py:One]
launch:
  nodes: 2
  gpus_per_node: 4
  setup: ["module load cuda"]
  slurm:
    partition: gpu
    account: "007"
"""
TASK = """\
from pathlib import Path
BASE = {"model_name_or_path": "$HOME/model", "packing": False}
LAUNCH = dict(nodes=2, gpus_per_node=4, setup=("module load cuda",))
RUN = {
    **BASE,
    "datasets": [{"path": Path("one.jsonl"), "split": "train"}, {"path": "two.jsonl"}],
    "dataset_mapping": {"user": "question", "assistant": "{answer}!"},
    "learning_rate": 2e-4,
    "max_length": None,
    "packing": True,
    "save_strategy": "no",
    "run_name": 10,
    "max_seq_length": 512,
    "lora_target_modules": ["q_proj", "k_proj"],
    "lr_scheduler_kwargs": {"num_cycles": 2},
    "env": {"A": True, "B": 1, "C": "text"},
    "callbacks": ["mine.py:One"],
}
RUN["launch"] = LAUNCH | {"slurm": {"partition": "gpu", "account": "007"}}
"""


def test_yaml_and_a_task_file_resolve_to_the_same_tree(tmp_path: Path) -> None:
    yaml = tmp_path / "run.yaml"
    yaml.write_text(YAML.replace("max_length: null\n", ""))
    words = ["--learning_rate", "1e-4", "--launch.slurm.qos", "high"]
    one = load_run(yaml, words, environment={"HOME": "/home/me"})
    other = read(tmp_path, TASK.replace('    "max_length": None,\n', ""), *words, head="")
    assert one.config == other.config
    assert one.config.settings() == other.config.settings()
    assert set(one.sources) == set(other.sources)
    assert [note.replace("run.yaml:11", "") for note in one.notes] == [
        note.replace("task.py:12", "") for note in other.notes
    ]


def test_each_value_has_its_line(tmp_path: Path) -> None:
    sources = read(tmp_path, TASK.replace('    "max_seq_length": 512,\n', ""), "--seed", "3", head="").sources
    lines = {key: place.rpartition(":")[2] for key, place in sources.items()}
    assert lines == {
        "model_name_or_path": "2", "launch.nodes": "3", "launch.gpus_per_node": "3", "launch.setup": "3",
        "datasets": "6", "dataset_mapping": "7", "learning_rate": "8", "max_length": "9", "packing": "10",
        "save_strategy": "11", "run_name": "12", "lora_target_modules": "13", "lr_scheduler_kwargs": "14", "env": "15",
        "callbacks": "16", "launch.slurm.partition": "18", "launch.slurm.account": "18", "seed": "--seed",
    }  # fmt: skip


def test_a_function_becomes_a_reference_that_every_process_can_import(tmp_path: Path) -> None:
    place = tmp_path / "with $dollar"
    place.mkdir()
    text = (
        "from common import score as scored\n"
        "def to_chat(row): return {'text': row['a']}\n"
        "short = lambda prediction, reference: 1.0\n"
        "class Mine: ...\n"
        "RUN = {**NEEDED, 'dataset_mapping': to_chat, 'callbacks': [Mine], 'formatting_func': short,\n"
        "       'eval_strategy': 'steps', 'eval_metrics': ['loss', scored]}\n"
    )
    (place / "common.py").write_text("def score(prediction, reference): return 0.5\n")
    loaded = read(place, text)
    kit = loaded.config.kit
    assert kit.dataset_mapping == f"{place}/task.py:to_chat"
    assert kit.callbacks == [f"{place}/task.py:Mine"]
    assert kit.formatting_func == f"{place}/task.py:short"
    assert kit.eval_metrics == ["loss", f"{place}/task.py:scored"]
    assert load_object(str(kit.dataset_mapping), "dataset_mapping")({"a": "x"}) == {"text": "x"}
    assert load_object(kit.eval_metrics[1], "eval_metrics")("", "") == 0.5
    # What the ranks read is YAML, and says the same.
    resolved = tmp_path / "run.yaml"
    resolved.write_text(settings_text(loaded.config))
    assert load_run(resolved, environment={}).config == loaded.config


def test_the_file_is_run_once_and_prints_to_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "print('read')\nSEEN = object()\ndef of(row=None): return SEEN\nRUN = {**NEEDED, 'dataset_mapping': of}\n"
    first, again = read(tmp_path, text), load_run(tmp_path / "task.py", environment={})
    seen = [load_object(str(run.config.kit.dataset_mapping), "x")() for run in (first, again)]
    assert seen[0] is seen[1]
    assert capsys.readouterr() == ("", "read\n")


def test_neighbours_of_one_name_in_two_directories_are_two(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared_by_tasks.py").write_text(f"NAME = {name!r}\n")
    text = "from shared_by_tasks import NAME\nRUN = {**NEEDED, 'run_name': NAME}\n"
    names = [read(tmp_path / name, text).config.training.run_name for name in ("a", "b")]
    assert names == ["a", "b"]


def test_what_is_installed_wins_over_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('nor this')\n")
    sys.modules.pop("colorsys", None)
    text = "import json, colorsys\nRUN = {**NEEDED, 'run_name': json.dumps(1)}\n"
    assert read(tmp_path, text).config.training.run_name == "1"


def test_a_script_without_run_is_not_run(tmp_path: Path) -> None:
    script = f"open({str(tmp_path / 'touched')!r}, 'w')\n"
    assert refusal(tmp_path, script) == (
        "this task file has no RUN\n"
        "  where: task.py\n"
        '  fix:   write RUN = {"model_name_or_path": ..., ...} at the top of the file: see docs/tasks.md'
    )
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("RUN = {**NEEDED\n", "this is not Python: '{' was never closed\n  where: task.py:2\n  fix:   mind brackets, quotes and indents"),
        ("x = 1\nRUN = {**NEEDED, 'seed': 1 / 0}\n", "the file fails as it is read: ZeroDivisionError: division by zero\n  where: task.py:3\n  fix:   mend the file"),
        ("import no_such_thing\nRUN = NEEDED\n", "the file fails as it is read: ModuleNotFoundError: No module named 'no_such_thing'\n  where: task.py:2\n  fix:   mend the file"),
        ("RUN = NEEDED\nraise SystemExit(3)\n", "the file ends the process as it is read\n  where: task.py:3\n  fix:   put what is a script under `if __name__ == \"__main__\":`"),
        ("RUN = [NEEDED]\n", "RUN is a list, not a dict of keys\n  where: task.py:2\n  fix:   write RUN = {\"model_name_or_path\": ..., ...} at the top of the file: see docs/tasks.md"),
        ("if NEEDED is None:\n    RUN = NEEDED\n", "this task file has no RUN\n  where: task.py\n  fix:   write RUN = {\"model_name_or_path\": ..., ...} at the top of the file: see docs/tasks.md"),
        ("RUN = {\n  **NEEDED,\n  'dataset_mapping': lambda row: row,\n}\n", "dataset_mapping is a lambda, which has no name at the top of the file\n  where: task.py:4\n  fix:   define it there with `def`: the processes that use it import it by its name"),
        ("def make():\n    def inner(row): ...\n    return inner\nRUN = dict(NEEDED, callbacks=[\n  make()])\n", "callbacks[0] is the function inner, which has no name at the top of the file\n  where: task.py:6\n  fix:   define it there with `def`: the processes that use it import it by its name"),
        ("RUN = {**NEEDED,\n'lora_target_modules': {'q', 'k'}}\n", "lora_target_modules is a set, which no run file holds\n  where: task.py:3\n  fix:   give text, a number, True, False or None, a list or a mapping of them, or a function of this file"),
        ("RUN = NEEDED | {\n'learning_rat': 1,\n'seed': 'x'}\n", "unknown key learning_rat\n  where: task.py:3\n  fix:   did you mean learning_rate?\nseed is a whole number, not 'x'\n  where: task.py:4\n  fix:   `sft schema seed` tells more"),
        ("RUN = {**NEEDED,\n'seed': 1,\n'seed': 2}\n", "seed is set twice, first in line 3\n  where: task.py:4\n  fix:   keep one of the two"),
        ("RUN = {**NEEDED,\n3: 1}\n", "a key of RUN is an int, not text\n  where: task.py:2\n  fix:   write it as text, in quotes"),
        ("RUN = NEEDED\nRUN.update(launch=dict(\n  slurm={'partition': 'a',\n  'acount': 'b'}))\n", "unknown key launch.slurm.acount\n  where: task.py:5\n  fix:   did you mean launch.slurm.account?"),
        ("MINE = []\nMINE.append(MINE)\nRUN = {**NEEDED, 'callbacks': MINE}\n", "callbacks holds itself\n  where: task.py:4\n  fix:   write the values out"),
    ],
    ids=["syntax", "raises", "import", "exits", "no dict", "not set", "lambda", "inner function", "set", "two problems", "twice", "key", "update", "endless"],
)  # fmt: skip
def test_what_is_wrong_names_its_line(tmp_path: Path, text: str, told: str) -> None:
    assert refusal(tmp_path, text) == told


def test_a_neighbour_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken_neighbour.py").write_text("A = 1\nB = A.nothing\n")
    assert refusal(tmp_path, "import broken_neighbour\nRUN = NEEDED\n") == (
        "the file fails as it is read: AttributeError: 'int' object has no attribute 'nothing'\n"
        "  where: broken_neighbour.py:2\n"
        "  fix:   mend the file"
    )


def test_an_import_that_every_command_would_wait_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trl", ModuleType("trl"))
    inside = "def f():\n    import torch\nRUN = NEEDED\n"
    assert read(tmp_path, inside).notes == ()
    loaded = read(tmp_path, "import json, trl\nRUN = NEEDED\n", name="other.py")
    assert loaded.notes == (
        f"{tmp_path}/other.py:2 imports trl, which every command that reads the file waits for; import it in the function that"
        " needs it, or keep that in a file of its own and name it as file.py:name",
    )


def test_files_beside_it_count_for_what_was_prepared(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text("import json\nfrom one import f\ndef g():\n    import two\n")
    (tmp_path / "one.py").write_text("import three.part\n")
    for name in ("two", "three", "four"):
        (tmp_path / f"{name}.py").write_text("")
    names = [path.name for path in with_neighbours(tmp_path / "task.py")]
    assert names == ["task.py", "one.py", "three.py", "two.py"]
