"""The rows that stock TRL trains from ejected files are the kit's, token by token: TRL's own script reads them here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sft.cli.main import main
from sft.config.loader import load_run
from sft.data.cache import Entry
from sft.data.prepare import prepare
from sft.errors import UserError
from tests import tiny

Rows = Sequence[Mapping[str, object]]

CHATS = tiny.chats(40)
QUESTIONS = [row["messages"] for row in CHATS]
PAIRS = [{"prompt": chat[0]["content"] + "\n", "completion": chat[1]["content"]} for chat in QUESTIONS]
ALPACA = [
    {"instruction": chat[0]["content"], "input": "", "output": chat[1]["content"]} for chat in QUESTIONS
]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": ask["content"]}, {"from": "gpt", "value": say["content"]}]}
    for ask, say in QUESTIONS
]
OTHER = [{"q": chat[0]["content"], "a": chat[1]["content"]} for chat in QUESTIONS]
TOOL = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}
TOOLS = [{**row, "tools": [TOOL]} if number % 2 else row for number, row in enumerate(CHATS)]
LONG = [
    {"messages": [ask, {"role": "assistant", "content": say["content"] + " It holds." * 30}]}
    for ask, say in QUESTIONS
]
ASSISTANT = {"assistant_only_loss": True}
TEXTS = [{"text": chat[1]["content"]} for chat in QUESTIONS]

SAID: dict[str, tuple[Rows, dict[str, Any]]] = {
    "chats": (CHATS, {}),
    "chats, assistant only": (CHATS, ASSISTANT),
    "alpaca": (ALPACA, {}),
    "alpaca, assistant only": (ALPACA, ASSISTANT),
    "alpaca, whole": (ALPACA, {"completion_only_loss": False}),
    "sharegpt": (SHAREGPT, ASSISTANT),
    "pairs": (PAIRS, {}),
    "texts": (TEXTS, {"dataset_text_field": "text"}),
    "other column": ([{"body": row["text"], "id": 1} for row in TEXTS], {"dataset_text_field": "body"}),
    "mapped to a chat": (OTHER, {"dataset_mapping": {"user": "q", "assistant": "a"}, **ASSISTANT}),
    "mapped to text": (OTHER, {"dataset_mapping": {"prompt": "Q: {q} A: ", "completion": "{a}"}}),
    "tools": (TOOLS, ASSISTANT),
    "rows that are dropped": ([*ALPACA, {"instruction": "Nothing?", "input": "", "output": ""}], {}),
    "rows that are malformed": ([*CHATS, {"messages": 7}], {"bad_rows": "drop"}),
    "held out": (CHATS, {"validation_fraction": 0.2, "eval_strategy": "epoch"}),
    "shuffled": (CHATS, {"shuffle_dataset": True, "seed": 5}),
    "truncated": (LONG, {"max_length": 48, "max_cut_answers": 1.0, **ASSISTANT}),
    "end kept": (LONG, {"max_length": 48, "max_cut_answers": 1.0, "truncation_mode": "keep_end"}),
    "packed": (CHATS, {"packing": True, **ASSISTANT}),
    "packed, split": (LONG, {"packing": True, "packing_strategy": "bfd_split", "max_length": 48}),
    "another end": (TEXTS, {"eos_token": "<|endoftext|>"}),
    "tokens over the edge": ([{"prompt": "Number 7 about li", "completion": "sts is it."}] * 9, {}),
    "grouped by length": (CHATS, {"train_sampling_strategy": "group_by_length"}),
}
"""Rows that eject writes as text."""

SYSTEM_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROBOT = [*CHATS, {"messages": [{"role": "user", "content": "Say <|im_end|> now"}, QUESTIONS[0][1]]}]
FLAGGED = [*CHATS, {"messages": [QUESTIONS[0][0], {**QUESTIONS[0][1], "trained": False}, *QUESTIONS[1]]}]
EMOJI = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>{% endfor %}"
SPOKEN: dict[str, tuple[Rows, dict[str, Any], str]] = {
    "special text": (
        ROBOT, {}, "rows.jsonl:41: the content spells a special token, which TRL would take for the token itself",
    ),
    "no markers": (
        CHATS, {"chat_template": SYSTEM_TEMPLATE, **ASSISTANT},
        "rows.jsonl:1: the chat template has no generation markers and TRL no training template for it, so that it"
        " refuses assistant_only_loss",
    ),
    "the last bytes": (
        [{"messages": [QUESTIONS[0][0], {"role": "assistant", "content": "A robot: \U0001f916"}]}] * 9,
        {"chat_template": EMOJI, **ASSISTANT}, "rows.jsonl:1: TRL would find the loss on other tokens",
    ),
    "more to a message": (
        [{"messages": [{**ask, "name": "me"}, say]} for ask, say in QUESTIONS], {},
        "rows.jsonl:1: messages hold more than role and content as text",
    ),
    "dates": (
        [{"text": f"2020-01-{day:02}"} for day in range(1, 29)], {},
        "`datasets` takes text of the rows for something else, such as dates",
    ),
    "packed in another order": (
        CHATS, {"packing": True, "train_sampling_strategy": "sequential"},
        "train_sampling_strategy: sequential would train TRL's packed rows longest first",
    ),
    "packed, shuffled": (
        CHATS, {"packing": True, "shuffle_dataset": True},
        "with shuffle_dataset TRL shuffles packed rows a second time",
    ),
    "many packed": (
        tiny.chats(1100), {"packing": True},
        "TRL packs 1000 rows at a time, the kit all of them, which leaves less room empty",
    ),
    "padding free": (
        ROBOT, {"padding_free": True, "max_length": None},
        "rows.jsonl:41: the content spells a special token, which TRL would take for the token itself",
    ),
}  # fmt: skip
"""Rows that TRL would train otherwise as text, and what eject says of it."""


@dataclass(frozen=True)
class Both:
    """The rows of the kit's ranks, and those of TRL's script on ejected files."""

    directory: Path
    said: str
    entry: Entry
    trainer: Any

    def check(self) -> None:
        for role, theirs in (("train", self.trainer.train_dataset), ("test", self.trainer.eval_dataset)):
            if not self.entry.has(role):
                assert theirs is None
                continue
            ours = self.entry.dataset(role)
            for name in (
                "input_ids",
                "labels",
                *(["seq_lengths"] if "seq_lengths" in ours.column_names else []),
            ):
                assert list(theirs[name]) == list(ours[name]), (role, name)


Ejects = Callable[..., Both]


@pytest.fixture
def ejects(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ejects:
    """Eject rows, and have TRL's script read them up to its training."""
    import trl
    from trl.scripts.sft import main as stock_main
    from trl.scripts.sft import make_parser

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    caught: list[Any] = []

    class Caught(Exception):
        pass

    def instead(self: Any, *_: Any, **__: Any) -> None:
        caught.append(self)
        raise Caught

    monkeypatch.setattr(trl.SFTTrainer, "train", instead)

    def eject(settings: Mapping[str, Any], *words: str) -> Both:
        from ruamel.yaml import YAML

        base = {
            "model_name_or_path": str(tiny_model),
            "use_cpu": True,
            "bf16": False,
            "max_length": 128,
            "report_to": "none",
            "output_dir": str(tmp_path / "out"),
        }
        with (tmp_path / "run.yaml").open("w") as file:
            YAML(typ="safe").dump({**base, **settings}, file)
        assert main(["eject", "run.yaml", "--output", "stock", *words]) == 0
        said = capsys.readouterr().err.splitlines()[-1]
        parser = make_parser()
        parsed = parser.parse_args_and_config(["--config", "stock/trl_sft.yaml"], fail_with_unknown_args=True)
        with pytest.raises(Caught):
            stock_main(*parsed)
        return Both(tmp_path / "stock", said, prepare(load_run(Path("run.yaml"))), caught.pop())

    return eject


