"""The Hub has what the run reads, and takes what it pushes: names, terms, the token and what that may do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sft.check.finding import Finding, error, note, warning
from sft.check.needs import data_needs, is_data_on_hub, model_needs
from sft.check.subject import Subject
from sft.errors import ExitCode, UserError

if TYPE_CHECKING:
    from sft.check.asked_hub import AskedHub

NAME = "the Hub"
COST = "two requests for a push, one or two for each model and data set that is not here; 6 s at most"
NEEDS = "the network"

LOGIN = "`hf auth login`, or export HF_TOKEN=..."
LATER = "with --no-check the run trains, and `sft push` delivers it later"
TOKENS = "https://huggingface.co/settings/tokens"


def make_ready(subject: Subject) -> None:
    """Import what speaks to the Hub, where there is something to ask."""
    config = subject.config
    if config.launch.offline:
        return
    names = config.training.push_to_hub or any(need.is_on_hub for need in model_needs(config))
    with contextlib.suppress(UserError):  # a mixture that cannot be read, which `look` tells
        names = names or any(map(is_data_on_hub, data_needs(config)))
    if names:
        import sft.check.asked_hub
        import sft.hub.cached
        import sft.hub.refusals  # noqa: F401 - loaded before the threads start


def look(subject: Subject) -> Iterator[Finding]:
    """Ask what can be known before a GPU is. Where the Hub is out of reach, nothing is refused."""
    pushes = subject.config.training.push_to_hub
    if subject.config.launch.offline:
        if pushes:
            yield note(
                "the Hub was not asked (launch.offline): `sft push` delivers the run where there is a network"
            )
        return
    names = list(_wanted(subject))
    if not pushes and not names:
        return
    from sft.check.asked_hub import NoRouteError, UnwellError, hub_of

    endpoint = subject.environment.get("HF_ENDPOINT", "https://")
    if not endpoint.startswith(("http://", "https://")):
        return  # told with the variables
    hub = hub_of(subject.environment)
    if not hub.has_usable_token:
        yield error(
            "the token for the Hub holds blanks or other letters that no token has",
            "HF_TOKEN" if subject.environment.get("HF_TOKEN") else "the login of huggingface_hub",
            f"copy it again from {TOKENS}",
            exit_code=ExitCode.ENVIRONMENT,
        )
        return
    try:
        if pushes:
            yield from _push(subject, hub)
        for name, key, revision, kind in names:
            yield from _source(hub, name, key, revision, kind)
    except NoRouteError as problem:
        yield note(f"the Hub was not asked: no route to it from here ({problem})")
    except UnwellError as problem:
        yield warning(
            f"the Hub was asked, and is not well: {problem}",
            hub.endpoint,
            "try again later, or train with what is here",
        )


def _wanted(subject: Subject) -> Iterator[tuple[str, str, str | None, str]]:
    """Name what the run would fetch: name, key, revision and kind."""
    from sft.hub.cached import snapshot_of, storage_of  # huggingface_hub takes a while to start

    for need in model_needs(subject.config):
        if need.is_on_hub and snapshot_of(need.name, need.revision) is None:
            yield need.name, need.key, need.revision, "model"
    for wanted in data_needs(subject.config):
        if is_data_on_hub(wanted) and not storage_of(wanted.path, "dataset").exists():
            yield wanted.path, wanted.key, None, "data set"


def _push(subject: Subject, hub: AskedHub) -> Iterator[Finding]:
    """Look whether the repository can be made and written to."""
    from huggingface_hub.errors import HfHubHTTPError

    from sft.check.asked_hub import Identity
    from sft.hub.settings import HubSettings

    training = subject.config.training
    where = "push_to_hub"
    if hub.token is None:
        yield _refused("push_to_hub needs a token for the Hub, and there is none", where, f"{LOGIN}; {LATER}")
        return
    try:
        identity = Identity(hub.ask("/api/whoami-v2"))
    except HfHubHTTPError as refusal:
        status = refusal.response.status_code
        source = "HF_TOKEN" if subject.environment.get("HF_TOKEN") else "the login of huggingface_hub"
        yield _refused(
            f"the Hub does not accept the token ({status}): it has expired, was revoked, or is not whole",
            source,
            f"make one at {TOKENS}; then {LOGIN}; {LATER}",
        )
        return
    name = HubSettings(repo=training.hub_model_id).repo_name(Path(subject.config.run.output_dir))
    namespace, _, rest = name.rpartition("/")
    namespace = namespace or identity.name
    repository, key = (
        f"{namespace}/{rest}",
        "hub_model_id" if training.hub_model_id else "push_to_hub",
    )
    if namespace.lower() != identity.name.lower():
        role = identity.role_in(namespace)
        if role is None:
            yield _refused(
                f"the token is {identity.name}'s, who is not in {namespace}: it may not write to {repository}",
                key,
                f"set hub_model_id: {identity.name}/{rest}, or use a token of a member of {namespace}; {LATER}",
            )
            return
        if role == "read":
            yield _refused(
                f"{identity.name} may only read in {namespace}, so not write to {repository}",
                key,
                f"ask an admin of {namespace} for the role contributor or write, or set hub_model_id: {identity.name}/{rest}",
            )
            return
    reason = identity.may_not_write(namespace, repository)
    if reason is not None:
        fix = f"give it the write permission, or make another, at {TOKENS}; {LATER}"
        yield _refused(f"{identity.token_name} may not write to {repository}: {reason}", key, fix)
        return
    yield from _existing(subject, hub, repository)


def _existing(subject: Subject, hub: AskedHub, repository: str) -> Iterator[Finding]:
    """Look at a repository that is there already. One that is not will be made."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        found = hub.ask(f"/api/models/{repository}")
    except HfHubHTTPError:
        return
    if subject.config.training.hub_private_repo and found.get("private") is False:
        yield _refused(
            f"{repository} is there already, and public: hub_private_repo counts only for one that is made",
            "hub_private_repo",
            f"make it private at {hub.endpoint}/{repository}/settings, or choose another hub_model_id",
        )
    renamed = str(found.get("id") or repository)
    if renamed.lower() != repository.lower():
        yield warning(
            f"{repository} was renamed to {renamed} on the Hub: pushes go there",
            "hub_model_id",
            f"set hub_model_id: {renamed}",
        )


