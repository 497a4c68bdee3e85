"""Each fault at each request of a push ends as docs/reliability.md says, and what was pushed is there once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub.faults import FAULTS, KILLS, REQUESTS, always, killed, once
from tests.hub.table import on_the_page


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_as_the_page_says(tmp_path: Path, fault: str, request_: str) -> None:
    assert once(fault, request_, tmp_path) == on_the_page()[fault, request_]


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("when", KILLS)
def test_a_kill_ends_as_the_page_says(tmp_path: Path, when: str, request_: str) -> None:
    assert killed(when, request_, tmp_path) == on_the_page()[when, request_]


@pytest.mark.parametrize(
    "request_",
    [pytest.param(request, marks=() if request == "preupload" else pytest.mark.slow) for request in REQUESTS],
)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_is_told_and_kept(tmp_path: Path, fault: str, request_: str) -> None:
    always(fault, request_, tmp_path)


def test_the_page_has_every_fault_and_every_request() -> None:
    assert set(on_the_page()) == {(fault, request) for fault in (*FAULTS, *KILLS) for request in REQUESTS}
