"""A model from the Hub is fetched whole or not at all, once, and what comes is what the Hub has."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

import huggingface_hub.constants
import pytest

from sft.hub import leftovers
from sft.hub.hashes import Checked
from tests.hub.fetching import Login
from tests.loopback.files import FilesHub, files_hub
from tests.loopback.hub import TOKEN

__all__ = ["files_hub"]

NAME = "org/model"
SMALL = {
    "config.json": b"{}",
    "generation_config.json": b"{ }",
    "tokenizer.json": b'{"a": 1}',
    "tokenizer_config.json": b'{"b": 1}',
    "chat_template.jinja": b"{{ messages }}",
}
WEIGHTS = random.Random(0).randbytes(3_000_000)
FOREIGN = {
    "README.md": b"hello",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"twice",
    "model.fp16.safetensors": b"variant",
    "training_args.bin": b"pickle",
    "model.gguf": b"gguf",
    "original/consolidated.00.pth": b"pickle",
    "original/tokenizer.model": b"again",
    "onnx/model.onnx": b"onnx",
    "onnx/tokenizer.json": b"onnx's",
    "tf_model.h5": b"tf",
    "modeling_own.py": b"print()",
}


@pytest.fixture
def login(files_hub: FilesHub, tmp_path: Path) -> Login:
    """A login node that has fetched nothing yet."""
    return Login(files_hub, tmp_path / "home")


def test_only_what_a_run_reads_is_fetched(login: Login, files_hub: FilesHub) -> None:
    files_hub.put(NAME, {**SMALL, **FOREIGN, "model.safetensors": WEIGHTS})
    assert login.fetch(NAME).files == {*SMALL, "model.safetensors"}
    assert login.fetch(NAME, code=True).files == {*SMALL, "model.safetensors", "modeling_own.py"}


def test_the_shards_are_those_of_the_index(login: Login, files_hub: FilesHub) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": bytes([n]) * 50 for n in (1, 2)}
    index = {"weight_map": {f"layer.{n}": name for n, name in enumerate(shards)}}
    others = {"model-00001-of-00009.safetensors": b"left over"}
    files_hub.put(
        NAME,
        {**SMALL, **FOREIGN, **shards, **others, "model.safetensors.index.json": json.dumps(index).encode()},
    )
    assert login.fetch(NAME).files == {*SMALL, *shards, "model.safetensors.index.json"}


def test_pickles_only_where_there_is_nothing_else(login: Login, files_hub: FilesHub) -> None:
    files_hub.put(NAME, {**SMALL, "pytorch_model.bin": b"pickle"})
    assert login.fetch(NAME).files == {*SMALL, "pytorch_model.bin"}


def test_a_fetch_that_was_killed_goes_on_where_it_was(login: Login, files_hub: FilesHub) -> None:
    large = random.Random(1).randbytes(25_000_000)  # written to the disk by 10 MB
    commit = files_hub.put(NAME, {**SMALL, "model.safetensors": large})
    files_hub.stall_after["model.safetensors"] = 24_000_000
    process = login.start(NAME)
    assert files_hub.stalled.wait(30)
    _wait_for(login.storage(NAME) / "blobs", 10_000_000)
    process.kill()
    process.communicate()
    assert login.leads_to(NAME) is None
    snapshot = login.storage(NAME) / "snapshots" / commit
    assert not (snapshot / "model.safetensors").exists()

    files_hub.stall_after.clear()
    before = list(files_hub.bodies)
    again = login.fetch(NAME)
    assert again.files == {*SMALL, "model.safetensors"}
    assert (Path(again.place) / "model.safetensors").read_bytes() == large
    assert login.leads_to(NAME) == commit
    assert len(files_hub.ranges) == 1
    assert 10_000_000 <= int(files_hub.ranges[0].removeprefix("model.safetensors from ")) <= 24_000_000
    # What was whole is not asked for again.
    done = {request.rsplit("/", 1)[-1] for request in before} - {"model.safetensors"}
    assert not done & {request.rsplit("/", 1)[-1] for request in files_hub.bodies[len(before) :]}
    assert list((login.storage(NAME) / "blobs").glob("*.incomplete")) == []


def test_what_is_fetched_stays_what_it_was_until_the_new_is_whole(login: Login, files_hub: FilesHub) -> None:
    old = files_hub.put(NAME, {**SMALL, "model.safetensors": WEIGHTS})
    login.fetch(NAME)
    new = files_hub.put(NAME, {"model.safetensors": WEIGHTS[::-1]})
    files_hub.stall_after["model.safetensors"] = 100
    process = login.start(NAME)
    assert files_hub.stalled.wait(30)
    process.kill()
    process.communicate()
    assert login.leads_to(NAME) == old
    files_hub.stall_after.clear()
    login.fetch(NAME)
    assert login.leads_to(NAME) == new


def test_bytes_that_are_not_those_of_the_hub_are_refused_and_removed(
    login: Login, files_hub: FilesHub
) -> None:
    commit = files_hub.put(NAME, {**SMALL, "model.safetensors": WEIGHTS})
    files_hub.spoil = {"model.safetensors", "config.json"}
    refused = login.fetch(NAME)
    assert refused.code == 4
    assert refused.error.startswith(
        "config.json of org/model comes with other bytes than the Hub says that it has\n"
    )
    assert refused.said[:2] == [
        f"{name} is not what the Hub says that it has: removed, and fetched again"
        for name in ("config.json", "model.safetensors")
    ]
    assert login.leads_to(NAME) is None
    assert not (login.storage(NAME) / "snapshots" / commit / "model.safetensors").exists()
    files_hub.spoil = set()
    assert (Path(login.fetch(NAME).place) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_was_hashed_is_not_hashed_again(tmp_path: Path) -> None:
    path, checked = tmp_path / "file", Checked(tmp_path / "notes")
    path.write_bytes(b"one")
    assert not checked.has(path, "hash")
    checked.add(path, "hash")
    assert checked.has(path, "hash")
    path.write_bytes(b"two")
    assert not checked.has(path, "hash")


def test_what_another_process_is_downloading_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.utils import WeakFileLock

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(leftovers, "WATCH_SECONDS", 0.0)
    blobs = tmp_path / "models--org--model" / "blobs"
    blobs.mkdir(parents=True)
    for etag in ("busy", "dead"):
        (blobs / f"{etag}.12345678.incomplete").write_bytes(b"part")
    lock = tmp_path / ".locks" / "models--org--model" / "busy.lock"
    lock.parent.mkdir(parents=True)
    with WeakFileLock(lock):
        leftovers.finish(NAME, "0" * 40, [], Checked(tmp_path / "notes"), print)
    assert [path.name for path in blobs.iterdir()] == ["busy.12345678.incomplete"]


def _wait_for(blobs: Path, size: int) -> None:
    import time

    for _ in range(200):
        if any(path.stat().st_size >= size for path in blobs.glob("*.incomplete")):
            return
        time.sleep(0.05)
    raise AssertionError("the download did not come that far")


GATED = """\
the model org/gated is gated, and no token is set
  where: model_name_or_path
  fix:   accept its terms at {url}/org/gated, then `hf auth login` or export HF_TOKEN, and fetch again"""
ABSENT = """\
the Hub has no model org/none, or it is private and no token is set
  where: model_name_or_path
  fix:   check the name; if it is private, `hf auth login` or export HF_TOKEN"""
UNSEEN = """\
the Hub has no model org/none that the token may see
  where: model_name_or_path
  fix:   check the name; if it is private, `hf auth login` or export HF_TOKEN"""
PRIVATE = """\
the Hub has no model org/private, or it is private and no token is set
  where: model_name_or_path
  fix:   check the name; if it is private, `hf auth login` or export HF_TOKEN"""
REFUSED = """\
the Hub does not accept the token (401: Invalid credentials in Authorization header)
  where: HF_TOKEN or `hf auth login`
  fix:   export HF_TOKEN with a valid one, or unset it for what is public; or `hf auth login`"""
REVISION = """\
the model org/model has no revision v9
  where: model_revision
  fix:   name a branch, a tag or a commit that it has"""
NO_NAME = """\
'org/model/x' can be no model on the Hub, and there is nothing at that path
  where: model_name_or_path
  fix:   name OWNER/NAME, or a path that exists on this machine"""
NO_WEIGHTS = """\
org/adapter has no weights that transformers loads
  where: model_name_or_path, at {commit}
  fix:   name the repository of the model itself: not of an adapter, nor of GGUF or ONNX files"""


@pytest.mark.parametrize(
    ("name", "revision", "token", "message"),
    [
        pytest.param("org/gated", None, None, GATED, id="gated"),
        pytest.param("org/none", None, None, ABSENT, id="404"),
        pytest.param("org/none", None, TOKEN, UNSEEN, id="404-with-token"),
        pytest.param("org/private", None, None, PRIVATE, id="401"),
        pytest.param("org/model", None, "hf_expired", REFUSED, id="token"),
        pytest.param("org/model", "v9", None, REVISION, id="revision"),
        pytest.param("org/model/x", None, None, NO_NAME, id="name"),
        pytest.param("org/adapter", None, None, NO_WEIGHTS, id="no-weights"),
    ],
)
def test_a_refusal_says_what_to_do(
    login: Login, files_hub: FilesHub, name: str, revision: str | None, token: str | None, message: str
) -> None:
    for repository in ("org/model", "org/gated", "org/private"):
        files_hub.put(repository, {**SMALL, "model.safetensors": b"w"})
    commit = files_hub.put("org/adapter", {"adapter_model.safetensors": b"a"})
    files_hub.gated, files_hub.private = {"org/gated"}, {"org/private"}
    login.token = token
    refused = login.fetch(name, revision)
    assert refused.error == message.format(url=files_hub.url, commit=commit[:8])
    assert refused.code == 4


def test_no_network_is_told_soon(login: Login, files_hub: FilesHub) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        files_hub.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        refused = login.fetch(NAME)
    assert refused.code == 4
    assert refused.error.splitlines()[0] == "the Hub is out of reach: [Errno 111] Connection refused"
    assert refused.error.splitlines()[1:] == [
        f"  where: {files_hub.url}, for the model org/model",
        "  fix:   fetch where there is a network (a login node); behind a proxy, export HTTPS_PROXY; for a mirror,"
        " HF_ENDPOINT",
    ]


def test_a_hub_that_is_not_well_is_asked_again(login: Login, files_hub: FilesHub) -> None:
    files_hub.put(NAME, {**SMALL, "model.safetensors": WEIGHTS})
    files_hub.fault(r"GET /api/models/org/model", status=503, times=2)
    fetched = login.fetch(NAME)
    assert fetched.error == ""
    assert fetched.said == ["the Hub: it answers 503; trying again in 0 s"] * 2
    files_hub.fault(r"HEAD .*/resolve/", status=503)
    files_hub.put(NAME, {"config.json": b"[]"})
    assert login.fetch(NAME).error.splitlines()[0] == "the Hub is not well: it answers 503"


def test_a_hub_that_hangs_is_given_up(login: Login, files_hub: FilesHub) -> None:
    files_hub.put(NAME, {**SMALL, "model.safetensors": WEIGHTS})
    files_hub.fault(r"GET /api/models/org/model", hang=True)
    refused = login.fetch(NAME, silence=0.2)
    assert refused.code == 4
    assert refused.error.splitlines()[0] == "the Hub is out of reach: it does not answer"
