"""The shape of a decoder: what its memory and its work follow from. `sft/plan/read_shape.py` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sft.plan.weights import Tensor


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer: y = x W + b."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts: of `count`, `chosen` work on a token."""

    count: int
    chosen: int
    intermediate: int
    numbers: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One layer.

    Attributes:
        into_attention: query, key, value; or one that makes all three.
        into_network: gate and up; one that makes both; or up alone.
        norms: how many there are, before or after attention and network; those of query and key are `head_norms`, by size:
            a head's, or that of all heads together.
        window: the number of positions that a token sees, None for all before it.
        other: numbers that no product uses.
        strange: matrices of its attention that are neither: latent attention has such.
    """

    into_attention: tuple[Linear, ...]
    out_of_attention: Linear | None
    into_network: tuple[Linear, ...]
    out_of_network: Linear | None
    norms: int = 2
    head_norms: tuple[int, ...] = ()
    gated: bool = True
    experts: Experts | None = None
    router: Linear | None = None
    window: int | None = None
    other: int = 0
    strange: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether all parts were found that a layer is run with."""
        has_network = self.experts is not None or (
            bool(self.into_network) and self.out_of_network is not None
        )
        return (
            len(self.into_attention) in (1, 3)
            and self.out_of_attention is not None
            and has_network
            and not self.strange
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder.

    Attributes:
        tied: the head is the embedding's matrix.
        dropout: after embedding, attention and network; attention_dropout: within attention.
        turned: how many numbers of a head are turned by their position.
        parallel: attention and network of a layer read the same input.
        numbers: of all weights; of tied ones once.
        stored_bytes: of all weights as they lie on disk.
        assumed: what is not from the files but usual, in words.
    """

    family: str
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    layers: tuple[LayerShape, ...]
    norm: Literal["rms", "layer"]
    tied: bool
    learned_positions: int
    numbers: int
    stored_bytes: int
    tensors: tuple[Tensor, ...] = field(repr=False)
    assumed: tuple[str, ...] = ()
    positions: int | None = None
    dropout: float = 0.0
    attention_dropout: float = 0.0
    parallel: bool = False
    turned: int = 0
    activation: str = "silu"

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the model's buffers: the rotary frequencies, once as they are and once as they were."""
        return self.turned // 2 * 4 * 2
