"""Random run files: a resolved one reads back the same, and garbage is refused, never a traceback."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sft.config.fields import choices, every_key, takes
from sft.config.loader import load_run
from sft.config.old_names import CONVERTED, RENAMED
from sft.config.retired import RETIRED
from sft.errors import UserError

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=True) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = [*every_key(), *RENAMED, *CONVERTED, *RETIRED]
FREE = [
    key
    for key in every_key()
    if not key.startswith("launch.") and key not in (*RETIRED, *RENAMED, *CONVERTED)
]
LINE = st.tuples(st.sampled_from(NAMES) | TEXT, VALUE)


def load(text: str, words: Sequence[str] = ()) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return load_run(path, words, environment={"HOME": "/home/$me"}).config


def _value(key: str) -> st.SearchStrategy[Any]:
    """Draw a value that the key can hold, or nothing."""
    if choices(key):
        return st.sampled_from(choices(key))
    if takes(key, bool):
        return st.booleans()
    if takes(key, int):
        return st.integers(1, 10**6)
    if takes(key, float):
        return st.floats(0.001, 1000)
    if takes(key, str):
        return TEXT.filter(lambda text: "$" not in text and not text.startswith(("{", "[")))
    return st.nothing()


@st.composite
def run_files(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(FREE), unique=True, max_size=8))
    drawn = {key: draw(_value(key)) for key in keys if not _value(key).is_empty}
    drawn |= {
        "model_name_or_path": "m",
        "dataset_name": "d",
        "output_dir": draw(st.sampled_from(["~/$$o", "o", "$HOME"])),
    }
    drawn["env"] = draw(
        st.dictionaries(st.from_regex(r"X[A-Z]{1,5}", fullmatch=True), TEXT.filter(lambda t: "$" not in t))
    )
    drawn["launch"] = {
        "nodes": draw(st.integers(1, 9)),
        "wrap": draw(TEXT),
        "slurm": {"partition": draw(TEXT)},
    }
    return drawn


@given(run_files())
@settings(max_examples=60, deadline=None)
@example(
    {"model_name_or_path": "m", "dataset_name": "d", "run_name": "010", "seed": 1, "output_dir": "~/$$x"}
)
def test_what_a_config_says_of_itself_reads_back_as_the_same_config(drawn: dict[str, Any]) -> None:
    try:
        config = load(json.dumps(drawn))
    except UserError:
        return  # two keys that contradict each other
    again = load(json.dumps(config.settings()))
    assert again == config
    assert again.settings() == config.settings()


@given(
    st.lists(LINE, max_size=6), st.lists(TEXT | st.sampled_from([f"--{name}" for name in NAMES]), max_size=4)
)
@settings(max_examples=150, deadline=None)
@example([("datasets", [{"path": None, "data_files": [1, {}]}])], [])
@example([("launch.slurm", {"partition": [1]})], ["--env", '{"A": {"B": 1}}'])
@example([("launch", {"nodes": {"a": 1}, "slurm": [1]})], ["--no_", "--=1"])
def test_known_names_with_any_value_are_read_or_refused(
    lines: list[tuple[str, Any]], words: list[str]
) -> None:
    text = "".join(f"{json.dumps(name)}: {json.dumps(value)}\n" for name, value in lines)
    with contextlib.suppress(UserError):
        load(text, words)


@given(st.text(max_size=80) | st.text("{}[]:,-#&*!|>'\"%@` \n\ta1~.<", max_size=60))
@settings(max_examples=120, deadline=None)
@example("a: &a\n  <<: *a\n")
@example("? {a: 1}\n: 2\n")
@example('a: "\\UFFFFFFFF"\n')
@example("%YAML 3.0\n---\na: 1\n")
@example("[" * 1200)
@example("a: 0x\nb: 1__\nc: 0o9\n")
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        load(text.encode("utf-8", "replace").decode())
