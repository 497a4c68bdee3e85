"""The base model of a flow: brought once from the Hub into the datastore, and handed to the ranks as the Hub's cache.

In the datastore it is kept by repository, revision and patterns (the key of @huggingface_hub with a cache_scope). The
ranks find it by its own name, so that an adapter, a model card and a checkpoint name the model and no directory of a step.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from sft.check.needs import data_needs, is_data_on_hub
from sft.check.place import is_left_to_hub
from sft.config.loader import LoadedRun
from sft.config.run import RunConfig
from sft.errors import ExitCode, UserError
from sft.files import write_whole

PATTERNS = (
    "*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.py", "bpe.codes", "*.tokenizer",
)  # fmt: skip
"""What transformers reads of a model: safetensors weights, configurations, tokenizer, template, code."""
IGNORED = ("*/*.safetensors", "*/*.json", "*/*.txt", "*/*.py", "*/*.model", "consolidated*", "*.onnx*")
"""Other forms of the same weights, in directories of their own or beside it."""
COMMIT_CHARACTERS = frozenset("0123456789abcdef")


class Registry(Protocol):
    """What `current.huggingface_hub` gives: brings a repository into the datastore, and returns a reference to it."""

    def snapshot_download(self, **how: Any) -> dict[str, Any]: ...


def bring(registry: Registry, loaded: LoadedRun) -> dict[str, Any] | None:
    """Return the reference to the base model in the datastore, where it is brought to if it is not there.

    Returns:
        None for a model that is named by a path.

    Raises:
        UserError: it has no safetensors, or the Hub does not give it.
    """
    config = loaded.config
    if not is_left_to_hub(config):
        return None
    from huggingface_hub.errors import LocalEntryNotFoundError

    from sft.hub.fetch import list_repository, patiently
    from sft.hub.refusals import refusals

    name, revision = str(config.model.model_name_or_path), config.model.model_revision
    wanted = {
        "repo_id": name,
        "revision": revision or "main",
        "allow_patterns": list(PATTERNS),
        "ignore_patterns": list(IGNORED),
    }
    # The datastore alone: this is no part of the key, and keeps the library from asking anybody.
    with suppress(LocalEntryNotFoundError):
        return registry.snapshot_download(**wanted, local_files_only=True)
    with refusals(name, loaded.where("model_name_or_path"), revision=revision):
        listing = patiently(lambda: list_repository(name, revision), _say)
        require_safetensors(name, listing.commit, listing.files, loaded.where("model_name_or_path"))
        return registry.snapshot_download(**wanted)


def require_safetensors(name: str, commit: str, files: Collection[str], where: str) -> None:
    """Refuse a repository of which no weights would arrive.

    Raises:
        UserError: it has none, or only pickles.
    """
    if {"model.safetensors", "model.safetensors.index.json"} & set(files):
        return
    pickles = sorted(file for file in files if file.endswith((".bin", ".pt", ".pth")) and "/" not in file)
    if pickles:
        what = f"{name} has its weights as pickles only ({pickles[0]}), and a flow keeps safetensors"
        fix = (
            "name a revision that has them (the Hub's converter offers refs/pr/N), or load the model once and"
            " save_pretrained it, and name that directory"
        )
    else:
        what = f"{name} has no weights that transformers loads"
        fix = "name the repository of the model itself: not of an adapter, nor of GGUF or ONNX files"
    raise UserError(what, f"{where}, at {commit[:8]}", fix, exit_code=ExitCode.ENVIRONMENT)


def as_cache(copy: Path, config: RunConfig, hub: Path) -> tuple[list[str], dict[str, str]]:
    """Lay a copy of the base model out as the Hub's cache, for the processes of this run alone.

    Args:
        copy: what the reference was loaded to; it is moved.
        hub: the cache to make.

    Returns:
        The flags and the environment with which a launch reads it.

    Raises:
        UserError: the copy does not say of which commit it is.
    """
    from huggingface_hub.file_download import repo_folder_name

    from sft.hub.cached import cache_directory

    name, revision = str(config.model.model_name_or_path), config.model.model_revision or "main"
    commit = commit_of(copy)
    storage = hub / repo_folder_name(repo_id=name, repo_type="model")
    snapshot = storage / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    shutil.rmtree(copy / ".cache", ignore_errors=True)
    copy.rename(snapshot)
    for reference in {revision, "main"} - {commit}:
        write_whole(storage / "refs" / reference, commit)
    mine = cache_directory()
    for other in mine.glob("datasets--*"):
        (hub / other.name).symlink_to(other)
    environment = {"HF_HUB_CACHE": str(hub)}
    if not asks_the_hub(config):
        environment["HF_HUB_OFFLINE"] = "1"
    return [f"--model_revision={commit}"], environment


def asks_the_hub(config: RunConfig) -> bool:
    """Whether a run needs the Hub for more than its base model."""
    return config.training.push_to_hub or any(is_data_on_hub(wanted) for wanted in data_needs(config))


def commit_of(copy: Path) -> str:
    """Read which commit a copy is of: huggingface_hub notes it beside every file that it downloads.

    Source:
        huggingface_hub/_local_folder.py: the first line of .cache/huggingface/download/NAME.metadata.

    Raises:
        UserError: there is no such note.
    """
    for note in sorted((copy / ".cache" / "huggingface" / "download").rglob("*.metadata")):
        lines = note.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines and len(lines[0]) == 40 and set(lines[0]) <= COMMIT_CHARACTERS:
            return lines[0]
    raise UserError(
        "the base model in the datastore does not say of which commit it is",
        where=str(copy),
        fix="name the model's directory instead, or remove it from the datastore (mf.huggingface_hub) to have it brought anew",
        exit_code=ExitCode.ENVIRONMENT,
    )


def named(reference: Mapping[str, Any] | None, config: RunConfig) -> str:
    """Say which model it is and where it is kept, for people."""
    name = str(config.model.model_name_or_path)
    return name if reference is None else f"{name}, in the datastore as {reference.get('key')}"


def _say(line: str) -> None:
    print(line, file=sys.stderr)
