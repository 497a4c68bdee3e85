"""`sft plan` of a model on the Hub: what it prints with a Hub that answers, and what it says of one that does not."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sft.check import find_model
from sft.cli.main import main
from sft.errors import ExitCode
from tests.check.on_hub import NAME, SMALL, headers_of, know_only, write_model
from tests.loopback.files import FilesHub, files_hub
from tests.loopback.hub import TOKEN

__all__ = ["files_hub"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run_file(files_hub: FilesHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA run of a model on the Hub."""
    know_only(files_hub, tmp_path, monkeypatch)
    return write(tmp_path)


def write(directory: Path, **more: Any) -> Path:
    settings = {
        "model_name_or_path": NAME,
        "dataset_name": str(directory / "chats.jsonl"),
        "use_peft": True,
        "lora_target_modules": "all-linear",
        "dtype": "bfloat16",
        "max_length": 512,
        "output_dir": str(directory / "out"),
        "launch": {"gpus_per_node": 1},
        **more,
    }
    run = directory / "run.yaml"
    run.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    return run


def plan(run: Path, *words: str) -> int:
    return main(["plan", str(run), "--gpu", "h100-80g", *words])


def test_the_plan_is_that_of_the_same_files_here(
    run_file: Path, files_hub: FilesHub, tmp_path: Path, capsys: Capture
) -> None:
    directory = write_model(tmp_path / "model", 4)
    commit = files_hub.put_directory(NAME, directory)
    assert plan(run_file, "--model_name_or_path", str(directory)) == 0
    here = capsys.readouterr().out
    assert files_hub.requests == []
    assert plan(run_file) == 0
    there = capsys.readouterr().out
    told = f"shapes of org/model at {commit[:8]} from the Hub: 4 headers, 13 KiB read, no weights\n"
    assert told in there
    assert without_free_room(there.replace(told, "")) == without_free_room(here)
    assert not (tmp_path / "hub").exists()


def without_free_room(text: str) -> list[str]:
    """Leave out what is free on the disk, which changes; and what config.json adds to every checkpoint."""
    return [line for line in text.splitlines() if not line.startswith("disk: ")]


