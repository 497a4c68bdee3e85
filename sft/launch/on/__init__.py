"""The platforms that `sft launch --on` knows, one file each; `sft/launch/platform.py` says what such a file holds."""

from __future__ import annotations

import pkgutil


def names() -> list[str]:
    """List the platforms. Imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
