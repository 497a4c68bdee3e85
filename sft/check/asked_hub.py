"""A few questions to the Hub, each with a short time limit. No answer is worth waiting for before a launch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2
from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils._http import hf_raise_for_status

from sft import __version__
from sft.check.remembered import endpoint_of

SECONDS = 6.0
"""How long all the questions may take together."""
LONGEST = 4.0
"""How long one may take."""

Result = TypeVar("Result")


class NoRouteError(Exception):
    """Nothing answers at the Hub's address; nobody can say more from here."""


class UnwellError(Exception):
    """The Hub answers, but not with what it knows: it is busy, or too slow."""


@dataclass(slots=True)
class AskedHub:
    """The Hub that a run uses, and the token that it would use. Threads may share it once it was asked.

    Attributes:
        token: of HF_TOKEN or of a login; None without either.
        seconds: how long all the questions may take together; `longest`: how long one may.
    """

    endpoint: str
    token: str | None
    seconds: float = SECONDS
    longest: float = LONGEST
    _until: float = field(init=False)
    _client: httpx2.Client | None = field(default=None, init=False)
    _has_answered: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._until = time.monotonic() + self.seconds

    @property
    def has_usable_token(self) -> bool:
        """Whether the token can be sent: a header holds no blanks or other letters, and says them where it fails."""
        token = self.token
        return token is None or (token.isascii() and token.isprintable() and " " not in token)

    def ask(self, path: str) -> dict[str, Any]:
        """Ask for a JSON object.

        Raises:
            HfHubHTTPError: the Hub refuses, with the library's own distinctions.
            NoRouteError, UnwellError: it does not answer, or not now, or something else answers in its place.
        """
        try:
            found = self.reach("GET", path).json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UnwellError("what answers at its address is no Hub: a proxy's page, most likely")
        return found

    def reach(self, method: str, path: str) -> httpx2.Response:
        """Send one request. Raises as `ask` does."""
        with self._limits() as left:
            answer = self._connected().request(
                method,
                f"{self.endpoint}{path}",
                timeout=httpx2.Timeout(left),
            )
        self._judge(answer)
        return answer

    def read(self, path: str, most: int, start: int | None = None) -> bytes:
        """Read a file, or from `start` on `most` bytes of it; never more, whatever the server sends. Raises as `ask` does."""
        part = {"Range": f"bytes={start or 0}-{(start or 0) + most - 1}", "Accept-Encoding": "identity"}
        found = bytearray()
        with (
            self._limits() as left,
            self._connected().stream(
                "GET",
                f"{self.endpoint}{path}",
                headers=part if start is not None else None,
                timeout=httpx2.Timeout(left),
            ) as answer,
        ):
            if answer.status_code == 416:
                return b""  # the file has no such bytes
            if answer.is_error:
                answer.read()
            self._judge(answer)
            # A server that knows no ranges sends all of it.
            skipped = 0 if start is None or answer.status_code == 206 else start
            for chunk in answer.iter_bytes():
                found += chunk
                if len(found) >= skipped + most:
                    break
                self._left()
        return bytes(found[skipped : skipped + most])

    def _left(self) -> float:
        left = min(self.longest, self._until - time.monotonic())
        if left <= 0:
            raise UnwellError(f"it took more than {self.seconds:.0f} s")
        return left

    def _connected(self) -> httpx2.Client:
        if self._client is None:
            # Not huggingface_hub's own headers: it asks the Hub once a day what to call itself there.
            headers = {"User-Agent": f"sft/{__version__}"}
            if self.token:
                headers["Authorization"] = f"Bearer {self.token}"
            self._client = httpx2.Client(headers=headers, follow_redirects=True)
        return self._client

    @contextmanager
    def _limits(self) -> Iterator[float]:
        """Give the seconds that a request has, and tell apart why it fails."""
        left = self._left()
        try:
            yield left
        except HfHubHTTPError:
            raise
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as problem:
            told = str(problem) or "nothing answers"
            if self._has_answered:  # a file may lie elsewhere, at an address that a firewall does not know
                raise UnwellError(
                    f"it answers, and where it sends for files there is no route: {told}"
                ) from None
            raise NoRouteError(told) from None
        except httpx2.TimeoutException:
            raise UnwellError(f"it does not answer within {left:.0f} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as problem:  # the last, of a proxy's address
            raise UnwellError(str(problem) or type(problem).__name__) from None

    def _judge(self, answer: httpx2.Response) -> None:
        self._has_answered = True
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise UnwellError(f"it answers {answer.status_code}")
        hf_raise_for_status(answer)


def hub_of(environment: Mapping[str, str], seconds: float = SECONDS, longest: float = LONGEST) -> AskedHub:
    """Find the Hub and the token of a run, as huggingface_hub does."""
    own = environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN") or ""
    return AskedHub(endpoint_of(environment), own.strip() or get_token(), seconds, longest)


def within(seconds: float, action: Callable[[], Result]) -> Result:
    """Wait so long for an action, and leave it to itself then: no limit of ours reaches the look-up of a name.

    Raises:
        UnwellError: the time is over. All that the action raises comes out too.
    """
    done: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(action())
        except BaseException as failure:
            failed.append(failure)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise UnwellError(f"it does not answer within {seconds:.0f} s")
    return done[0]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token belongs to, and what it may do: the answer of /api/whoami-v2."""

    answer: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The user's name, or the organisation's of one of its own tokens."""
        return str(self.answer.get("name", ""))

    def role_in(self, organisation: str) -> str | None:
        """Return the role in an organisation; None for one that it is not in."""
        for one in self.answer.get("orgs") or []:
            if str(one.get("name", "")).lower() == organisation.lower():
                return str(one.get("roleInOrg", ""))
        return None

    @property
    def _token(self) -> Mapping[str, Any]:
        return (self.answer.get("auth") or {}).get("accessToken") or {}

    @property
    def token_name(self) -> str:
        """What the user called the token."""
        return str(self._token.get("displayName") or "the token")

    def may_not_write(self, namespace: str, repository: str) -> str | None:
        """Say why the token may not write to a repository; None where nothing speaks against it.

        Args:
            repository: with its namespace.
        """
        role = self._token.get("role")
        if role == "read":
            return "it is a token for reading"
        scopes = self._token.get("fineGrained")
        if role != "fineGrained" or not isinstance(scopes, Mapping):
            return None
        if "repo.write" in (scopes.get("global") or []):
            return None
        reach = {namespace.lower(), repository.lower()}
        for scope in scopes.get("scoped") or []:
            named = str((scope.get("entity") or {}).get("name", "")).lower()
            if named in reach and "repo.write" in (scope.get("permissions") or []):
                return None
        return f"it is fine-grained, and has no write permission for {namespace}"