def test_a_second_plan_asks_for_the_commit_and_an_offline_one_for_nothing(
    run_file: Path, files_hub: FilesHub, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    commit = files_hub.put(NAME, headers_of(SMALL, 3))
    assert plan(run_file) == 0
    first = capsys.readouterr().out.splitlines()
    files_hub.requests.clear()

    def told(*words: str) -> str:
        assert plan(run_file, *words) == 0
        (line,) = set(capsys.readouterr().out.splitlines()) - set(first)
        return line

    before = f"shapes of org/model at {commit[:8]} as the Hub told them before"
    assert told() == f"{before}; it is at that commit still"
    assert files_hub.requests == ["GET /api/models/org/model/revision/main"]
    assert told("--model_revision", commit) == f"{before}; it is at that commit still"
    offline = told("--launch.offline", "true")
    assert offline == f"{before}; now launch.offline (--launch.offline) keeps the Hub from being asked"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert told() == f"{before}; now HF_HUB_OFFLINE=1 keeps the Hub from being asked"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert len(files_hub.requests) == 1
    files_hub.close()
    assert told().startswith(f"{before}; now there is no route to the Hub at {files_hub.url} (")


def test_programs_are_told_too(run_file: Path, files_hub: FilesHub, capsys: Capture) -> None:
    files_hub.put(NAME, headers_of(SMALL, 1))
    assert plan(run_file, "--json") == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.endswith("from the Hub: 1 header, 8 KiB read, no weights")


def test_a_tokenizer_in_the_cache_is_no_model(
    run_file: Path, files_hub: FilesHub, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from huggingface_hub import constants

    commit = files_hub.put(NAME, headers_of(SMALL, 2))
    storage = Path(constants.HF_HUB_CACHE) / "models--org--model"
    (storage / "snapshots" / commit).mkdir(parents=True)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(commit)
    for name in ("tokenizer.json", "config.json"):
        (storage / "snapshots" / commit / name).write_text(json.dumps({**SMALL, "num_hidden_layers": 1}))
    with monkeypatch.context() as variables:
        variables.setenv("HF_HUB_OFFLINE", "1")
        assert plan(run_file) == 0
    out = capsys.readouterr().out
    assert "1 layers of 512" in out
    told = "org/model is not whole on this machine, and HF_HUB_OFFLINE=1 keeps the Hub from being asked\n"
    assert told + "assumed: the weights' names and shapes, as Llama's are\n" in out
    assert plan(run_file) == 0
    assert "4 layers of 512" in capsys.readouterr().out


def test_pickles_are_said_to_be_such(run_file: Path, files_hub: FilesHub, capsys: Capture) -> None:
    commit = files_hub.put(NAME, {"config.json": json.dumps(SMALL).encode(), "pytorch_model.bin": b"pickle"})
    assert plan(run_file) == 0
    out = capsys.readouterr().out
    assert (
        f"shapes of org/model at {commit[:8]} from the Hub: config.json alone, for its weights are pickles without"
        " headers\nassumed: the weights' names and shapes, as Llama's are\n"
    ) in out


GATED = """\
the model org/model is gated, and no token is set
  where: {run}:1
  fix:   accept its terms at {url}/org/model, then `hf auth login` or export HF_TOKEN, and plan again
"""
NO_ACCESS = """\
the model org/model is gated, and the account of the token has no access to it
  where: {run}:1
  fix:   accept its terms at {url}/org/model, then `hf auth login` or export HF_TOKEN, and plan again
"""
ABSENT = """\
the Hub has no model org/model, or it is private and no token is set
  where: {run}:1
  fix:   check the name; if it is private, `hf auth login` or export HF_TOKEN
"""
UNSEEN = """\
the Hub has no model org/model that the token may see
  where: {run}:1
  fix:   check the name; if it is private, `hf auth login` or export HF_TOKEN
"""
REFUSED = """\
the Hub does not accept the token (401: Invalid credentials in Authorization header)
  where: HF_TOKEN or `hf auth login`
  fix:   export HF_TOKEN with a valid one, or unset it for what is public; or `hf auth login`
"""
TOKEN_WITH_BLANKS = """\
the token for the Hub holds blanks or other letters that no token has
  where: HF_TOKEN
  fix:   copy it again from https://huggingface.co/settings/tokens
"""
REVISION = """\
the model org/model has no revision v9
  where: --model_revision
  fix:   name a branch, a tag or a commit that it has
"""
NO_WEIGHTS = """\
the shape of org/model is not known: it has no weights that transformers loads
  where: {run}:1
  fix:   name the repository of the model itself: not of an adapter, nor of GGUF or ONNX files
"""
NO_CONFIG = """\
the shape of org/model at {commit} is not known: it has no config.json
  where: {run}:1
  fix:   name the model itself: not an adapter, nor one part of several
"""
NO_DECODER = """\
the shape of org/model at {commit} is not known: its config.json is of no decoder that the kit knows
  where: {run}:1
  fix:   name the model itself: not an adapter, nor one part of several
"""
TORN = """\
the shape of org/model is not known: it is not whole on the Hub: model.safetensors is no safetensors file
  where: {run}:1
  fix:   name another revision with model_revision, or tell who published it
"""
OFFLINE = """\
the shape of org/model is not known: its weights are not on this machine, and HF_HUB_OFFLINE=1 keeps the Hub from being asked
  where: {run}:1
  fix:   plan once without that where there is a network, or bring the model with `sft fetch`
"""
ILL = """\
the shape of org/model is not known: its weights are not on this machine, and the Hub at {url} does not tell (it answers 503)
  where: {run}:1
  fix:   plan again later, or bring the model with `sft fetch`
"""
SILENT = """\
the shape of org/model is not known: its weights are not on this machine, and the Hub at {url} does not tell (it does not answer within 1 s)
  where: {run}:1
  fix:   plan again later, or bring the model with `sft fetch`
"""
NO_ROUTE = """\
the shape of org/model is not known: its weights are not on this machine, and there is no route to the Hub at {url} ([Errno 111] Connection refused)
  where: {run}:1
  fix:   plan where there is a network (a login node); behind a proxy, export HTTPS_PROXY; for a mirror, HF_ENDPOINT; or bring the model with `sft fetch`
"""


def refused(run: Path, hub: FilesHub, message: str, capsys: Capture, commit: str = "", *words: str) -> None:
    assert plan(run, *words) == ExitCode.ENVIRONMENT
    assert capsys.readouterr().err == message.format(run=run, url=hub.url, commit=commit[:8])


@pytest.mark.parametrize(
    ("state", "token", "message"),
    [
        pytest.param("gated", None, GATED, id="gated"),
        pytest.param("forbidden", TOKEN, NO_ACCESS, id="403"),
        pytest.param("absent", None, ABSENT, id="404"),
        pytest.param("absent", TOKEN, UNSEEN, id="404-with-token"),
        pytest.param("private", None, ABSENT, id="401"),
        pytest.param("there", "hf_expired", REFUSED, id="token"),
        pytest.param("there", "hf_a hf_b", TOKEN_WITH_BLANKS, id="two-tokens"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(
    state: str,
    token: str | None,
    message: str,
    run_file: Path,
    files_hub: FilesHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    if state != "absent":
        files_hub.put(NAME, headers_of(SMALL, 1))
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    files_hub.gated = {NAME} if state == "gated" else set()
    files_hub.private = {NAME} if state == "private" else set()
    if state == "forbidden":
        files_hub.fault("GET .*/resolve/", status=403, headers={"X-Error-Code": "GatedRepo"})
    refused(run_file, files_hub, message, capsys)


def test_a_revision_that_is_not_there_is_told(run_file: Path, files_hub: FilesHub, capsys: Capture) -> None:
    files_hub.put(NAME, headers_of(SMALL, 1))
    refused(run_file, files_hub, REVISION, capsys, "", "--model_revision", "v9")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({"adapter_model.safetensors": b"a", "config.json": b"{}"}, NO_WEIGHTS, id="no-weights"),
        pytest.param({"model.safetensors": b"\x02" + b"\0" * 7 + b"{}"}, NO_CONFIG, id="no-config"),
        pytest.param(
            {"model.safetensors": b"\x02" + b"\0" * 7 + b"{}", "config.json": b'{"model_type": "bert"}'},
            NO_DECODER,
            id="no-decoder",
        ),
        pytest.param({"model.safetensors": b"", "config.json": b"{}"}, TORN, id="torn"),
    ],
)
def test_what_is_no_model_that_can_be_planned_is_told(
    files: dict[str, bytes], message: str, run_file: Path, files_hub: FilesHub, capsys: Capture
) -> None:
    refused(run_file, files_hub, message, capsys, files_hub.put(NAME, files))


def test_a_hub_that_is_not_asked_or_does_not_tell_is_named(
    run_file: Path, files_hub: FilesHub, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    files_hub.put(NAME, headers_of(SMALL, 1))
    with monkeypatch.context() as variables:
        variables.setenv("HF_HUB_OFFLINE", "1")
        refused(run_file, files_hub, OFFLINE, capsys)
    assert files_hub.requests == []
    files_hub.fault("GET .*/resolve/", status=503, times=1)
    refused(run_file, files_hub, ILL, capsys)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        files_hub.url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", files_hub.url)
        refused(run_file, files_hub, NO_ROUTE, capsys)


@pytest.mark.parametrize("silent", ["/api/models/", "/config.json", r"/model-00002.*\.safetensors"])
def test_a_hub_that_falls_silent_is_left(
    silent: str, run_file: Path, files_hub: FilesHub, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(find_model, "SECONDS", 1.0)
    files_hub.put(NAME, headers_of(SMALL, 20))
    files_hub.fault(f"GET .*{silent}", hang=True)
    began = time.monotonic()
    assert plan(run_file) == ExitCode.ENVIRONMENT
    assert time.monotonic() - began < 6
    told = re.sub(r"within \d s", "within 1 s", capsys.readouterr().err)  # what is left of it
    assert told == SILENT.format(run=run_file, url=files_hub.url)


def test_a_name_that_nobody_resolves_holds_no_process_up(run_file: Path, files_hub: FilesHub) -> None:
    """No limit reaches the look-up of a name: it is left in its thread, and the command ends."""
    code = f"""
import socket, sys, time
from sft.check import find_model
from sft.cli.main import main
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
find_model.SECONDS = 0.5
sys.exit(main(["plan", {str(run_file)!r}, "--gpu", "h100-80g"]))
"""
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.ENVIRONMENT
    assert "does not tell (it does not answer within" in done.stderr
    assert time.monotonic() - began < 20


def test_a_model_that_is_here_needs_no_client_for_the_network(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    run = write(tmp_path, model_name_or_path=str(directory))
    code = f"""
import sys
from sft.cli.main import main
assert main(["plan", {str(run)!r}, "--gpu", "h100-80g"]) == 0
assert not {{"httpx2", "huggingface_hub", "torch"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
