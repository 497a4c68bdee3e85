"""Which layers of a model a cut keeps, and the configuration of what is left. Pure: names and numbers, no file.

The first layer of each kind is kept. Layers are of one kind where their tensors have the same names, shapes and types,
and what the configuration lists for each layer is the same: so one dense layer and one of experts, one with sliding
attention and one with full.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft.plan.adapter import is_target
from sft.plan.weights import Tensor

COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""How configurations call the number of layers."""
FROM_FRONT = ("first_k_dense_replace", "num_dense_layers")
"""Numbers of layers at the front."""
FROM_BACK = ("num_kv_shared_layers",)
"""Numbers of layers at the back."""
BEYOND = ("num_nextn_predict_layers", "mtp_num_hidden_layers")
"""Numbers of layers behind the last one, which predict further tokens and are not trained here."""
INDICES = re.compile(r"(?:^|_)(?:layers|idx|idxs|indices|indexes)$")
"""Lists of layers' numbers, such as mlp_only_layers."""
PERIODS = re.compile(r"_(?:step|pattern|interval|period|freq|frequency)$")
"""Numbers by which the kind of a layer follows from its place, such as decoder_sparse_step."""
OF_ATTENTION = re.compile(r"sliding|attention|attn")
"""Those of them that layer_types stands for."""
OTHER_TOWERS = re.compile(r"vision|visual|image|audio|speech|video")
NUMBERED = re.compile(r"^(.*?\.)(\d+)\.(.+)$")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
EXPERTS_A_TOKEN = ("num_experts_per_tok", "experts_per_token", "num_experts_per_token", "moe_topk", "moe_k")
GROUPS_OF_EXPERTS = ("n_group", "topk_group")
LEAST_EXPERTS = 8
EXPERT = re.compile(r"(?:^|\.)experts\.(\d+)\.")
OF_EXPERTS = re.compile(r"(?:^|\.)(?:mlp|moe|block_sparse_moe|feed_forward|ffn|experts|router)\.(?!shared)")


class CannotCutError(Exception):
    """The model cannot be cut; the message says why."""


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a model, and those of them that are kept.

    Attributes:
        prefix: what stands before a layer's number in the names of its tensors: `model.layers.`.
        experts: how many experts a layer keeps; None for all.
    """

    prefix: str
    count: int
    kept: tuple[int, ...]
    experts: int | None = None

    def place(self, name: str) -> tuple[int, str] | None:
        """Return the number of the layer that a tensor belongs to, and its name there; None for what is in none."""
        found = NUMBERED.match(name)
        return (int(found[2]), found[3]) if found and found[1] == self.prefix else None

    def renamed(self, name: str) -> str | None:
        """Return a tensor's name in the cut; None where it is left out."""
        place = self.place(name)
        if place is None:
            return name
        layer, rest = place
        if layer not in self.kept or self._is_left_out(rest):
            return None
        return f"{self.prefix}{self.kept.index(layer)}.{rest}"

    def shape(self, tensor: Tensor, experts: int | None) -> tuple[int, ...]:
        """Return a tensor's shape in the cut: where it is one of all experts, the first of them.

        Args:
            experts: how many the model has.
        """
        place = self.place(tensor.name)
        if place is None or self.experts is None or not OF_EXPERTS.search(place[1]):
            return tensor.shape
        ones = next((axis for axis, size in enumerate(tensor.shape) if size != 1), 0)
        is_of_all = tensor.shape[ones : ones + 1] == (experts,) and not EXPERT.search(place[1])
        rest = tensor.shape[ones + 1 :]
        return (*tensor.shape[:ones], self.experts, *rest) if is_of_all else tensor.shape

    def _is_left_out(self, rest: str) -> bool:
        expert = EXPERT.search(rest)
        return expert is not None and self.experts is not None and int(expert[1]) >= self.experts


def find_layers(tensors: Sequence[Tensor], config: Mapping[str, Any], *, most_bytes: int) -> Layers:
    """Choose the layers to keep.

    Args:
        config: the whole of config.json.
        most_bytes: where the kept layers are larger, experts are left out.

    Raises:
        CannotCutError: the configuration does not say how many layers there are, or no tensors are named as theirs.
    """
    holder = language_model(config)
    count = next((holder[key] for key in COUNTS if isinstance(holder.get(key), int)), 0)
    if count < 1:
        raise CannotCutError(f"its config.json has none of {', '.join(COUNTS)}")
    layers = Layers(_prefix(tensors, count), count, tuple(range(count)))
    kinds: dict[int, set[tuple[str, tuple[int, ...], str]]] = {layer: set() for layer in range(count)}
    sizes = dict.fromkeys(range(count), 0.0)
    for tensor in tensors:
        place = layers.place(tensor.name)
        if place is not None and place[0] < count:
            kinds[place[0]].add((place[1], tensor.shape, tensor.dtype))
            sizes[place[0]] += tensor.count * tensor.bytes_each
    listed = [value for _, value in _lists(holder, count)]
    signatures = [(frozenset(kinds[layer]), *(repr(of[layer]) for of in listed)) for layer in range(count)]
    kept = tuple(
        sorted({signature: layer for layer, signature in reversed(list(enumerate(signatures)))}.values())
    )
    if kept != tuple(range(len(kept))) and _goes_by_place(holder):
        kept = tuple(range(kept[-1] + 1))
    large = sum(sizes[layer] for layer in kept) > most_bytes
    return Layers(layers.prefix, count, kept, _fewer_experts(holder) if large else None)


