"""Arenas, one a strategy, made when the first test asks for one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.faults import shim
from tests.faults.arena import Arena, Zygote

Arenas = Callable[[str], Arena]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes calls go wrong."""
    if sys.platform != "linux":
        pytest.skip("calls are made to go wrong by a library that Linux loads before libc")
    if shim.compiler() is None:
        pytest.skip("calls are made to go wrong by a small C library, and there is no compiler (cc)")
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def arenas(library: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arenas]:
    """Give the arena of a strategy. DeepSpeed's has a process of its own; the others share one."""
    data = tiny.write_chats(tmp_path_factory.mktemp("faults") / "chats.jsonl", 40)
    zygotes: dict[bool, Zygote] = {}
    made: dict[str, Arena] = {}

    def arena(strategy: str) -> Arena:
        with_deepspeed = strategy.startswith("zero")
        if with_deepspeed not in zygotes:
            zygotes[with_deepspeed] = Zygote(library)
        if strategy not in made:
            place = tmp_path_factory.mktemp(strategy) / "arena"
            made[strategy] = Arena(zygotes[with_deepspeed], place, strategy, tiny_model, data)
        return made[strategy]

    yield arena
    for zygote in zygotes.values():
        zygote.close()
