"""A decoder of a given shape on the tape: its forward."""

from __future__ import annotations

from dataclasses import dataclass

from sft.plan.memory.attention import Attention, attend
from sft.plan.memory.ledger import Parameter
from sft.plan.memory.linear import experts, linear
from sft.plan.memory.operators import Operators
from sft.plan.memory.parameters import Parameters
from sft.plan.memory.sharding import Sharding
from sft.plan.memory.tape import Tensor
from sft.plan.shape import LayerShape

NORMS_AFTER = ("olmo2", "olmo3")
"""Families that norm what attention and network make, in place of what they read."""


@dataclass(slots=True)
class Model(Parameters):
    """A decoder that can be run."""

    sharding: Sharding | None = None

    def forward(self, on: Operators) -> Tensor:
        """Run everything before the head, and return the hidden states of all positions."""
        job, shape, tape = self.job, self.shape, on.tape
        numbers = job.tokens * shape.hidden
        if self.embedding.needs_grad:
            x = tape.op([self.embedding], numbers, self.embedding.width)
        else:
            # Recomputation needs an input that a gradient flows to, so TRL has the embedding's output ask for one.
            x = tape.leaf(numbers, self.embedding.width, needs_grad=job.checkpointing)
        if self.shape.learned_positions:
            x = on.dropout(on.add(x, tape.op([], job.length * shape.hidden, x.width)), shape.dropout)
        tables = self._tables(on, x.width)
        for index, layer in enumerate(shape.layers):

            def run(y: Tensor, index: int = index, layer: LayerShape = layer) -> Tensor:
                if self.sharding is None:
                    y = self._layer(on, index, layer, y, tables)
                else:
                    y = self._sharded(on, index, layer, y, tables, self.sharding)
                if tape.computes_again:
                    on.leave_autocast()  # it is entered anew for each layer that is computed again
                return y

            x = tape.checkpointed(run, x) if job.checkpointing else run(x)
        return self._norm(on, x, self.norm[0], shape.hidden)

    def _tables(self, on: Operators, width: float) -> tuple[Tensor, Tensor] | None:
        if self.shape.learned_positions:
            return None
        cos, sin = (on.tape.op([], self.job.length * self.shape.head_size, 4) for _ in range(2))
        return on.cast(cos, width), on.cast(sin, width)

    def _norm(self, on: Operators, x: Tensor, weight: Parameter, size: int) -> Tensor:
        if self.shape.norm == "layer":
            return on.layer_norm(x, weight, None, size)
        return on.rms_norm(x, weight, size, wide=self.shape.family.startswith("gemma"))

    def _layer(
        self, on: Operators, index: int, layer: LayerShape, x: Tensor, tables: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Run one layer: attention and a feed-forward network, each added to what came in."""
        shape = self.shape
        if shape.family in NORMS_AFTER:
            x = on.add(x, self._normed(on, index, 0, self._attend(on, index, layer, x, tables)))
            return on.add(x, self._normed(on, index, 1, self._network(on, index, layer, x)))
        made = self._attend(on, index, layer, self._normed(on, index, 0, x), tables)
        if layer.norms == 4:
            made = self._normed(on, index, 1, made)
        made = on.dropout(made, shape.dropout)
        if shape.parallel or layer.norms == 1:
            other = self._network(on, index, layer, self._normed(on, index, 1, x))
            return on.add(on.add(on.dropout(other, shape.dropout), made), x)
        x = on.add(x, made)
        del made
        made = self._network(on, index, layer, self._normed(on, index, 2 if layer.norms == 4 else 1, x))
        if layer.norms == 4:
            made = self._normed(on, index, 3, made)
        return on.add(x, on.dropout(made, shape.dropout))

    def _normed(self, on: Operators, index: int, position: int, x: Tensor) -> Tensor:
        """Norm by one of a layer's norms; where there are fewer, by its last, which is shared, or by one without weights."""
        norms = self.norms[index][: self.shape.layers[index].norms]
        if not norms:
            return on.layer_norm(x, None, None, self.shape.hidden)
        return self._norm(on, x, norms[min(position, len(norms) - 1)], self.shape.hidden)

    def _sharded(
        self,
        on: Operators,
        index: int,
        layer: LayerShape,
        x: Tensor,
        tables: tuple[Tensor, Tensor] | None,
        sharding: Sharding,
    ) -> Tensor:
        """Run a layer whose weights are gathered before it and freed behind it, forward and backward."""
        again = on.tape.computes_again
        sharding.gather(index, index - 1 if again else index + 1)
        x = on.tape.mark(x, lambda: sharding.release(index, is_forward=False))
        x = self._layer(on, index, layer, x, tables)
        if not again:
            sharding.release(index, is_forward=True)
        return on.tape.mark(x, lambda: sharding.gather(index, index - 1))

    def _attend(
        self, on: Operators, index: int, layer: LayerShape, x: Tensor, tables: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        shape, job = self.shape, self.job
        form = Attention(
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            length=job.length,
            masked=job.joined or (layer.window is not None and layer.window < job.length),
            kind=job.attention if job.device == "gpu" or not shape.attention_dropout else "math",
            dropout=shape.attention_dropout,
        )
        made = [linear(on, x, self.weights[one.name]) for one in layer.into_attention]
        del x
        if len(made) == 1:
            made = _parts(
                made[0], job.tokens * shape.head_size, (shape.heads, shape.kv_heads, shape.kv_heads)
            )
        query, key, value = made
        del made
        if layer.head_norms:
            norms = self.norms[index][-2:]
            query = self._norm(on, query, norms[0], layer.head_norms[0])
            key = self._norm(on, key, norms[1], layer.head_norms[-1])
        if tables is not None:
            query, key = on.rotate(query, tables), on.rotate(key, tables)
        attended = attend(on, query, key, value, form)
        del query, key, value
        assert layer.out_of_attention is not None
        return linear(on, attended, self.weights[layer.out_of_attention.name])

    def _network(self, on: Operators, index: int, layer: LayerShape, x: Tensor) -> Tensor:
        """Run a layer's feed-forward network: experts, a dense one that all rows go through, or both."""
        if layer.experts is None:
            return self._dense(on, layer, x)
        mixture = layer.experts
        if layer.router is not None:
            scores = linear(on, x, self.weights[layer.router.name])
            on.tape.op([scores], scores.numbers, 4, saves=[scores])
        made = experts(
            on,
            x,
            self.experts[index],
            self.shape.hidden,
            mixture.intermediate,
            mixture.chosen,
            self.shape.activation,
        )
        return made if layer.out_of_network is None else on.add(made, self._dense(on, layer, x))

    def _dense(self, on: Operators, layer: LayerShape, x: Tensor) -> Tensor:
        assert layer.out_of_network is not None
        down, name = self.weights[layer.out_of_network.name], self.shape.activation
        made = [linear(on, x, self.weights[one.name]) for one in layer.into_network[:1]]
        if not layer.gated:
            del x
            return linear(on, on.activation(made.pop(), name), down)
        if len(layer.into_network) == 1:
            del x
            made = _parts(made[0], made[0].numbers // 2, (1, 1))
            active = on.activation(made[0], name)
            return linear(on, on.multiply(active, made[1]), down)
        active = on.activation(made.pop(), name)
        up = linear(on, x, self.weights[layer.into_network[1].name])
        del x
        return linear(on, on.multiply(active, up), down)


def _parts(whole: Tensor, unit: int, shares: tuple[int, ...]) -> list[Tensor]:
    """Look at parts of one buffer, which lives as long as any of them."""
    return [Tensor(whole.buffer, unit * share, whole.width, whole.node) for share in shares]
