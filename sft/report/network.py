"""Decide whether W&B can be used: its mode, its key, a way to its server. Imports no wandb.

The key is only looked for, where the wandb library looks for it; it is neither returned nor kept.
"""

from __future__ import annotations

import configparser
import netrc
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_BASE_URL = "https://api.wandb.ai"
CONNECT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Offline:
    """Why W&B cannot be used here, and what would change it."""

    reason: str
    fix: str


def wandb_offline(
    environment: Mapping[str, str], base_url: str | None = None, *, route: bool = True
) -> Offline | None:
    """Return why W&B is offline, or None when it can be used.

    Args:
        environment: WANDB_MODE, WANDB_BASE_URL, WANDB_API_KEY, NETRC and the proxy variables are read.
        base_url: the server that the run was started with, if any; it wins.
        route: try whether the server can be reached, for at most CONNECT_SECONDS.
    """
    mode = environment.get("WANDB_MODE") or _setting(environment, "mode") or "online"
    if mode in ("offline", "dryrun", "disabled"):
        return Offline(f"WANDB_MODE={mode}", "WANDB_MODE=online")
    url = base_url or environment.get("WANDB_BASE_URL") or _setting(environment, "base_url")
    url = url or DEFAULT_BASE_URL
    if not _has_key(environment, url):
        host = urlsplit(url).netloc
        return Offline(f"no key for {host}", "run `wandb login`, or set WANDB_API_KEY")
    return _no_route(environment, url) if route else None


def _has_key(environment: Mapping[str, str], url: str) -> bool:
    """Look for a key as wandb.sdk.lib.wbauth does: environment, netrc, settings files."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = Path(environment.get("HOME", "~")).expanduser()
    given = environment.get("NETRC")
    path = Path(given).expanduser() if given else home / ".netrc"
    try:
        entry = netrc.netrc(path).authenticators(urlsplit(url).netloc)
    except (OSError, netrc.NetrcParseError):
        entry = None
    return bool(entry and entry[2]) or bool(_setting(environment, "api_key"))


def _setting(environment: Mapping[str, str], key: str) -> str | None:
    """Return a value of wandb's settings files; the one in the working directory wins."""
    home = Path(environment.get("HOME", "~")).expanduser()
    system = Path(environment.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb")
    workspace = Path(environment.get("WANDB_DIR") or ".") / "wandb"
    files = configparser.ConfigParser(interpolation=None)
    try:
        files.read([system / "settings", workspace / "settings"], encoding="utf-8")
    except (OSError, configparser.Error):
        return None
    return files.get("default", key, fallback=None)


def _no_route(environment: Mapping[str, str], url: str) -> Offline | None:
    host, port = _address(url)
    proxy = _proxy(environment, url)
    if proxy:
        host, port = _address(proxy)
        if _answers(host, port):
            return None
        return Offline(f"no route to the proxy {host}:{port}", "check HTTPS_PROXY, or run this elsewhere")
    if _answers(host, port):
        return None
    return Offline(f"no route to {host}:{port}", "run this where there is a network")


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _proxy(environment: Mapping[str, str], url: str) -> str | None:
    """Return the proxy that wandb would use for a URL; like wandb's, ours never proxies this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == "localhost" or host.startswith("127.") or host == "::1":
        return None
    import urllib.request  # which brings an HTTP client along

    lower = {name.lower(): value for name, value in environment.items() if value}
    if urllib.request.proxy_bypass_environment(host, {"no": lower.get("no_proxy", "")}):  # type: ignore[attr-defined]
        return None
    return lower.get(f"{parts.scheme}_proxy")


def _answers(host: str, port: int) -> bool:
    """Try one TCP connection. In a thread, since looking up a name can hang far longer than a connect."""
    connected: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
            connected.append(True)
        except OSError:
            connected.append(False)

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_SECONDS)
    return connected == [True]
