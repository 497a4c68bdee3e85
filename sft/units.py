"""Numbers as people read them. Inside the kit they are bytes and seconds."""

from __future__ import annotations


def gib(count: float) -> str:
    """Spell bytes."""
    return f"{count / 2**30:,.1f} GiB" if abs(count) >= 2**30 / 10 else f"{count / 2**20:,.1f} MiB"


def billions(count: float) -> str:
    """Spell how many numbers a model has."""
    return f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def clock(seconds: float) -> str:
    """Spell a duration as schedulers do: HH:MM:SS."""
    whole = round(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
