"""What every test shares: no network but the loopback, one thread, and the tiny model."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny

# Set before any library reads them, and inherited by every launched process.
os.environ.update(
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    WANDB_MODE="disabled",
    TOKENIZERS_PARALLELISM="false",
    PYTHONUNBUFFERED="1",
    COLUMNS="110",
)
# A shell that starts something in the background has it ignore Ctrl-C, nohup has it ignore a closed terminal, and so
# would everything that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
# Prepared data of the tests is theirs, and goes with them.
_cache = tempfile.TemporaryDirectory(prefix="sft-cache-")
os.environ["SFT_CACHE"] = _cache.name
for name in ("HF_TOKEN", "WANDB_API_KEY", "SFT_SITE", "SFT_RUN_DIR", "SFT_SUPERVISED"):
    os.environ.pop(name, None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the exhaustive tier too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="exhaustive tier: bash tests/run.sh --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute the tests over the workers in their order (pytest-xdist sorts by number otherwise)."""
    from tests.workers import BySharedFixtures

    config.option.loadscopereorder = False
    return BySharedFixtures(config, log)


@pytest.fixture(autouse=True)
def _transformers_speaks_as_before() -> Iterator[None]:
    """A command that has its process to itself quiets transformers; in a test's process others come after it."""
    yield
    if speech := sys.modules.get("transformers.utils.logging"):
        speech.set_verbosity(speech.WARNING)
        speech.enable_progress_bar()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with tied embeddings, its tokenizer and a ChatML template with generation markers."""
    return tiny.write_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 short chats as JSON lines with a `messages` column."""
    return tiny.write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl", 200)
