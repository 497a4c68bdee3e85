"""Broken setups: packages that are missing, of versions that do not go together, installed twice, or hidden by a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.check.corpus.bench import Bench, Broken


def record(site: Path, name: str, version: str | None, *requires: str, address: str | None = None) -> None:
    """Write the record of an installed package, as pip leaves it."""
    directory = site / f"{name.replace('-', '_')}-{version or '0'}.dist-info"
    directory.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}"]
    lines += [f"Version: {version}"] if version else []
    lines += [f"Requires-Dist: {one}" for one in requires]
    (directory / "METADATA").write_text("\n".join([*lines, "", "A description."]) + "\n")
    if address:
        (directory / "direct_url.json").write_text(json.dumps({"url": address, "archive_info": {}}))


def installed(name: str, version: str | None, *requires: str, **settings: Any) -> Callable[[Bench], object]:
    """Return what installs a package of this version before all others."""

    def build(bench: Bench) -> None:
        site = bench.directory / "site-packages"
        record(site, name, version, *requires)
        bench.monkeypatch.syspath_prepend(str(site))
        bench.settings.update(settings)

    return build


def without(name: str, **launch: Any) -> Callable[[Bench], object]:
    """Return what leads to an environment in which one package is missing, and all others are as they are."""

    def build(bench: Bench) -> None:
        site = bench.directory / "site-packages"
        site.mkdir()
        places = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
        for place in places:
            for path in place.iterdir():
                gone = path.name == name or path.name.startswith((f"{name}-", f"{name}."))
                if not gone and not (site / path.name).exists():
                    (site / path.name).symlink_to(path)
        others = [entry for entry in sys.path if Path(entry) not in places]
        bench.monkeypatch.setattr(sys, "path", [*others, str(site)])
        bench.launch(**launch)

    return build


def flash_attention_of(torch: str) -> Callable[[Bench], object]:
    """Return what installs a wheel of FlashAttention that was built for one torch."""

    def build(bench: Bench) -> None:
        from tests.check.corpus.of_gpus import H100, on

        on(H100, torch="2.13.0+cu128", attn_implementation="flash_attention_2")(bench)
        site = bench.directory / "site-packages"
        releases = "https://github.com/Dao-AILab/flash-attention/releases/download/v2.8.3"
        wheel = f"flash_attn-2.8.3+cu12torch{torch}cxx11abiTRUE-cp311-cp311-linux_x86_64.whl"
        record(site, "flash-attn", "2.8.3", "torch", "einops", address=f"{releases}/{wheel}")
        (site / "flash_attn").mkdir()
        (site / "flash_attn" / "__init__.py").touch()
        bench.monkeypatch.syspath_prepend(str(site))

    return build


def user_site(bench: Bench) -> None:
    import site

    place = bench.directory / "local" / "site-packages"
    record(place, "peft", "0.20.0")
    bench.monkeypatch.setattr(site, "getusersitepackages", lambda: str(place))
    bench.monkeypatch.syspath_prepend(str(place))


def file_beside(name: str, **launch: Any) -> Callable[[Bench], object]:
    """Return what starts the run in a directory with a file of this name."""

    def build(bench: Bench) -> None:
        path = bench.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("# mine\n")
        bench.monkeypatch.chdir(bench.directory)
        bench.launch(**launch)

    return build


def on_the_path(name: str) -> Callable[[Bench], object]:
    """Return what puts a directory with a file of this name on PYTHONPATH, as a shell's start-up file does."""

    def build(bench: Bench) -> None:
        path = bench.directory / "code" / name
        path.parent.mkdir(parents=True)
        path.write_text("# a checkout\n")
        bench.variable("PYTHONPATH", str(bench.directory / "code"))

    return build


BROKEN = (
    Broken(
        "DeepSpeed is not installed",
        "https://github.com/huggingface/accelerate/issues/3454",
        "the package deepspeed is not installed, and the run needs it",
        "versions",
        without("deepspeed", strategy="zero2", processes_per_node=2),
    ),
    Broken(
        "tokenizers that transformers refuses",
        "https://github.com/archlinuxcn/repo/issues/4836",
        "requires tokenizers<0.24.0,>=0.23.1, and 0.22.0 is installed: it refuses to be imported",
        "versions",
        installed("tokenizers", "0.22.0"),
    ),
    Broken(
        "a record without a version",
        "https://github.com/huggingface/transformers/issues/11107",
        "the record of the package tokenizers is broken: it says no version",
        "versions",
        installed("tokenizers", None),
    ),
    Broken(
        "transformers of another major version",
        "https://github.com/hiyouga/LlamaFactory/issues/3508",
        "transformers 4.40.0 is installed, and the kit is made for transformers<6,>=5.20",
        "versions",
        installed("transformers", "4.40.0"),
    ),
    Broken(
        "torchao that peft refuses",
        "https://github.com/PrunaAI/pruna/pull/630",
        "torchao 0.15.0 is installed, and peft raises an error for one before 0.16, used or not",
        "versions",
        installed("torchao", "0.15.0", use_peft=True),
    ),
    Broken(
        "FlashAttention built for another torch",
        "https://github.com/Dao-AILab/flash-attention/issues/931",
        "this flash-attn was built for torch 2.8, and torch 2.13.0+cu128 is installed: its library does not load",
        "versions",
        flash_attention_of("2.8"),
    ),
    Broken(
        "torchvision of another torch",
        "https://github.com/meta-llama/llama-cookbook/issues/710",
        "torchvision 0.24.0 requires torch==2.9.0, and 2.13.0",
        "versions",
        installed("torchvision", "0.24.0", "torch==2.9.0"),
    ),
    Broken(
        "a copy in ~/.local that hides the environment's",
        "https://github.com/conda/conda/issues/448",
        "peft is installed twice: 0.20.0 in ",
        "versions",
        user_site,
    ),
    Broken(
        "a datasets.py in the working directory",
        "https://github.com/meta-llama/llama-cookbook/issues/380",
        "datasets.py is imported in place of the package datasets",
        "versions",
        file_beside("datasets.py", strategy="zero2", processes_per_node=2),
    ),
    Broken(
        "a random.py in the working directory",
        "https://docs.python.org/3/whatsnew/3.13.html#improved-error-messages",
        "random.py is imported in place of Python's own module random",
        "versions",
        file_beside("random.py", strategy="zero2", processes_per_node=2),
    ),
    Broken(
        "another copy of a package on PYTHONPATH",
        "https://github.com/Dao-AILab/flash-attention/issues/7",
        "code/trl is imported in place of the installed trl",
        "versions",
        on_the_path("trl/__init__.py"),
    ),
)