def written(tmp_path: Path, rows: Rows) -> str:
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    return "rows.jsonl"


@pytest.mark.parametrize("name", SAID)
def test_text_is_trained_as_the_same_tokens(name: str, ejects: Ejects, tmp_path: Path) -> None:
    rows, settings = SAID[name]
    both = ejects({"dataset_name": written(tmp_path, rows), **settings})
    assert both.said == "rows: text"
    files = sorted(path.name for path in (both.directory / "data").iterdir())
    assert files == (["eval.jsonl", "train.jsonl"] if "validation_fraction" in settings else ["train.jsonl"])
    both.check()


@pytest.mark.parametrize("name", SPOKEN)
def test_what_text_cannot_say_is_written_as_tokens(name: str, ejects: Ejects, tmp_path: Path) -> None:
    rows, settings, why = SPOKEN[name]
    both = ejects({"dataset_name": written(tmp_path, rows), **settings})
    assert both.said == f"rows: tokens: {why}"
    assert [path.name for path in (both.directory / "data").iterdir()] == ["train.parquet"]
    assert f"> {why}\n" in (both.directory / "README.md").read_text()
    both.check()


def test_rows_that_trl_reads_where_they_are_stay_there(ejects: Ejects, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    tiny.write_rows(tmp_path / "set" / "train.jsonl", [{**row, "id": 1} for row in CHATS])
    tiny.write_rows(tmp_path / "set" / "test.jsonl", [{**row, "id": 2} for row in CHATS[:5]])
    both = ejects({"dataset_name": "set", "eval_strategy": "epoch", **ASSISTANT})
    assert both.said == "rows: left"
    assert not (both.directory / "data").exists()
    assert f"dataset_name: {tmp_path / 'set'}\n" in (both.directory / "trl_sft.yaml").read_text()
    both.check()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*CHATS, {"messages": []}], ["--bad_rows", "drop"]),  # TRL would meet the row that the kit drops
        ([{**row, "prompt": "?"} for row in CHATS], []),  # TRL takes a prompt for the half of a pair
        (CHATS, ["--dataset_train_split", "train[:50%]"]),  # TRL's script knows whole splits only
    ],
)
def test_rows_that_trl_would_read_otherwise_are_written(
    rows: Rows, words: list[str], ejects: Ejects, tmp_path: Path
) -> None:
    (tmp_path / "set").mkdir()
    tiny.write_rows(tmp_path / "set" / "train.jsonl", rows)
    settings = {key.removeprefix("--"): value for key, value in zip(words[::2], words[1::2], strict=True)}
    both = ejects({"dataset_name": "set", **settings})
    assert both.said == "rows: text"
    both.check()


