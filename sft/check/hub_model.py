"""Read of a model on the Hub what its shape follows from: config.json, and of every file of weights the header alone.

Not by huggingface_hub's `get_safetensors_metadata`: that leaves the index of the shards in the Hub's cache, where it looks
like the beginning of a download, and takes all of a file from a server that knows no ranges.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any
from urllib.parse import quote

from sft.check.asked_hub import AskedHub, UnwellError
from sft.check.remembered import COMMIT, HubModel, Remembered
from sft.errors import UserError
from sft.hub.wanted import shards_of, weights_entry
from sft.plan.weights import BrokenError, Tensor, header_bytes, parse_header, tensors_of

AT_ONCE = 16
"""Headers that are asked for side by side."""
FIRST_BYTES = 100_000
"""What is read of a file whose header's length nobody knows: of 97 in 100 the whole, says huggingface_hub/hf_api.py."""
BYTES_A_TENSOR = 128
"""What a header has of a tensor beside its name: type, shape, two offsets. Asked for in vain it costs one more request."""
BYTES_BESIDE = 1024
LARGEST_JSON = 64 << 20


class NoWeightsError(Exception):
    """The repository holds no weights that transformers loads."""


def ask(hub: AskedHub, remembered: Remembered, name: str, revision: str | None) -> tuple[HubModel, bool]:
    """Ask the Hub for a model, and remember it.

    Returns:
        The model, and whether it had to be read: one that is remembered at the commit of the revision was not.

    Raises:
        HfHubHTTPError, NoRouteError, UnwellError: as `AskedHub.ask` does.
        BrokenError, NoWeightsError: what is there is no model that can be loaded.
    """
    if revision is not None and COMMIT.fullmatch(revision) and (known := remembered.find(name, revision)):
        return known, False
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    found = hub.ask(f"/api/models/{name}{at}?expand=sha&expand=siblings")
    commit, siblings = found.get("sha"), found.get("siblings")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit) or not isinstance(siblings, list):
        raise UnwellError("what answers at its address is no Hub: it names no commit or no files")
    known = remembered.find(name, commit)
    model = known or _read(hub, name, commit, {str(one.get("rfilename")) for one in siblings})
    if known is None:
        remembered.keep(model)
    remembered.point(name, revision, commit)
    return model, known is None


def _read(hub: AskedHub, name: str, commit: str, files: Collection[str]) -> HubModel:
    entry = weights_entry(files)
    if entry is None:
        raise NoWeightsError
    place = f"/{name}/resolve/{commit}/"
    config, read = {}, 0
    if "config.json" in files:
        text = hub.read(f"{place}config.json", LARGEST_JSON)
        config, read = _config(text), len(text)
    if not entry.startswith("model.safetensors"):
        return HubModel(name=name, commit=commit, config=config, tensors=None, headers=0, read_bytes=read)
    expected = {entry: FIRST_BYTES}
    if entry.endswith(".index.json"):
        text = hub.read(f"{place}{entry}", LARGEST_JSON)
        expected, read = _expected(entry, text), read + len(text)
        if absent := sorted(expected.keys() - set(files)):
            raise BrokenError(f"{absent[0]} is not there, which its {entry} lists")
    with ThreadPool(min(AT_ONCE, len(expected))) as pool:  # its threads are daemons
        headers = pool.starmap(_header, [(hub, place, file, size) for file, size in expected.items()])
    return HubModel(
        name=name,
        commit=commit,
        config=config,
        tensors=tuple(tensor for tensors, _ in headers for tensor in tensors),
        headers=len(headers),
        read_bytes=read + sum(size for _, size in headers),
    )


def _config(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BrokenError("config.json is broken") from None
    return found if isinstance(found, dict) else {}


def _expected(index: str, text: bytes) -> dict[str, int]:
    """Return how many bytes of each shard its header should fit into, in the order in which they are read."""
    try:
        expected = dict.fromkeys(shards_of(index, text.decode()), 8 + BYTES_BESIDE)
    except (UserError, UnicodeDecodeError):
        raise BrokenError(f"{index} is broken") from None
    for tensor, shard in json.loads(text)["weight_map"].items():
        expected[shard] += len(tensor) + BYTES_A_TENSOR
    return expected


def _header(hub: AskedHub, place: str, file: str, expected: int) -> tuple[Sequence[Tensor], int]:
    """Read the header of one file, in one request or two; return its tensors, and how many bytes were read."""
    path = place + quote(file)
    found = hub.read(path, expected, 0)
    length = header_bytes(file, found[:8])
    if 8 + length > len(found):
        found += hub.read(path, 8 + length - len(found), len(found))
    return list(tensors_of(parse_header(file, found[8 : 8 + length]))), len(found)
