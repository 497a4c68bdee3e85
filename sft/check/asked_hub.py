"""A few questions to the Hub, each with a short time limit. No answer is worth waiting for before a launch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status

SECONDS = 6.0
"""How long all the questions may take together."""
LONGEST = 4.0
"""How long one may take."""


class NoRouteError(Exception):
    """Nothing answers at the Hub's address; nobody can say more from here."""


class UnwellError(Exception):
    """The Hub answers, but not with what it knows: it is busy, or too slow."""


@dataclass(slots=True)
class AskedHub:
    """The Hub that a run uses, and the token that it would use.

    Attributes:
        token: of HF_TOKEN or of a login; None without either.
    """

    endpoint: str
    token: str | None
    _until: float = field(default_factory=lambda: time.monotonic() + SECONDS)

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
        left = min(LONGEST, self._until - time.monotonic())
        if left <= 0:
            raise UnwellError(f"it took more than {SECONDS:.0f} s")
        try:
            answer = httpx2.request(
                method,
                f"{self.endpoint}{path}",
                headers=build_hf_headers(token=self.token or False),
                timeout=httpx2.Timeout(left),
                follow_redirects=True,
            )
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as problem:
            raise NoRouteError(str(problem) or "nothing answers") from None
        except httpx2.TimeoutException:
            raise UnwellError(f"it does not answer within {left:.0f} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as problem:  # the last, of a proxy's address
            raise UnwellError(str(problem) or type(problem).__name__) from None
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            raise UnwellError(f"it answers {answer.status_code}")
        hf_raise_for_status(answer)
        return answer


def hub_of(environment: Mapping[str, str]) -> AskedHub:
    """Find the Hub and the token of a run, as huggingface_hub does."""
    endpoint = environment.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
    own = environment.get("HF_TOKEN") or environment.get("HUGGING_FACE_HUB_TOKEN") or ""
    return AskedHub(endpoint, own.strip() or get_token())


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
