"""The parameters of a decoder as one rank computes with them: weights, adapters, what is trained and how it is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sft.plan.adapter import adapted_experts, is_target
from sft.plan.memory.job import Job
from sft.plan.memory.ledger import Parameter
from sft.plan.memory.linear import Adapted, Weight
from sft.plan.memory.quantised import quantised_bytes
from sft.plan.shape import Experts, LayerShape, Linear, Shape

POSITIONS = "learned positions"


@dataclass(slots=True)
class Parameters:
    """The parameters of a model, as one rank computes with them.

    Attributes:
        parameters: all of them, each once; `layers` groups those of a layer.
    """

    shape: Shape
    job: Job
    parameters: list[Parameter] = field(default_factory=list)
    layers: list[list[Parameter]] = field(default_factory=list)
    embedding: Parameter = field(init=False)
    head: Parameter = field(init=False)
    norm: list[Parameter] = field(init=False)
    weights: dict[str, Weight] = field(default_factory=dict)
    experts: dict[int, tuple[Adapted, Adapted]] = field(default_factory=dict)
    norms: list[list[Parameter]] = field(default_factory=list)

    def __post_init__(self) -> None:
        shape = self.shape
        table = (shape.vocabulary, shape.hidden)
        self.embedding = self._parameter(math.prod(table), "embed_tokens", table)
        for index, layer in enumerate(shape.layers):
            before = len(self.parameters)
            self.norms.append([self._parameter(shape.hidden, "norm") for _ in range(layer.norms)])
            self.norms[-1] += [self._parameter(size, "norm") for size in layer.head_norms]
            for one in _linears(layer):
                self.weights[one.name] = self._weight(one)
            if layer.experts is not None:
                self.experts[index] = self._expert_tensors(layer.experts)
            self.layers.append(self.parameters[before:])
        self.norm = [self._parameter(shape.hidden, "norm")]
        self.head = (
            self.embedding
            if shape.tied
            else self._parameter(math.prod(table), "lm_head", table[::-1], is_linear=True)
        )
        if shape.learned_positions:
            places = (shape.learned_positions // shape.hidden, shape.hidden)
            self._parameter(math.prod(places), POSITIONS, places)
        self._add_the_rest()

    def _add_the_rest(self) -> None:
        """Count what no operator above reads by itself: biases of norms, what a family has of its own."""
        own = [parameter for parameter in self.parameters if not parameter.is_adapter]
        numbers = self.shape.numbers - sum(parameter.numbers for parameter in own)
        if numbers > 0:
            tensors = max(1, len(self.shape.tensors) - len(own))
            self.parameters.append(
                Parameter(
                    numbers,
                    self.job.weight_width,
                    trained=self.job.trains_all,
                    tensors=tensors,
                    own_width=self.job.own_width,
                )
            )

    def _parameter(
        self, numbers: int, name: str, sides: tuple[int, int] = (0, 0), *, is_linear: bool = False
    ) -> Parameter:
        trained = self.job.trains_all or name.rpartition(".")[2] in self.job.saved_whole
        made = Parameter(
            numbers,
            self.job.weight_width,
            trained=trained,
            sides=sides,
            own_width=self.job.own_width,
            is_embedding=name in ("embed_tokens", POSITIONS),
            projected=trained and is_linear and self.job.optimizer.projects(name),
        )
        self.parameters.append(made)
        return made

    def _expert_tensors(self, experts: Experts) -> tuple[Adapted, Adapted]:
        """Return gate and up of all experts as one tensor, and down; of each its adapter, whose rank is twice for two in one."""
        job, hidden, inner = self.job, self.shape.hidden, experts.intermediate
        third = experts.numbers // 3
        found = []
        are_adapted = adapted_experts(self.shape.family, job.targets) if job.rank else (False, False)
        for numbers, inputs, outputs, matrices, is_adapted in (
            (2 * third, hidden, 2 * inner, 2, are_adapted[0]),
            (experts.numbers - 2 * third, inner, hidden, 1, are_adapted[1]),
        ):
            tensor = self._parameter(numbers, experts.name)
            rank = job.rank * matrices * experts.count
            sides = (rank, inputs), (outputs, rank)
            adapter = tuple(
                self._adapter(rank * size, side) for size, side in zip((inputs, outputs), sides, strict=True)
            )
            found.append(Adapted(tensor, adapter if is_adapted else ()))
            if is_adapted:
                self.parameters += adapter
        return found[0], found[1]

    def _adapter(self, numbers: int, sides: tuple[int, int]) -> Parameter:
        return Parameter(
            numbers,
            self.job.adapter_width,
            trained=True,
            sides=sides,
            is_adapter=True,
            own_width=self.job.adapter_own_width,
        )

    def _weight(self, linear: Linear) -> Weight:
        job = self.job
        bits = job.bits
        parameter = self._parameter(
            linear.inputs * linear.outputs,
            linear.name,
            (linear.inputs, linear.outputs),
            is_linear=self.shape.family != "gpt2",
        )
        if bits:
            parameter.stored = quantised_bytes(
                linear.outputs, linear.inputs, bits, nested=job.double_quantised
            )
        bias = self._parameter(linear.outputs, linear.name) if linear.bias else None
        adapter = magnitude = None
        if job.rank and is_target(linear.name, job.targets):
            down, up = (
                self._adapter(job.rank * size, (job.rank, size)) for size in (linear.inputs, linear.outputs)
            )
            self.parameters += [down, up]
            adapter = (down, up)
            if job.dora:
                self.parameters.append(magnitude := self._adapter(linear.outputs, (0, 0)))
        return Weight(
            parameter=parameter,
            inputs=linear.inputs,
            outputs=linear.outputs,
            bias=bias,
            stored_bits=bits,
            rank=job.rank if adapter else 0,
            adapter=adapter,
            magnitude=magnitude,
            dropout=job.dropout if adapter else 0.0,
        )

    @property
    def trained(self) -> list[Parameter]:
        """The parameters that a gradient is made for."""
        return [parameter for parameter in self.parameters if parameter.needs_grad]

    @property
    def outside(self) -> list[Parameter]:
        """The parameters of no layer."""
        within = {id(parameter) for layer in self.layers for parameter in layer}
        return [parameter for parameter in self.parameters if id(parameter) not in within]


def _linears(layer: LayerShape) -> list[Linear]:
    found = [
        *layer.into_attention,
        layer.out_of_attention,
        *layer.into_network,
        layer.out_of_network,
        layer.router,
    ]
    return [linear for linear in found if linear is not None]
