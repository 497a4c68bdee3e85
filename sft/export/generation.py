"""How an answer is sampled: a few settings with limits, by the names that transformers has for them."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from sft.errors import UserError

LIMITS = {
    "max_new_tokens": (1, 1 << 20),
    "temperature": (0.0, 10.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1 << 20),
    "repetition_penalty": (0.1, 10.0),
    "seed": (0, (1 << 63) - 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """Settings of one answer. temperature 0 takes the likeliest token, always the same; top_k 0 is off."""

    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def changed(self, name: str, value: str) -> GenerationSettings:
        """Set one by its name.

        Raises:
            UserError: there is no such setting, or it cannot have the value.
        """
        if name not in LIMITS:
            raise UserError(f"there is no setting {name!r}", fix=f"one of: {', '.join(LIMITS)}")
        if name == "seed" and value in ("", "none"):
            return replace(self, seed=None)
        whole = name in ("max_new_tokens", "top_k", "seed")
        low, high = LIMITS[name]
        try:
            number: float = int(value) if whole else float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            kind = "a whole number" if whole else "a number"
            span = f"from {low} on" if high >= 1 << 20 else f"from {low} to {high}"
            raise UserError(f"{name} cannot be {value!r}", fix=f"give {kind} {span}")
        return replace(self, **{name: number})

    def lines(self) -> list[str]:
        """Say all of them."""
        return [f"{field.name} {getattr(self, field.name)}" for field in fields(self)]

    def for_transformers(self) -> dict[str, Any]:
        """Return what `generate` is told, so that nothing of the model's own sampling is left."""
        found: dict[str, Any] = {"num_beams": 1, "repetition_penalty": self.repetition_penalty}
        if self.temperature == 0:
            return found | {"do_sample": False}
        # 0 of the probability would be no token at all; the least that transformers takes keeps the likeliest.
        top_p = self.top_p or 1e-6
        return found | {
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": top_p,
            "top_k": self.top_k,
        }
