"""A save that the disk refuses: training goes on, nothing half-written stays, it is told, and the next save is whole."""

from __future__ import annotations

import errno
from collections import Counter

import pytest

from sft.errors import ExitCode
from tests.faults import table
from tests.faults.arena import BEGUN, FAULTY, LAST, RANKS, Arena
from tests.faults.conftest import Arenas
from tests.faults.shim import Call

ERRORS = {errno.ENOSPC: "No space left", errno.EIO: "I/O error"}
"""A disk without room has none for anything; an I/O error is one of the checkpoint's files."""
TOLD = f"checkpoint-{FAULTY} could not be saved: "


def refuse(arena: Arena, rank: int, group: str, number: int, error: int) -> tuple[Call | None, str]:
    """Have every call of the save fail from the n-th on; return that call, and what became of the checkpoint."""
    left = arena.fail(rank, group, number, error)
    place = f"rank {rank}, {group} {number}, {errno.errorcode[error]}: {left.hit}\n{arena.told()}"
    assert left.ended.codes == [0] * arena.ranks, place
    assert left.ended.hung == [], place
    assert arena.torn() == [], place
    assert arena.outcome() == arena.whole, place
    saved = [event["step"] for event in left.of_kind("save")]
    notes = [event["text"] for event in left.of_kind("note") if event["text"].startswith("checkpoint-")]
    assert saved[-1] == LAST, place
    if saved == [FAULTY, LAST]:
        assert notes == [], place
        outcome = "saved"
    else:
        assert saved == [LAST], place
        (note,) = notes
        assert note.startswith(TOLD), place
        outcome = "not saved"
    names = sorted(path.name for path in arena.run.output_dir.glob("checkpoint-*"))
    # What could not be removed for the same reason is removed at the next chance.
    assert names == [f"checkpoint-{LAST}"], place
    assert not list(arena.run.staging.glob("*")), place
    arena.look(left)
    assert left.step == LAST, place
    assert left.said == [], place
    return left.hit, outcome


def faults(arena: Arena) -> list[tuple[int, Call, int]]:
    """List the calls of a save that can fail so, each with its rank and its error. Removing is none of them.

    Alone, a rank has each call fail with each error; of two, each call fails once, with the errors by turns.
    """
    watched = arena.watch()
    assert watched.ended.codes == [0] * arena.ranks
    found = []
    for rank, calls in watched.calls.items():
        making = [call for call in calls if call.kind != "remove"]
        for turn, call in enumerate(call for call in making if call.group == "save"):
            errors = list(ERRORS) if arena.ranks == 1 else [list(ERRORS)[turn % 2]]
            found += [(rank, call, error) for error in errors]
        found += [(rank, call, errno.ENOSPC) for call in making if call.group == "told"]
    return found


def test_the_first_call_of_each_kind(arenas: Arenas) -> None:
    arena = arenas("single")
    first: dict[str, Call] = {}
    for _, call, _ in faults(arena):
        first.setdefault(f"{call.group} {call.kind}", call)
    for kind in ("save write", "save fsync", "save rename", "told write"):
        refuse(arena, 0, first[kind].group, first[kind].number, errno.ENOSPC)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", RANKS)
def test_every_call(strategy: str, arenas: Arenas) -> None:
    arena = arenas(strategy)
    found: dict[str, Counter[str]] = {}
    for rank, call, error in faults(arena):
        hit, outcome = refuse(arena, rank, call.group, call.number, error)
        # How often something is told beside the save depends on how long it takes: tried, but not counted.
        if call.group == "save":
            assert hit is not None
            found.setdefault(f"{ERRORS[error]} from a {hit.kind} on", Counter())[outcome] += 1
    table.record(strategy, found)


def test_a_disk_that_turns_read_only_ends_the_run_and_loses_nothing_older(arenas: Arenas) -> None:
    arena = arenas("single")
    left = arena.fail(0, "save", 10, errno.EROFS)
    assert left.ended.codes == [ExitCode.ENVIRONMENT], arena.told()
    assert arena.torn() == []
    arena.look(left)
    assert (left.step, left.said) == (BEGUN, [])
    assert not arena.run.staging.exists()
    assert arena.go_on(left) == arena.whole


def test_a_clock_that_goes_backwards_changes_nothing(arenas: Arenas) -> None:
    arena = arenas("single")
    left = arena.watch(clock_goes_back=True)
    assert left.ended.codes == [0], arena.told()
    times = [event["time"] for event in left.events]
    assert times != sorted(times)
    assert [event["step"] for event in left.of_kind("save")] == [FAULTY, LAST]
    arena.look(left)
    assert (left.step, left.said) == (LAST, [])
    assert arena.outcome() == arena.whole
    assert BEGUN < LAST