def test_a_mixture_keeps_its_shares_and_its_order(ejects: Ejects, tmp_path: Path) -> None:
    for name, rows in (("one", CHATS), ("two", tiny.chats(90)[40:])):
        tiny.write_rows(tmp_path / f"{name}.jsonl", rows)
    mixture = {
        "datasets": [{"id": "one.jsonl", "weight": 1.0}, {"id": "two.jsonl", "weight": 0.5}],
        "seed": 3,
        "test_split_size": 0.1,
    }
    both = ejects({"dataset_mixture": mixture, "eval_strategy": "epoch"})
    assert both.said == "rows: text"
    order = [json.loads(line)["messages"] for line in (both.directory / "data" / "train.jsonl").open()]
    assert order != sorted(order, key=str)
    both.check()


def test_a_mixture_of_several_shapes_is_written_as_tokens(ejects: Ejects, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "one.jsonl", CHATS)
    tiny.write_rows(tmp_path / "two.jsonl", PAIRS)
    both = ejects({"dataset_mixture": {"datasets": [{"id": "one.jsonl"}, {"id": "two.jsonl"}]}})
    why = "rows of several shapes (messages, prompt+completion) stand in one data set"
    assert both.said == f"rows: tokens: {why}"
    both.check()


def test_a_template_of_the_run_file_is_written_beside_and_used(ejects: Ejects, tmp_path: Path) -> None:
    template = tiny.CHAT_TEMPLATE.replace("assistant\\n", "assistant:")
    both = ejects({"dataset_name": written(tmp_path, CHATS), "chat_template": template, **ASSISTANT})
    assert both.said == "rows: text"
    assert (both.directory / "chat_template.jinja").read_text() == template
    assert both.trainer.processing_class.chat_template == template
    both.check()


def test_a_directory_that_datasets_would_read_as_a_pattern_is_refused(ejects: Ejects, tmp_path: Path) -> None:
    from sft.launch.eject_data import refuse_names

    for name in ("a[1]", "b*", "c::d"):
        with pytest.raises(UserError) as refused:
            refuse_names(tmp_path / name)
        assert str(refused.value) == (
            f"{tmp_path / name} holds a character of *?[]{{}} or `::`, and `datasets` would find no files in it\n"
            "  where: --output\n"
            "  fix:   name another directory"
        )


def test_streamed_rows_stay_where_they_are_and_a_file_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    tiny.write_rows(tmp_path / "set" / "train.jsonl", CHATS)
    (tmp_path / "run.yaml").write_text(
        f"model_name_or_path: {tiny_model}\ndataset_name: set\ndataset_streaming: true\nmax_steps: 3\nuse_cpu: true\n"
    )
    assert main(["eject", "run.yaml", "--output", "stock"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "rows: streamed"
    code = main(["eject", "run.yaml", "--output", "file", "--dataset_name", "set/train.jsonl"])
    assert (code, (tmp_path / "file").exists()) == (2, False)
    assert capsys.readouterr().err.endswith(
        "TRL's script cannot stream set/train.jsonl: it reads a data set by its name or directory, not a file\n"
        "  where: dataset_name\n"
        "  fix:   remove dataset_streaming: eject writes the rows then; or put the file into a directory of its own\n"
    )
