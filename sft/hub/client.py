"""The one door to the Hub: huggingface_hub's own client with limits to how long it waits.

By itself that client waits for ever on a silent server, and sleeps for as long as a Retry-After says.
Here every request has a time limit, and an answer worth another try comes out as an error that says so,
so that one loop decides about all retries.
"""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from huggingface_hub import get_session, set_client_factory
from huggingface_hub.errors import HfHubHTTPError

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 120.0
RETRY_WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)
LONGEST_WAIT_SECONDS = 300.0

# `"api";r=0;t=55`: nothing remains for another 55 s.
_RATE_LIMIT_USED_UP = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d+)")

Result = TypeVar("Result")


class TryAgainError(Exception):
    """The Hub could not be asked, or asked to come back; `wait_seconds` is what it asked for."""

    def __init__(self, message: str, *, status: int | None = None, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.wait_seconds = wait_seconds


class OutOfTimeError(Exception):
    """The time that a delivery may take is over."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point of the monotonic clock; None is never."""

    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        return cls(None if seconds is None else time.monotonic() + seconds)

    def left(self, longest: float) -> float:
        """Seconds that something may take, at most `longest`.

        Raises:
            OutOfTimeError: there are none left.
        """
        if self.at is None:
            return longest
        left = self.at - time.monotonic()
        if left <= 0:
            raise OutOfTimeError
        return min(left, longest)


@contextlib.contextmanager
def limited_client(deadline: Deadline, silence_seconds: float | None = None) -> Iterator[None]:
    """Make every request of huggingface_hub in this block obey the deadline and the limits above.

    Args:
        silence_seconds: how long a server may say nothing; SILENCE_SECONDS unless said.
    """
    hooks = get_session().event_hooks

    def plain() -> httpx2.Client:
        return httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=None)

    def limited() -> httpx2.Client:
        silence = SILENCE_SECONDS if silence_seconds is None else silence_seconds
        return _LimitedClient(deadline, silence, event_hooks=hooks, follow_redirects=True)

    set_client_factory(limited)
    try:
        yield
    finally:
        set_client_factory(plain)


def with_retries(action: Callable[[], Result], deadline: Deadline, say: Callable[[str], None]) -> Result:
    """Run an action again after each `TryAgainError`, until the waits or the time are used up.

    `say` is told of each wait.

    Raises:
        TryAgainError: the last one, or one that asks for more patience than there is.
        OutOfTimeError: the deadline has passed.
    """
    for wait in RETRY_WAITS_SECONDS:
        try:
            return _told_apart(action)
        except TryAgainError as error:
            pause = max(wait, error.wait_seconds or 0.0)
            if pause > LONGEST_WAIT_SECONDS or pause > deadline.left(pause):
                raise
            say(f"the Hub: {error}; trying again in {pause:.0f} s")
            time.sleep(pause)
    return _told_apart(action)


def _told_apart(action: Callable[[], Result]) -> Result:
    """Run the action; dig the cause out of what the library's upload threads wrap it in."""
    try:
        return action()
    except Exception as error:
        inner: BaseException | None = error
        while inner is not None:
            if isinstance(inner, (TryAgainError, OutOfTimeError, HfHubHTTPError)):
                raise inner from None
            inner = inner.__cause__
        # The uploader for large files (hf_xet) has errors of its own, and has retried by then.
        if type(error) in (RuntimeError, ConnectionError, TimeoutError) or isinstance(
            error, httpx2.TransportError
        ):
            raise TryAgainError(f"the upload failed: {error}") from error
        raise


class _LimitedClient(httpx2.Client):
    """A client whose requests end, with an answer or an error, within limits."""

    def __init__(self, deadline: Deadline, silence_seconds: float, **settings: Any) -> None:
        super().__init__(**settings)
        self._sft_deadline = deadline
        self._sft_silence_seconds = silence_seconds

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        silence = self._sft_deadline.left(self._sft_silence_seconds)
        connect = min(CONNECT_SECONDS, silence)
        request.extensions["timeout"] = httpx2.Timeout(silence, connect=connect).as_dict()
        try:
            response = super().send(request, **options)
        except httpx2.TransportError as error:
            if "Range" in request.headers:
                raise  # the rest of a file: the library asks for it again, and would forget what it has
            self._sft_deadline.left(self._sft_silence_seconds)
            raise TryAgainError(_reason(error)) from error
        if response.status_code in (408, 429) or response.status_code >= 500:
            message = f"it answers {response.status_code}"
            wait = _wait_asked_for(response.headers)
            raise TryAgainError(message, status=response.status_code, wait_seconds=wait)
        if response.status_code in (409, 412) and _somebody_else_was_there(request, response):
            raise TryAgainError(
                f"somebody else is changing the same ({response.status_code})", status=response.status_code
            )
        return response


def _somebody_else_was_there(request: httpx2.Request, response: httpx2.Response) -> bool:
    """Whether another look is worth it; a 409 that says "that is there already" is no news to the library."""
    makes = request.url.path.endswith("/repos/create") or "/branch/" in request.url.path
    if not makes:
        return True
    response.read()
    return response.status_code == 409 and "another conflicting operation is in progress" in response.text


def _reason(error: httpx2.TransportError) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "it does not answer"
    return str(error) or type(error).__name__


def _wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Read Retry-After (seconds or a date) or the Hub's own rate-limit header."""
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        with contextlib.suppress(ValueError):
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    used_up = _RATE_LIMIT_USED_UP.search(headers.get("RateLimit", ""))
    return float(used_up.group(1)) if used_up else None
