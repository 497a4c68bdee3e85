"""Broken setups: the caches that a run writes to."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants

from tests.check.corpus.bench import Bench, Broken
from tests.check.corpus.spoil import read_only, small_disk


def from_the_hub(bench: Bench, name: str = "org/model") -> None:
    """Have the model on the Hub, which is out of reach, and the cache in a place of the case's own."""
    bench.variable("HF_HUB_OFFLINE", "0")
    bench.monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    bench.variable("HF_ENDPOINT", "http://127.0.0.1:9")
    bench.settings["model_name_or_path"] = name


def cache(bench: Bench, place: Path) -> None:
    bench.variable("HF_HUB_CACHE", str(place))
    bench.monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place))


def hub_cache_read_only(bench: Bench) -> None:
    from_the_hub(bench)
    cache(bench, read_only(bench, bench.directory / "hub"))


def hub_cache_small(bench: Bench) -> None:
    from_the_hub(bench, "org/model-14B")
    cache(bench, small_disk(bench, bench.directory / "hub", "size=64m"))


def old_variable(bench: Bench) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        bench.monkeypatch.delenv(name, raising=False)
    bench.variable("TRANSFORMERS_CACHE", "/scratch/models")


def wandb_read_only(bench: Bench) -> None:
    bench.settings["report_to"] = "wandb"
    bench.variable("WANDB_DIR", str(read_only(bench, bench.directory / "wandb")))


BROKEN = (
    Broken(
        "a cache of the Hub that cannot be written",
        "https://github.com/project-codeflare/codeflare-sdk/issues/193",
        "org/model is to be fetched, and the Hub's cache",
        "caches",
        hub_cache_read_only,
    ),
    Broken(
        "a cache of the Hub that is too small for the model",
        "https://github.com/ayaanzhaque/instruct-nerf2nerf/issues/86",
        "org/model-14B is to be fetched, some 26.1 GiB by its name",
        "caches",
        hub_cache_small,
    ),
    Broken(
        "a variable for the cache that nothing reads any more",
        "https://github.com/deepspeedai/DeepSpeed/pull/4816",
        "TRANSFORMERS_CACHE is read by nothing any more",
        "caches",
        old_variable,
    ),
    Broken(
        "a cache of prepared data that cannot be written",
        "https://github.com/huggingface/datasets/issues/7900",
        "the prepared data cannot be written to",
        "caches",
        lambda bench: bench.settings.update(data_cache=str(read_only(bench, bench.directory / "prepared"))),
    ),
    Broken(
        "a TMPDIR that is not there",
        "https://github.com/wandb/wandb/issues/2770",
        "which is not there",
        "caches",
        lambda bench: bench.variable("TMPDIR", str(bench.directory / "gone")),
    ),
    Broken(
        "a WANDB_DIR that cannot be written",
        "https://github.com/m2lines/Samudra/issues/632",
        "WANDB_DIR",
        "caches",
        wandb_read_only,
    ),
)
