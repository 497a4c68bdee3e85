"""W&B's server answers, and takes the key."""

from __future__ import annotations

from collections.abc import Iterator

from sft.check.checks.wandb_key import is_reported
from sft.check.finding import Finding, note, warning
from sft.check.subject import Subject
from sft.report.network import DEFAULT_BASE_URL, wandb_offline

NAME = "W&B's server"
COST = "one connection, and one question with WANDB_API_KEY; 7 s at most"
NEEDS = "the network"

SECONDS = 4.0
WHO = '{"operationName": "Viewer", "query": "query Viewer { viewer { id } }", "variables": {}}'


def make_ready(subject: Subject) -> None:
    """Import the HTTP client, where there is a server to ask."""
    if is_reported(subject) and wandb_offline(subject.environment, route=False) is None:
        import httpx2  # noqa: F401 - loaded before the threads start


def look(subject: Subject) -> Iterator[Finding]:
    """Ask the server who the key belongs to. One that cannot be reached gets the run later."""
    environment = subject.environment
    if not is_reported(subject) or subject.config.launch.offline:
        return
    if wandb_offline(environment, route=False) is not None:
        return  # told with the key
    url = (environment.get("WANDB_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        return
    offline = wandb_offline(environment)
    if offline is not None:
        yield note(f"W&B is out of reach from here ({offline.reason}): `sft sync` brings the run there later")
        return
    key = environment.get("WANDB_API_KEY")
    if key is None:
        return  # from a login, which wandb has tried
    import httpx2

    try:
        answer = httpx2.post(
            f"{url}/graphql",
            content=WHO,
            headers={"Content-Type": "application/json"},
            auth=("api", key),
            timeout=SECONDS,
        )
        is_known = answer.status_code not in (401, 403)
        if answer.status_code == 200:
            is_known = ((answer.json() or {}).get("data") or {}).get("viewer") is not None
    except (httpx2.HTTPError, ValueError):
        return
    if not is_known:
        yield warning(
            f"W&B does not know the key: {url} gets nothing until `sft sync` brings it there with another one",
            "WANDB_API_KEY",
            "copy it again from https://wandb.ai/authorize, and export WANDB_API_KEY; or set report_to: none",
        )
