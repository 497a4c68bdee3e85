"""Broken setups: the Hub, by a server on the loopback, and W&B."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.check.corpus.bench import Bench, Broken
from tests.loopback.hub import TOKEN, Hub
from tests.loopback.hub_store import USER
from tests.loopback.wandb import API_KEY, WandbServer

ERRORS = "https://huggingface.co/docs/huggingface_hub/package_reference/utilities"
TOKENS = "https://huggingface.co/docs/hub/security-tokens"


def on_hub(bench: Bench, *, token: str | None = TOKEN) -> Hub:
    """Lead a case to an empty Hub of its own."""
    hub = bench.stack.enter_context(Hub())
    bench.variable("HF_ENDPOINT", hub.url)
    bench.variable("HF_HUB_OFFLINE", "0")
    if token is not None:
        bench.variable("HF_TOKEN", token)
    return hub


def pushes(
    *,
    token: str | None = TOKEN,
    repo: str = f"{USER}/chat",
    access: dict[str, Any] | None = None,
    **identity: Any,
) -> Callable[[Bench], Hub]:
    """Return what pushes to a repository.

    Args:
        access: what the Hub says of the token.
    """

    def build(bench: Bench) -> Hub:
        hub = on_hub(bench, token=token)
        hub.identity |= identity
        if access is not None:
            hub.identity["auth"] = {
                "type": "access_token",
                "accessToken": {"displayName": "laptop", **access},
            }
        bench.settings |= {"push_to_hub": True, "hub_model_id": repo}
        return hub

    return build


def scoped(*permissions: str, name: str = USER) -> dict[str, Any]:
    """Describe a fine-grained token."""
    entity = {"_id": "0", "type": "user", "name": name}
    return {
        "role": "fineGrained",
        "fineGrained": {"global": [], "scoped": [{"entity": entity, "permissions": list(permissions)}]},
    }


def no_login(bench: Bench) -> None:
    from huggingface_hub import constants

    pushes(token=None)(bench)
    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        bench.monkeypatch.setattr(constants, name, str(bench.directory / "nowhere"))


def public_already(bench: Bench) -> None:
    hub = pushes()(bench)
    hub.create({"name": "chat", "visibility": "public"})
    bench.settings["hub_private_repo"] = True


def model(
    name: str, *, make: bool = False, gated: bool = False, **settings: Any
) -> Callable[[Bench], object]:
    """Return what trains a model of the Hub."""

    def build(bench: Bench) -> None:
        hub = on_hub(bench)
        if make:
            hub.create({"name": name.split("/")[1], "organization": name.split("/")[0]})
            hub.add_by_hand(name, "main", "config.json", json.dumps({"model_type": "llama"}).encode())
        hub.gated |= {name} if gated else set()
        bench.settings |= {"model_name_or_path": name, **settings}

    return build


def data_that_is_not_there(bench: Bench) -> None:
    on_hub(bench)
    bench.settings["dataset_name"] = "team/chats"


def hub_that_is_ill(bench: Bench) -> None:
    hub = pushes()(bench)
    hub.fault("whoami", status=503)


def proxy_page(bench: Bench) -> None:
    """What a login portal answers is no JSON object."""
    hub = pushes()(bench)
    hub.identity = ["log in"]  # type: ignore[assignment]


def reported(key: str | None = API_KEY, **variables: str) -> Callable[[Bench], object]:
    """Return what reports to W&B, without a login on this machine."""

    def build(bench: Bench) -> None:
        home = bench.directory / "home"
        home.mkdir()
        for name, value in {"HOME": str(home), "WANDB_MODE": "online", **variables}.items():
            bench.variable(name, value)
        for name in ("NETRC", "WANDB_API_KEY"):
            bench.monkeypatch.delenv(name, raising=False)
        if key is not None:
            bench.variable("WANDB_API_KEY", key)
        bench.monkeypatch.chdir(Path(home))
        bench.settings["report_to"] = "wandb"

    return build


def key_that_was_revoked(bench: Bench) -> None:
    server = WandbServer()
    bench.stack.callback(server.close)
    server.refusing = True
    bench.variable("HF_HUB_OFFLINE", "0")
    reported(WANDB_BASE_URL=server.url)(bench)


BROKEN = (
    Broken(
        "a push without a token",
        "https://github.com/huggingface/deep-rl-class/issues/190",
        "push_to_hub needs a token for the Hub, and there is none",
        "the Hub",
        no_login,
    ),
    Broken(
        "a token that was revoked",
        TOKENS,
        "the Hub does not accept the token (401)",
        "the Hub",
        pushes(token="hf_revoked"),
    ),
    Broken(
        "a token copied with its neighbour",
        TOKENS,
        "the token for the Hub holds blanks",
        "the Hub",
        pushes(token="hf_one hf_two"),
    ),
    Broken(
        "a token for reading",
        "https://github.com/huggingface/huggingface_hub/issues/2002",
        "laptop may not write to tester/chat: it is a token for reading",
        "the Hub",
        pushes(access={"role": "read"}),
    ),
    Broken(
        "a fine-grained token that may only read",
        "https://github.com/huggingface/huggingface_hub/issues/2955",
        "laptop may not write to tester/chat: it is fine-grained, and has no write permission for tester",
        "the Hub",
        pushes(access=scoped("repo.content.read")),
    ),
    Broken(
        "a fine-grained token for another organisation",
        "https://github.com/huggingface/optimum/issues/1836",
        "laptop may not write to team/chat: it is fine-grained, and has no write permission for team",
        "the Hub",
        pushes(repo="team/chat", access=scoped("repo.write", name=USER)),
    ),
    Broken(
        "an organisation of others",
        "https://github.com/OpenCodeInterpreter/OpenCodeInterpreter/issues/13",
        "the token is tester's, who is not in others: it may not write to others/chat",
        "the Hub",
        pushes(repo="others/chat"),
    ),
    Broken(
        "an organisation in which one may read",
        "https://github.com/huggingface/community-events/issues/25",
        "tester may only read in team, so not write to team/chat",
        "the Hub",
        pushes(repo="team/chat", orgs=[{"name": "team", "roleInOrg": "read"}]),
    ),
    Broken(
        "a private repository that is public already",
        "https://huggingface.co/docs/hub/repositories-settings",
        "tester/chat is there already, and public",
        "the Hub",
        public_already,
    ),
    Broken(
        "a model that the Hub has not",
        ERRORS,
        "the Hub has no model team/absent",
        "the Hub",
        model("team/absent"),
    ),
    Broken(
        "a revision that the model has not",
        ERRORS,
        "the model team/base has no revision v9",
        "the Hub",
        model("team/base", make=True, model_revision="v9"),
    ),
    Broken(
        "a gated model",
        "https://huggingface.co/docs/hub/models-gated",
        "the model team/gated is gated, and the account of the token has no access to it",
        "the Hub",
        model("team/gated", make=True, gated=True),
    ),
    Broken(
        "a data set that the Hub has not",
        ERRORS,
        "the Hub has no data set team/chats",
        "the Hub",
        data_that_is_not_there,
    ),
    Broken(
        "a Hub that is not well",
        "https://github.com/huggingface/transformers/issues/10067",
        "the Hub was asked, and is not well: it answers 503",
        "the Hub",
        hub_that_is_ill,
    ),
    Broken(
        "a proxy's page in place of the Hub",
        "https://github.com/huggingface/transformers/issues/10067",
        "what answers at its address is no Hub",
        "the Hub",
        proxy_page,
    ),
    Broken(
        "a key for W&B that is cut short",
        "https://github.com/LeslieTrue/SFTvsRL/issues/1",
        "the key for W&B is not whole: it has 2 letters of 40 or more",
        "W&B",
        reported("ab"),
    ),
    Broken(
        "a key for W&B with what stood beside it",
        "https://github.com/wandb/server/issues/75",
        "the key for W&B is not whole: it holds others than letters, digits and _",
        "W&B",
        reported(f"{API_KEY} copied"),
    ),
    Broken(
        "no key for W&B",
        "https://github.com/SCIR-HI/Huatuo-Llama-Med-Chinese/issues/72",
        "report_to wandb, and there is no key for api.wandb.ai",
        "W&B",
        reported(None),
    ),
    Broken(
        "W&B's page in place of its server",
        "https://docs.wandb.ai/guides/track/environment-variables",
        "WANDB_BASE_URL=https://wandb.ai is W&B's page for people",
        "W&B",
        reported(WANDB_BASE_URL="https://wandb.ai"),
    ),
    Broken(
        "a project's name with a slash",
        "https://docs.wandb.ai/guides/track/environment-variables",
        "W&B takes no project named 'team/chat'",
        "W&B",
        reported(WANDB_PROJECT="team/chat"),
    ),
    Broken(
        "a key that W&B does not know",
        "https://github.com/togethercomputer/together-python/pull/64",
        "W&B does not know the key",
        "W&B's server",
        key_that_was_revoked,
    ),
)
