"""The embedded data set: real text of this Python, the same each time, split by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sft.data.source import find_splits
from sft.errors import ExitCode, UserError
from sft.quickstart import data, questions

LIBRARY_SOURCE = '''
"""A module."""


def fill(text: str, width: int = 70, /, *lines: str, placeholder="[...]", **kwargs) -> str:
    """Fill a single paragraph of text,
    returning a new string

    More that nobody quotes.
    """


def alias(text):
    """Fill a single paragraph of text, returning a new string."""


def _private(text):
    """Wrap a paragraph that nobody is to know of."""


def terse(text):
    """Too short."""


class Wrapper:
    """Object for wrapping and filling text."""

    def wrap(self, text):
        """Reformat the single paragraph in text."""

    @staticmethod
    def split(text, chunks=None):
        """Split the text to wrap into chunks."""

    @property
    def width(self):
        """The maximum width of wrapped lines."""

    async def later(self):
        """Reformat the paragraph when there is time."""
'''


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("quickstart") / "data"
    data.write_data(directory)
    return directory


def rows(path: Path) -> list[data.Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def names(path: Path) -> set[str]:
    found = set()
    for row in rows(path):
        asked = re.search(r"`([\w.]+)`", row["messages"][0]["content"])
        assert asked is not None
        found.add(asked[1])
    return found


def test_entries_read_signatures_and_first_paragraphs(tmp_path: Path) -> None:
    (tmp_path / "textwrap.py").write_text(LIBRARY_SOURCE, encoding="utf-8")
    found = {
        entry.name: (entry.signature, entry.summary, entry.arguments) for entry in data.entries(tmp_path)
    }
    assert found == {
        "textwrap.fill": (
            "textwrap.fill(text, width=70, /, *lines, placeholder='[...]', **kwargs)",
            "Fill a single paragraph of text, returning a new string.",
            (
                "`text`",
                "`width` (default `70`)",
                "`placeholder` (default `'[...]'`)",
                "`*lines`",
                "`**kwargs`",
            ),
        ),
        "textwrap.Wrapper": ("textwrap.Wrapper", "Object for wrapping and filling text.", ()),
        "textwrap.Wrapper.wrap": (
            "textwrap.Wrapper.wrap(text)",
            "Reformat the single paragraph in text.",
            ("`text`",),
        ),
        "textwrap.Wrapper.split": (
            "textwrap.Wrapper.split(text, chunks=None)",
            "Split the text to wrap into chunks.",
            ("`text`", "`chunks` (default `None`)"),
        ),
        "textwrap.Wrapper.width": ("textwrap.Wrapper.width", "The maximum width of wrapped lines.", ()),
        "textwrap.Wrapper.later": (
            "await textwrap.Wrapper.later()",
            "Reformat the paragraph when there is time.",
            (),
        ),
    }


def test_one_entry_becomes_chats() -> None:
    entry = data.Entry("heapq.heappop", "heapq.heappop(heap)", "Pop the smallest item.", ("`heap`",))
    contents = [[turn["content"] for turn in row["messages"]] for row in entry.rows()]
    assert contents == [
        ["How do I use Python's `heapq.heappop`?", "`heapq.heappop(heap)`\n\nPop the smallest item."],
        ["Which arguments does Python's `heapq.heappop` take?", "`heapq.heappop` takes `heap`."],
    ]


def test_splits_share_no_name_and_no_answer(written: Path) -> None:
    train, test = written / "train.jsonl", written / "test.jsonl"
    assert len(rows(train)) > 2000
    assert len(rows(test)) == data.TEST_ROWS
    assert names(train) & names(test) == set()
    summaries = [
        {row["messages"][1]["content"].partition("\n\n")[2] for row in rows(path)} - {""}
        for path in (train, test)
    ]
    assert summaries[0] & summaries[1] == set()


def test_it_is_the_same_each_time(written: Path, tmp_path: Path) -> None:
    data.write_data(tmp_path)
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.jsonl", "train.jsonl"]


def test_what_is_asked_before_and_after_is_held_out(written: Path) -> None:
    trained = names(written / "train.jsonl")
    documented = {entry.name: entry for entry in data.entries(Path(re.__file__).parents[1])}
    for question in questions.EMBEDDED:
        name = re.findall(r"`([\w.]+)`", question)[0]
        assert documented[name].held_out
        assert name not in trained
        assert question in [row["messages"][0]["content"] for row in documented[name].rows()]


def test_a_library_without_sources_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        data.write_data(tmp_path / "data", tmp_path)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == (
        "The standard library of this Python gives only 0 chats; 500 are needed\n"
        f"  where: {tmp_path}\n"
        "  fix:   use a Python that has its .py sources, or your own data: DATA=/path/to/chats.jsonl"
    )
    assert not (tmp_path / "data").exists()


def test_the_directory_is_a_data_set_with_two_splits(written: Path) -> None:
    from sft.config.loader import load_run

    recipe = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
    config = load_run(recipe, ["--dataset_name", str(written)]).config
    splits = find_splits(config.script)
    assert set(splits) == {"train", "test"}
    seen = questions.look_at(config.script, config.mixture)
    assert seen.words == ()
    assert list(seen.questions) == [row["messages"][0]["content"] for row in rows(written / "test.jsonl")[:3]]


@pytest.mark.parametrize(
    ("row", "question", "words"),
    [
        (
            {"conversations": [{"from": "system", "value": "Be."}, {"from": "human", "value": "Why?"}]},
            "Why?",
            ("--eval_strategy", "no", "--eval_on_start", "false"),
        ),
        (
            {"text": "Once upon a time"},
            "Once upon a time",
            ("--eval_strategy", "no", "--eval_on_start", "false", "--assistant_only_loss", "false"),
        ),
        (
            {"prompt": "2 + 2 =", "completion": " 4"},
            "2 + 2 =",
            ("--eval_strategy", "no", "--eval_on_start", "false", "--assistant_only_loss", "false"),
        ),
    ],
)
def test_own_data_fits_the_run_file_to_itself(
    tmp_path: Path, row: dict[str, object], question: str, words: tuple[str, ...]
) -> None:
    from sft.config.loader import load_run

    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps(row) + "\n", encoding="utf-8")
    recipe = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
    config = load_run(recipe, ["--dataset_name", str(own)]).config
    assert questions.look_at(config.script, config.mixture) == questions.OwnData((question,), words)
