"""Why the Hub did not take a push, told as what, where and the fix."""

from __future__ import annotations

import shlex

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from sft.errors import Problem
from sft.hub.client import TryAgainError
from sft.hub.journal import PushRequest
from sft.hub.report import push_command
from sft.hub.settings import without_password
from sft.hub.upload import AlteredError, ConflictError
from sft.rundir import RunDirectory

# Answers that are about one push only, so that those after it are still worth a try.
_ABOUT_ONE_PUSH = (400, 413, 422)
AGAIN_SECONDS = 60.0


def is_about_one_push(error: Exception) -> bool:
    """Whether the pushes that come after the refused one may still succeed."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _ABOUT_ONE_PUSH
    return not isinstance(error, (TryAgainError, OfflineModeIsEnabled))


def again_seconds(error: Exception) -> float | None:
    """When another try is worth it; None where a person has to mend something first."""
    if isinstance(error, TryAgainError):
        return max(AGAIN_SECONDS, error.wait_seconds or 0.0)
    return None


def no_token(run: RunDirectory) -> Problem:
    """There is nothing to sign in with."""
    return Problem(
        "there is no token for the Hub, so nothing was pushed",
        "neither HF_TOKEN nor a login of huggingface_hub",
        f"export HF_TOKEN=..., or run `hf auth login`; then {push_command(run)}",
    )


def offline(run: RunDirectory) -> Problem:
    """The library was told to stay off the network."""
    return Problem(
        "huggingface_hub is told to stay offline, so nothing was pushed",
        "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE in the environment",
        f"where there is a network: HF_HUB_OFFLINE=0 {push_command(run)}",
    )


def busy_elsewhere(run: RunDirectory) -> Problem:
    """Another process holds the outbox."""
    return Problem(
        "another process is pushing this run right now",
        str(run.outbox / "lock"),
        f"wait for it, then {push_command(run)}",
    )


def not_writable(run: RunDirectory, error: OSError) -> Problem:
    """What was done cannot be noted."""
    fix = f"make room there, and see that it may be written; then {push_command(run)}"
    return Problem(f"the outbox cannot be written: {error.strerror or error}", str(run.outbox), fix)


def problem_of(
    error: Exception, request: PushRequest, run: RunDirectory, *, endpoint: str, token: str
) -> Problem:
    """Turn what the library raised into something that a person can mend."""
    told = _told(error, request, run, endpoint)
    # Servers and proxies have been seen to repeat what they were sent.
    what, where, fix = (text and text.replace(token, "***") for text in (told.what, told.where, told.fix))
    return Problem(what or "", where, fix)


def _told(error: Exception, request: PushRequest, run: RunDirectory, endpoint: str) -> Problem:
    again = push_command(run)
    where = f"{request.what} to {request.repo} at {without_password(endpoint)}"
    if isinstance(error, OfflineModeIsEnabled):
        return offline(run)
    if isinstance(error, TryAgainError):
        if error.wait_seconds is not None:
            fix = f"in {error.wait_seconds:.0f} s: {again}"
            return Problem(f"the Hub asks to wait {error.wait_seconds:.0f} s: {error}", where, fix)
        if error.status is not None:
            return Problem(f"the Hub is not well: {error}", where, f"later: {again}")
        return Problem(f"the Hub is out of reach: {error}", where, f"where there is a network: {again}")
    if isinstance(error, AlteredError):
        branch = f" --revision {shlex.quote(request.revision)}" if request.revision else ""
        fix = f"`{again} --repo {request.repo}{branch}` pushes the finished model as it is now"
        return Problem(f"{error} was written to after its push was asked for", where, fix)
    if isinstance(error, ConflictError):
        fix = f"look at what is there; `{again}` replaces it"
        return Problem(f"somebody else changed the same files meanwhile: {error}", where, fix)
    if not isinstance(error, HfHubHTTPError):
        return Problem(
            f"the push was not possible: {_first_line(str(error))}", where, f"mend that, then {again}"
        )
    status = error.response.status_code
    said = _first_line(error.server_message or "") or "no reason given"
    if status == 401:
        what = f"the Hub does not accept the token (401: {said})"
        fix = f"export HF_TOKEN with a valid one, or run `hf auth login`; then {again}"
    elif status == 403:
        what = f"the token may not write to {request.repo} (403: {said})"
        fix = f"use a token with write permission there, or `{again} --repo OWNER/NAME`"
    elif status == 404:
        branch = request.revision or constants.DEFAULT_REVISION
        what = f"the Hub has no {request.repo} with branch {branch} (404: {said})"
        fix = f"check hub_model_id and hub_revision, and that the token may see them; then {again}"
    else:
        what = f"the Hub refuses the push ({status}: {said})"
        fix = f"mend that, then {again}"
    return Problem(what, where, fix)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
