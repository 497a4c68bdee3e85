"""Why something could not be fetched from the Hub, told as what, where and the fix."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sft.errors import ExitCode, Problem, UserError
from sft.hub.client import TryAgainError
from sft.hub.fetch import SilentError
from sft.hub.settings import without_password

NETWORK = "fetch where there is a network (a login node); behind a proxy, export HTTPS_PROXY; for a mirror, HF_ENDPOINT"
LOGIN = "`hf auth login` or export HF_TOKEN"
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def refusals(name: str, key: str, *, revision: str | None = None, kind: str = "model") -> Iterator[None]:
    """Turn what the library raises into a problem that the user can mend.

    Args:
        key: the key of the run file that named it.
        kind: what people call it: model or data set.

    Raises:
        UserError: with the exit code of the environment.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        problem = problem_of(error, name, key, revision, kind)
        if problem is None:
            raise
        raise UserError.of([_without_token(problem)], exit_code=ExitCode.ENVIRONMENT) from None


def problem_of(error: BaseException, name: str, key: str, revision: str | None, kind: str) -> Problem | None:
    """Tell one error; None for what is no fault of the user's, the network's or the disk's."""
    told = _of_access(error, name, key, revision, kind)
    if told is not None:
        return told
    endpoint = without_password(constants.ENDPOINT)
    if isinstance(error, OfflineModeIsEnabled):
        what = f"the {kind} {name} has to be fetched, and huggingface_hub is told to stay offline"
        return Problem(what, "HF_HUB_OFFLINE in the environment", "unset HF_HUB_OFFLINE for this one command")
    if isinstance(error, TryAgainError):
        state = "is not well" if error.status is not None else "is out of reach"
        fix = "fetch again later: what is whole by now stays" if error.status is not None else NETWORK
        return Problem(f"the Hub {state}: {error}", f"{endpoint}, for the {kind} {name}", fix)
    if isinstance(error, SilentError):
        what = f"the Hub stopped sending in the middle of a file of {name}: {error}"
        return Problem(what, endpoint, "fetch again: what is whole by now stays")
    if isinstance(error, LocalEntryNotFoundError):
        cause = error.__cause__
        if cause is not None and (told := problem_of(cause, name, key, revision, kind)) is not None:
            return told
        return Problem(f"the Hub is out of reach: {_line(error)}", endpoint, NETWORK)
    if isinstance(error, OSError) and not isinstance(error, HfHubHTTPError):
        return _of_disk(error)
    return None


def _of_access(error: BaseException, name: str, key: str, revision: str | None, kind: str) -> Problem | None:
    """Tell what the Hub says of a repository or of who asks for it."""
    if isinstance(error, GatedRepoError):
        return gated(name, key, kind)
    # A mirror's plain 401 is not told apart by the library, and means the same to one who has no token.
    unknown = isinstance(error, HfHubHTTPError) and error.response.status_code == 401 and get_token() is None
    if isinstance(error, RepositoryNotFoundError) or unknown:
        unseen = (
            ", or it is private and no token is set" if get_token() is None else " that the token may see"
        )
        return Problem(
            f"the Hub has no {kind} {name}{unseen}", key, f"check the name; if it is private, {LOGIN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return Problem(
            f"the {kind} {name} has no revision {revision or constants.DEFAULT_REVISION}",
            "model_revision" if kind == "model" else key,
            "name a branch, a tag or a commit that it has",
        )
    if isinstance(error, HFValidationError):
        fix = "name OWNER/NAME, or a path that exists on this machine"
        return Problem(f"{name!r} can be no {kind} on the Hub, and there is nothing at that path", key, fix)
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = _line(error.server_message) if error.server_message else "no reason given"
        if status == 401:
            fix = "export HF_TOKEN with a valid one, or unset it for what is public; or `hf auth login`"
            return Problem(
                f"the Hub does not accept the token (401: {said})", "HF_TOKEN or `hf auth login`", fix
            )
        what = f"the Hub refuses the {kind} {name} ({status}: {said})"
        return Problem(what, key, f"check the name and your access to it; if it is private, {LOGIN}")
    return None


def gated(name: str, key: str, kind: str, *, again: str = "fetch again") -> Problem:
    """Tell that its owner gives access to who has asked for it."""
    who = "no token is set" if get_token() is None else "the account of the token has no access to it"
    page = f"{constants.ENDPOINT}/{'datasets/' if kind != 'model' else ''}{name}"
    fix = f"accept its terms at {page}, then {LOGIN}, and {again}"
    return Problem(f"the {kind} {name} is gated, and {who}", key, fix)


def _of_disk(error: OSError) -> Problem | None:
    where = str(error.filename or constants.HF_HUB_CACHE)
    if error.errno in FULL:
        fix = "make room there, or set HF_HOME to a place that has it; then fetch again"
        return Problem("the disk is full", where, fix)
    if error.errno is not None and error.filename is not None:
        fix = "set HF_HOME to a directory of yours that the compute nodes see"
        return Problem(f"the cache of the Hub cannot be written: {error.strerror}", where, fix)
    # The library's own: sizes that differ, a server that is none.
    fix = "fetch again: what is whole by now stays; if it happens again, look for a proxy in between"
    return Problem(f"the download failed: {_line(error)}", where, fix)


def _without_token(problem: Problem) -> Problem:
    """Servers and proxies have been seen to repeat what they were sent."""
    token = get_token()
    if not token:
        return problem
    what, where, fix = (
        text and text.replace(token, "***") for text in (problem.what, problem.where, problem.fix)
    )
    return Problem(what or "", where, fix)


def _line(text: object) -> str:
    return next((line.strip() for line in str(text).splitlines() if line.strip()), type(text).__name__)
