"""What the Hub has told of models that are not on this machine: their configurations, and the tensors of their weights.

```
<cache>/shapes/<Hub>/<OWNER--NAME>/
  <commit>.json         config.json, and name, shape and type of every tensor; a commit never changes
  refs/<revision>.txt   the commit that a branch or a tag led to when it was last asked for
```
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sft.config.run import RunConfig
from sft.data.cache import default_cache
from sft.files import write_whole
from sft.hub.settings import without_password
from sft.plan.model_shape import of_language_model
from sft.plan.read_shape import read_shape
from sft.plan.shape import Shape
from sft.plan.weights import Tensor

COMMIT = re.compile(r"[0-9a-f]{40}")
FORMAT = 1
"""Of the files; others are not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubModel:
    """A model on the Hub at one commit.

    Attributes:
        config: its config.json as it is; empty where it has none.
        tensors: of all its weights; None where they are pickles, which have no headers.
        headers: how many were read for that, and `read_bytes` of everything.
    """

    name: str
    commit: str
    config: dict[str, Any]
    tensors: tuple[Tensor, ...] | None = field(repr=False)
    headers: int
    read_bytes: int

    @property
    def shape(self) -> Shape | None:
        """Its shape; None where it is no decoder that the kit knows."""
        return read_shape(of_language_model(self.config), self.tensors)

    @property
    def called(self) -> str:
        """Name it with the beginning of its commit."""
        return f"{self.name} at {self.commit[:8]}"

    @property
    def line(self) -> str:
        """Say what was read."""
        if self.tensors is None:
            return f"shapes of {self.called} from the Hub: config.json alone, for its weights are pickles without headers"
        headers = "1 header" if self.headers == 1 else f"{self.headers} headers"
        return f"shapes of {self.called} from the Hub: {headers}, {self.read_bytes / 1024:,.0f} KiB read, no weights"


class Remembered:
    """Models by name and commit, in one directory."""

    def __init__(self, cache: Path, endpoint: str) -> None:
        self.directory = cache / "shapes" / quote(without_password(endpoint).partition("//")[2], safe="")

    def commit_of(self, name: str, revision: str | None) -> str | None:
        """Return the commit that a revision led to when it was asked for; a commit leads to itself."""
        if revision is not None and COMMIT.fullmatch(revision):
            return revision
        with suppress(OSError, ValueError):
            found = self._ref(name, revision).read_text(encoding="utf-8").strip()
            return found if COMMIT.fullmatch(found) else None
        return None

    def find(self, name: str, commit: str | None) -> HubModel | None:
        """Return a model at a commit; None where nothing is remembered of it, or nothing that can be read."""
        if commit is None:
            return None
        try:
            kept = json.loads(self._place(name, commit).read_text(encoding="utf-8"))
            if (kept["format"], kept["commit"]) != (FORMAT, commit):
                return None
            tensors = kept["tensors"]
            return HubModel(
                name=name,
                commit=commit,
                config=dict(kept["config"]),
                tensors=None if tensors is None else tuple(Tensor(n, tuple(s), d) for n, s, d in tensors),
                headers=kept["headers"],
                read_bytes=kept["read_bytes"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, model: HubModel) -> None:
        """Remember a model; where it cannot be written it is asked for again."""
        tensors = model.tensors
        kept = {
            "format": FORMAT,
            "commit": model.commit,
            "headers": model.headers,
            "read_bytes": model.read_bytes,
            "config": model.config,
            "tensors": None if tensors is None else [[one.name, one.shape, one.dtype] for one in tensors],
        }
        with suppress(OSError):
            write_whole(self._place(model.name, model.commit), json.dumps(kept))

    def point(self, name: str, revision: str | None, commit: str) -> None:
        """Remember where a revision leads to."""
        if revision is None or not COMMIT.fullmatch(revision):
            with suppress(OSError):
                write_whole(self._ref(name, revision), commit)

    def _place(self, name: str, commit: str) -> Path:
        return self.directory / name.replace("/", "--") / f"{commit}.json"

    def _ref(self, name: str, revision: str | None) -> Path:
        return self._place(name, "x").parent / "refs" / f"{quote(revision or 'main', safe='')}.txt"


def remembered_of(config: RunConfig, environment: Mapping[str, str]) -> Remembered:
    """Find what is remembered for a run: beside the prepared data."""
    cache = config.kit.data_cache
    return Remembered(Path(cache) if cache else default_cache(), endpoint_of(environment))


def endpoint_of(environment: Mapping[str, str]) -> str:
    """Return the address of the Hub, as huggingface_hub finds it."""
    from huggingface_hub import constants

    return environment.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
