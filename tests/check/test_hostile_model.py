"""Whatever stands in the files of a model, `sft check` says what is wrong: it neither hangs nor dies nor passes it."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from sft.check.survey import Survey
from tests.check.corpus.bench import Bench, make_bench

AGAIN = "fetch the model again"
DEEP = b"[" * 100_000


@pytest.fixture
def bench(tiny_model: Path, tiny_chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return make_bench(tmp_path, tiny_model, tiny_chats, monkeypatch)


def errors(survey: Survey) -> list[str]:
    return [str(one) for one in survey.of("error")]


def config(**values: object) -> Callable[[Bench], object]:
    return lambda bench: bench.edit("config.json", lambda found: found.update(values))


def content(name: str, text: bytes) -> Callable[[Bench], object]:
    return lambda bench: (bench.model / name).write_bytes(text)


def pipe(name: str) -> Callable[[Bench], object]:
    def build(bench: Bench) -> None:
        (bench.model / name).unlink(missing_ok=True)
        os.mkfifo(bench.model / name)

    return build


def empty_header(bench: Bench) -> None:
    (bench.model / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")


def empty_index(bench: Bench) -> None:
    (bench.model / "model.safetensors").unlink()
    (bench.model / "model.safetensors.index.json").write_text('{"weight_map": {}}')


CASES: list[tuple[str, Callable[[Bench], object], str, str, str]] = [
    (
        "more layers than anybody has",
        config(num_hidden_layers=10**9),
        "config.json of {model} tells of 1,000,000,000 layers (num_hidden_layers), and no model has more than 10,000",
        "{model}/config.json",
        "fetch the model again; or set num_hidden_layers to what the model has",
    ),
    (
        "a model_type that is a list",
        config(model_type=["llama"]),
        "the model_type in config.json of {model} is no name",
        "{model}/config.json",
        "fetch the model again; or write the name of its family, such as llama",
    ),
    (
        "a config.json of brackets",
        content("config.json", DEEP),
        "config.json nests its values too deep",
        "{model}/config.json",
        AGAIN,
    ),
    (
        "a config.json that is cut off",
        content("config.json", b"{"),
        "config.json is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "{model}/config.json",
        AGAIN,
    ),
    (
        "a tokenizer_config.json of brackets",
        content("tokenizer_config.json", DEEP),
        "tokenizer_config.json nests its values too deep",
        "{model}/tokenizer_config.json",
        AGAIN,
    ),
    (
        "a tokenizer.json of brackets",
        content("tokenizer.json", DEEP),
        "the tokenizer of {model} cannot be read: invalid type: sequence, expected struct Tokenizer at line 1 column 1",
        "{model}/tokenizer.json",
        AGAIN,
    ),
    (
        "weights that hold nothing",
        empty_header,
        "the model {model} is not whole: model.safetensors holds no weights",
        "{run}:1, {model}",
        "copy it there again, whole",
    ),
    (
        "an index that lists nothing",
        empty_index,
        "the model {model} is not whole: model.safetensors.index.json is broken: it lists no weights",
        "{run}:1, {model}",
        "copy it there again, whole",
    ),
    *(
        (
            f"a pipe in place of {name}",
            pipe(name),
            f"{name} of the model {{model}} is no plain file",
            "{run}:1, {model}",
            "put the file itself there: it is read several times, which a pipe cannot be",
        )
        for name in ("model.safetensors", "model.safetensors.index.json", "generation_config.json")
    ),
]


@pytest.mark.parametrize(
    ("build", "what", "where", "fix"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_a_hostile_file_is_told_once(
    bench: Bench, build: Callable[[Bench], object], what: str, where: str, fix: str
) -> None:
    build(bench)
    names = {"model": bench.model, "run": bench.directory / "run.yaml"}
    assert errors(bench.look()) == [
        f"{what.format(**names)}\n  where: {where.format(**names)}\n  fix:   {fix}"
    ]


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "chat_template.jinja"])
def test_a_pipe_that_more_depends_on_is_told_and_not_waited_for(bench: Bench, name: str) -> None:
    pipe(name)(bench)
    assert any(
        one.startswith(f"{name} of the model {bench.model} is no plain file\n")
        for one in errors(bench.look())
    )


def test_a_generation_config_of_brackets_is_none(bench: Bench) -> None:
    """transformers makes its own where it cannot read it."""
    content("generation_config.json", DEEP)(bench)
    assert errors(bench.look()) == []


def test_an_id_that_is_no_number_leaves_the_vocabulary_unknown(bench: Bench) -> None:
    path = bench.model / "tokenizer.json"
    file = json.loads(path.read_text())
    file["model"]["vocab"]["x"] = "7"
    path.write_text(json.dumps(file))
    (told,) = errors(bench.look())
    assert told.startswith(f"the tokenizer of {bench.model} cannot be read: ")