def _source(hub: AskedHub, name: str, key: str, revision: str | None, kind: str) -> Iterator[Finding]:
    """Look whether a model or a data set is there, and open to this token."""
    from urllib.parse import quote

    from huggingface_hub.errors import HfHubHTTPError

    from sft.hub.refusals import gated, problem_of

    place = "models" if kind == "model" else "datasets"
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    try:
        found = hub.ask(f"/api/{place}/{name}{at}")
        if found.get("gated"):
            prefix = "" if kind == "model" else "datasets/"
            file = "config.json" if kind == "model" else "README.md"
            hub.reach("HEAD", f"/{prefix}{name}/resolve/{quote(revision or 'main', safe='')}/{file}")
    except HfHubHTTPError as refusal:
        status = refusal.response.status_code
        code = refusal.response.headers.get("X-Error-Code")
        if code == "EntryNotFound":
            return  # the file is not there, but the way to it is open
        if code == "GatedRepo":
            problem = gated(name, key, kind)
        elif status == 401 and hub.token is not None and "Invalid" in (refusal.server_message or ""):
            yield _refused(
                "the Hub does not accept the token, and then not even gives what is public",
                "HF_TOKEN or the login of huggingface_hub",
                f"unset it, or make another at {TOKENS}",
            )
            return
        else:
            told = problem_of(refusal, name, key, revision, kind)
            if told is None:
                return
            problem = told
        yield error(problem.what, problem.where, problem.fix, exit_code=ExitCode.ENVIRONMENT)


def _refused(what: str, where: str, fix: str) -> Finding:
    return error(what, where, fix, exit_code=ExitCode.ENVIRONMENT)
