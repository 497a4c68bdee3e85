"""SIGKILL in a save: whatever call it hits, a whole checkpoint is there, and the continued run is the whole run."""

from __future__ import annotations

import random
import signal
from collections import Counter

import pytest

from sft.errors import ExitCode
from tests.faults import table
from tests.faults.arena import BEGUN, FAULTY, RANKS, Arena
from tests.faults.conftest import Arenas
from tests.faults.shim import Call

SAMPLED = 20
SAVE_STEPS = 2
BY_NAME = f"checkpoint-{FAULTY} was complete but for its name when the run was killed: it counts"


class Killing:
    """Kills in one arena. What can be continued alike is continued once: it is known by the hashes of all files."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self._seen: set[str] = set()
        self.continued = 0

    def kill(self, rank: int, group: str, number: int) -> tuple[Call, str]:
        """Kill a rank in a call; return the call, and from where the run went on."""
        arena = self.arena
        left = arena.fail(rank, group, number, 0)
        place = f"rank {rank}, {group} {number}: {left.hit}\n{arena.told()}"
        assert left.hit is not None, place
        assert left.ended.codes[rank] == -signal.SIGKILL, place
        assert left.ended.hung == [], place
        others = {code for other, code in enumerate(left.ended.codes) if other != rank}
        assert others <= {ExitCode.WORKER_LOST}, place
        assert arena.torn() == [], place

        arena.look(left)
        assert left.step in (BEGUN, FAULTY), place
        assert left.said in ([], [BY_NAME]), place
        assert arena.torn() == [], place
        assert not arena.run.staging.exists(), place
        assert not arena.run.set_aside.exists(), place
        reached = max([BEGUN, *(event["step"] for event in left.of_kind("log"))])
        assert reached - left.step <= 2 * SAVE_STEPS, place

        content = arena.content()
        if content not in self._seen:
            self._seen.add(content)
            self.continued += 1
            assert arena.go_on(left) == arena.whole, place
        return left.hit, f"from step {left.step}"


def test_a_few_calls(arenas: Arenas) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for strategy, share in (("single", SAMPLED // 2), ("ddp", SAMPLED - SAMPLED // 2)):
        killing = Killing(arenas(strategy))
        watched = killing.arena.watch()
        assert watched.ended.codes == [0] * killing.arena.ranks
        by_kind: dict[tuple[int, str], list[Call]] = {}
        for rank, calls in watched.calls.items():
            for call in calls:
                if call.group == "save":
                    by_kind.setdefault((rank, call.kind), []).append(call)
        kinds = sorted(by_kind)
        chosen.shuffle(kinds)
        for turn in range(share):
            rank, kind = kinds[turn % len(kinds)]
            number = chosen.choice(by_kind[rank, kind]).number
            killing.kill(rank, "save", number)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", RANKS)
def test_every_call(strategy: str, arenas: Arenas) -> None:
    killing = Killing(arenas(strategy))
    watched = killing.arena.watch()
    found: dict[str, Counter[str]] = {}
    for rank, calls in watched.calls.items():
        for call in calls:
            if call.group == "save":
                hit, outcome = killing.kill(rank, "save", call.number)
                found.setdefault(table.killed_in(hit.kind), Counter())[outcome] += 1
    table.record(strategy, found)


def test_the_library_sees_every_byte_of_a_checkpoint(arenas: Arenas) -> None:
    """Else the enumeration would have holes."""
    for strategy in ("single", "ddp"):
        arena = arenas(strategy)
        watched = arena.watch("--save_total_limit", "9")
        written, synced, copied = Counter[str](), set(), set()
        for call in (call for calls in watched.calls.values() for call in calls):
            name = call.path.removeprefix(f"/_sft/staging/checkpoint-{FAULTY}/")
            # safetensors writes aside, and renames by a system call of its own, the one that is not seen.
            name = "adapter_model.safetensors" if name.startswith(".tmp") else name
            written[name] += call.bytes
            synced |= {name} if call.kind == "fsync" else set()
            copied |= {name} if call.name.startswith("sendfile") else set()
        files = arena.manifest(FAULTY).files
        assert files.keys() <= synced
        # A copy asks for more bytes than there are.
        assert {name: written[name] for name in files if name not in copied} == {
            name: record.bytes for name, record in files.items() if name not in copied
        }
        assert copied & files.keys()