def cut_config(config: Mapping[str, Any], layers: Layers) -> dict[str, Any]:
    """Return config.json for the kept layers."""
    whole = {**config}
    if isinstance(config.get("text_config"), dict):
        whole["text_config"] = _cut(config["text_config"], layers)
    return _cut(whole, layers)


def experts_of(config: Mapping[str, Any]) -> int | None:
    """Return how many experts a layer has; None without."""
    holder = language_model(config)
    return next((holder[key] for key in EXPERTS if isinstance(holder.get(key), int)), None)


def language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a configuration that counts the layers."""
    text = config.get("text_config")
    return text if isinstance(text, dict) and any(key in text for key in COUNTS) else config


def targets_in_cut(
    targets: str | list[str] | None, before: Iterable[str], after: Iterable[str]
) -> str | list[str] | None:
    """Return LoRA's targets for the cut: one that names layers which are gone becomes the names of its modules.

    What matches nothing in the model itself is left as it is, and is refused as it would be there.

    Args:
        before: the names of the model's tensors; after: of the cut's.
    """
    if targets is None or targets == "all-linear":
        return targets
    olds, news = ([name.removesuffix(".weight") for name in names] for names in (before, after))
    given = [targets] if isinstance(targets, str) else targets
    if given == ["all-linear"]:
        return targets
    found: list[str] = []
    for target in given:
        hit = [path for path in olds if _matches(target, path, len(given) == 1)]
        gone = bool(hit) and not any(_matches(target, path, len(given) == 1) for path in news)
        found += sorted({path.rpartition(".")[2] for path in hit}) if gone else [target]
    return targets if found == given else list(dict.fromkeys(found))


def _matches(target: str, path: str, is_only_one: bool) -> bool:
    """Whether a module is a target. Of several, each is the end of a name; a single one may be a pattern."""
    return is_target(path, target) if is_only_one else path == target or path.endswith(f".{target}")


def _prefix(tensors: Iterable[Tensor], count: int) -> str:
    """Find what the names of all layers' tensors begin with.

    Raises:
        CannotCutError: nothing does, or several things do.
    """
    numbers: dict[str, set[int]] = {}
    for tensor in tensors:
        found = NUMBERED.match(tensor.name)
        if found and not OTHER_TOWERS.search(found[1]):
            numbers.setdefault(found[1], set()).add(int(found[2]))
    fitting = [prefix for prefix, seen in numbers.items() if seen.issuperset(range(count))]
    if len(fitting) != 1:
        many = " and ".join(fitting) if fitting else "no tensors"
        raise CannotCutError(f"{many} are numbered as its {count} layers")
    return fitting[0]


def _lists(holder: Mapping[str, Any], count: int) -> list[tuple[str, list[Any]]]:
    """Find the lists with a value for each layer."""
    return [
        (key, value)
        for key, value in holder.items()
        if isinstance(value, list)
        and len(value) == count
        and not key.endswith(("_id", "_ids", "architectures"))
        and not _are_indices(key, value, count)
        and all(isinstance(item, (str, int, float)) for item in value)
    ]


def _are_indices(key: str, value: Any, count: int) -> bool:
    """Whether a list names layers by their numbers: all different, in order."""
    if not (INDICES.search(key) and isinstance(value, list) and value):
        return False
    is_whole = all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item < count for item in value
    )
    return is_whole and all(one < other for one, other in itertools.pairwise(value))


def _goes_by_place(holder: Mapping[str, Any]) -> bool:
    """Whether the kind of a layer follows from its number by a period, which only a whole beginning keeps."""
    has_types = isinstance(holder.get("layer_types"), list)
    return any(
        PERIODS.search(key)
        and isinstance(value, int)
        and value > 1
        and not (has_types and OF_ATTENTION.search(key))
        for key, value in holder.items()
    )


def _fewer_experts(holder: Mapping[str, Any]) -> int | None:
    has = next((holder[key] for key in EXPERTS if isinstance(holder.get(key), int)), 0)
    used = next((holder[key] for key in EXPERTS_A_TOKEN if isinstance(holder.get(key), int)), 1)
    least = max(LEAST_EXPERTS, used)
    return least if has > least else None


def _cut(holder: Mapping[str, Any], layers: Layers) -> dict[str, Any]:
    count, kept = layers.count, layers.kept
    if not any(holder.get(key) == count for key in COUNTS):
        return dict(holder)
    cut = dict(holder)
    for key, value in _lists(holder, count):
        cut[key] = [value[layer] for layer in kept]
    for key, value in holder.items():
        if key in COUNTS and value == count:
            cut[key] = len(kept)
        elif key in FROM_FRONT and isinstance(value, int):
            cut[key] = sum(layer < value for layer in kept)
        elif key in FROM_BACK and isinstance(value, int):
            cut[key] = sum(layer >= count - value for layer in kept)
        elif key in BEYOND:
            cut[key] = 0
        elif _are_indices(key, value, count):
            cut[key] = [kept.index(layer) for layer in value if layer in kept]
        elif layers.experts is not None and key in EXPERTS and isinstance(value, int):
            cut[key] = layers.experts
        elif layers.experts is not None and key in GROUPS_OF_EXPERTS and isinstance(value, int):
            cut[key] = 1
    return cut
