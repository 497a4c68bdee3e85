"""A model on the Hub is read as it would be read here: by a few KB of its files, once, and the Hub's cache stays empty."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from sft.check.asked_hub import AskedHub, UnwellError, within
from sft.check.hub_model import NoWeightsError, ask
from sft.check.place import model_shape
from sft.check.remembered import HubModel, Remembered
from sft.config.loader import load_run
from sft.plan.weights import BrokenError, read_tensors
from tests.check.made import write_run
from tests.check.on_hub import NAME, SMALL, headers_of, know_only, write_model
from tests.loopback.files import FilesHub, files_hub

__all__ = ["files_hub"]


class Reader:
    """A machine that reads models from one Hub."""

    def __init__(self, hub: FilesHub, place: Path) -> None:
        self.hub, self.place = hub, place

    def ask(self, revision: str | None = None, name: str = NAME) -> tuple[HubModel, bool]:
        """Ask for a model, as a process that has just started."""
        return ask(AskedHub(self.hub.url, None), Remembered(self.place / "sft", self.hub.url), name, revision)

    def count(self) -> int:
        """Return how many requests there were since it was last asked."""
        count = len(self.hub.requests)
        self.hub.requests.clear()
        return count


@pytest.fixture
def reader(files_hub: FilesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    know_only(files_hub, tmp_path, monkeypatch)
    return Reader(files_hub, tmp_path)


@pytest.mark.parametrize("shards", [1, 5])
def test_the_shape_is_that_of_the_files_and_few_bytes_are_read(reader: Reader, shards: int) -> None:
    directory = write_model(reader.place / "model", shards)
    commit = reader.hub.put_directory(NAME, directory)
    model, is_new = reader.ask()
    run = write_run(reader.place, model_name_or_path=str(directory), dataset_name="rows.jsonl")
    assert model.shape == model_shape(load_run(run, ()).config)
    assert list(model.tensors or ()) == read_tensors(directory)
    assert (model.commit, model.headers, is_new) == (commit, shards, True)
    sent, size = reader.hub.file_bytes, sum(file.stat().st_size for file in directory.iterdir())
    weights = sum(count for name, count in sent.items() if name.endswith(".safetensors"))
    assert weights < size / 100
    assert sum(sent.values()) == model.read_bytes
    assert len(reader.hub.ranges) == shards
    assert not (reader.place / "hub").exists()
    kib = f"{model.read_bytes / 1024:,.0f} KiB"
    headers = "1 header" if shards == 1 else f"{shards} headers"
    assert (
        model.line == f"shapes of org/model at {commit[:8]} from the Hub: {headers}, {kib} read, no weights"
    )


def test_a_second_question_is_for_the_commit_alone_and_one_of_a_commit_is_none(reader: Reader) -> None:
    commit = reader.hub.put(NAME, headers_of(SMALL, 3))
    first, _ = reader.ask()
    assert reader.count() == 1 + 1 + 1 + 3  # the commit, config.json, the index, the shards
    again, is_new = reader.ask()
    assert (again, is_new) == (first, False)
    assert reader.hub.requests == [f"GET /api/models/{NAME}"]
    reader.count()
    assert reader.ask(commit) == (first, False)
    assert reader.count() == 0


def test_a_new_commit_is_read_anew(reader: Reader) -> None:
    old = reader.hub.put(NAME, headers_of(SMALL, 3))
    reader.ask()
    new = reader.hub.put(NAME, headers_of({**SMALL, "num_hidden_layers": 5}, 3))
    model, is_new = reader.ask()
    assert (model.commit, is_new) == (new, True)
    assert model.shape is not None
    assert len(model.shape.layers) == 5
    assert reader.ask(old)[0].commit == old


def test_a_branch_and_what_it_led_to_are_kept_apart_by_hub_and_name(reader: Reader) -> None:
    reader.hub.put(NAME, headers_of(SMALL, 2), revision="refs/pr/1")
    model, _ = reader.ask("refs/pr/1")
    kept = Remembered(reader.place / "sft", reader.hub.url)
    assert kept.find(NAME, kept.commit_of(NAME, "refs/pr/1")) == model
    assert kept.commit_of(NAME, None) is None
    assert kept.find("org/other", model.commit) is None
    other = Remembered(reader.place / "sft", "https://user:secret@mirror.example")
    assert other.find(NAME, model.commit) is None
    assert other.directory.name == "mirror.example"


def test_what_is_remembered_and_torn_is_read_anew(reader: Reader) -> None:
    reader.hub.put(NAME, headers_of(SMALL, 2))
    model, _ = reader.ask()
    (file,) = (reader.place / "sft").rglob("*.json")
    for torn in (file.read_text()[:-9], "[]", json.dumps({"format": 0})):
        file.write_text(torn)
        assert reader.ask() == (model, True)


def test_a_header_that_is_longer_than_most_is_read_to_its_end(reader: Reader) -> None:
    files = headers_of({**SMALL, "num_hidden_layers": 400}, 1)
    (shard,) = (name for name in files if name.endswith(".safetensors"))
    assert len(files[shard]) > 300_000
    reader.hub.put(NAME, {"config.json": files["config.json"], "model.safetensors": files[shard] + b"\0" * 9})
    model, _ = reader.ask()
    assert len(model.tensors or ()) == 3 + 400 * 9
    assert reader.hub.ranges == ["model.safetensors from 0", "model.safetensors from 100000"]


def test_of_a_server_that_knows_no_ranges_no_more_is_read(reader: Reader) -> None:
    reader.hub.knows_ranges = False
    reader.hub.stall_after["model.safetensors"] = 2_000_000  # who reads on waits until the time is over
    reader.hub.put_directory(NAME, write_model(reader.place / "model"))
    model, _ = reader.ask()
    assert model.shape is not None
    assert reader.hub.ranges == []


def test_pickles_have_no_headers(reader: Reader) -> None:
    config = {"config.json": json.dumps(SMALL).encode()}
    commit = reader.hub.put(NAME, {**config, "pytorch_model.bin": b"pickle"})
    model, _ = reader.ask()
    assert model.tensors is None
    assert model.shape is not None
    assert model.shape.assumed == ("the weights' names and shapes, as Llama's are",)
    assert model.line == (
        f"shapes of org/model at {commit[:8]} from the Hub: config.json alone, for its weights are pickles without"
        " headers"
    )


def test_what_is_no_model_is_refused_and_not_remembered(reader: Reader) -> None:
    reader.hub.put("org/adapter", {"adapter_model.safetensors": b"a"})
    with pytest.raises(NoWeightsError):
        reader.ask(name="org/adapter")
    files = headers_of(SMALL, 2)
    first = "model-00001-of-00002.safetensors"
    for spoilt, told in (
        ({first: b""}, f"{first} is no safetensors file"),
        ({first: files[first][:90]}, f"{first} has a broken header"),
        ({first: b"\x02" + b"\0" * 7 + b"[]"}, f"{first} has a broken header"),
        ({"config.json": b"{"}, "config.json is broken"),
        ({"config.json": b"[" * 100_000}, "config.json is broken"),
        ({"model.safetensors.index.json": b'{"weight_map": {}}'}, "model.safetensors.index.json is broken"),
        ({"model.safetensors.index.json": b"[" * 100_000}, "model.safetensors.index.json is broken"),
        ({"model.safetensors.index.json": b"{}"}, "model.safetensors.index.json is broken"),
        (
            {"model.safetensors.index.json": json.dumps({"weight_map": {"a": "b.safetensors"}}).encode()},
            "b.safetensors is not there, which its model.safetensors.index.json lists",
        ),
    ):
        reader.hub.put("org/broken", {**files, **spoilt})
        with pytest.raises(BrokenError, match=told.replace(".", r"\.")):
            reader.ask(name="org/broken")
    assert not (reader.place / "sft").exists()


def test_a_shard_that_comes_drop_by_drop_is_left(reader: Reader) -> None:
    reader.hub.put(NAME, headers_of(SMALL, 2))
    reader.hub.stall_after["model-00002-of-00002.safetensors"] = 100
    hub = AskedHub(reader.hub.url, None, seconds=0.5, longest=0.5)
    with pytest.raises(UnwellError, match="it does not answer within 0 s"):
        ask(hub, Remembered(reader.place / "sft", reader.hub.url), NAME, None)


def test_files_that_lie_where_there_is_no_way_are_not_taken_for_a_hub_out_of_reach(reader: Reader) -> None:
    """A firewall that knows the Hub, and not the address that it leads to for large files."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        elsewhere = f"http://127.0.0.1:{closed.getsockname()[1]}/weights"
        reader.hub.fault("GET .*safetensors$", status=302, headers={"Location": elsewhere})
        reader.hub.put(NAME, headers_of(SMALL, 2))
        with pytest.raises(UnwellError, match="it answers, and where it sends for files there is no route: "):
            reader.ask()


def test_what_hangs_where_no_limit_reaches_is_left_to_itself() -> None:
    import threading

    assert within(1.0, lambda: 1) == 1
    with pytest.raises(KeyError):
        within(1.0, lambda: {}[0])
    with pytest.raises(UnwellError):
        within(0.05, threading.Event().wait)
