"""The base of every section of the run file: frozen, typed, with unknown keys refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings.

    Numbers become strings where a string is declared; yes/no/on/off become booleans only where a
    boolean is declared (pydantic's lax mode), so `save_strategy: no` keeps meaning "no".
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        coerce_numbers_to_str=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        defer_build=True,  # a command that reads no run file builds none of them
    )
