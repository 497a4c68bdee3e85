"""Broken setups: the run file, the model, the tokenizer, the data, the run directory."""

from __future__ import annotations

from tests.check.corpus import (
    of_run_caches,
    of_run_kind,
    of_run_model,
    of_run_place,
    of_run_settings,
    of_run_tokens,
)

BROKEN = (
    *of_run_model.BROKEN,
    *of_run_kind.BROKEN,
    *of_run_tokens.BROKEN,
    *of_run_settings.BROKEN,
    *of_run_place.BROKEN,
    *of_run_caches.BROKEN,
)
