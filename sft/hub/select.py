"""Which files of a run go to the Hub, and under which names. Nothing goes that is not named here."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sft.checkpoint.manifest import NAME as MANIFEST
from sft.checkpoint.manifest import read_manifest
from sft.hub.card import card_problem
from sft.hub.journal import PushRequest
from sft.rundir import RunDirectory

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
# Configuration, tokenizer and processor files, as the save_pretrained of transformers and PEFT name them.
DESCRIPTION = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "*vocab*.json",
    "vocab.txt",
    "dict.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "bpe.codes",
    "byte_maps.json",
    "emoji.json",
    "normalizer.json",
    "word_shape.json",
    "word_pronunciation.json",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.tokenizer",
    "chat_template.jinja",
    "chat_template.json",
)
# What a resume reads beside those, as transformers, accelerate and DeepSpeed name it; `/*` is at any depth.
RESUME = (
    MANIFEST,
    "trainer_state.json",
    "optimizer.pt",
    "optimizer.bin",
    "scheduler.pt",
    "scaler.pt",
    "rng_state.pth",
    "rng_state_*.pth",
    "latest",
    "latest_universal",
    "pytorch_model_fsdp.bin",
    "global_step*/*",
    "pytorch_model_fsdp_*/*",
    "optimizer_*/*",
)
# JSON that may tell where things lie on this machine, and a value that does.
_TELLING = ("config.json", "adapter_config.json", "trainer_state.json", MANIFEST)
_LOCAL_VALUE = re.compile(r'"~?/[\w.@-]+/[^"\n]*"')
# May be in a manifest, and is not for others: a pickle of the settings, and PEFT's draft card with local paths.
NEVER = ("training_args.bin", "README.md")


@dataclass(frozen=True, slots=True)
class Upload:
    """One file and its path in the repository; `sha256` where it is known what the file must hold."""

    path: Path
    path_in_repo: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of one push, and what is worth saying about them."""

    uploads: tuple[Upload, ...]
    notes: tuple[str, ...] = ()


class NothingToPushError(Exception):
    """What was to be pushed is not there any more, or never could be; the message says why."""


def select(run: RunDirectory, request: PushRequest) -> Selection:
    """Name the files of one push.

    The model, its tokenizer and card go to the root, as transformers has it; with `checkpoint` and
    `all_checkpoints` what a resume needs goes into `last-checkpoint/` or `checkpoint-<step>/`.

    Raises:
        NothingToPushError: the checkpoint was rotated away, or holds no weights of its own.
    """
    source = run.output_dir / request.source
    if not source.is_dir():
        raise NothingToPushError(f"{request.source} was gone before its push was asked for")
    known = _known_hashes(source)
    model = model_files(source)
    uploads = [_upload(source, path, path.relative_to(source).as_posix(), known) for path in model]
    folder = checkpoint_folder(request)
    if not has_weights(model):
        if folder is None:
            raise NothingToPushError(f"{request.what} holds no weights that load by themselves, only shards")
        uploads = []
    if folder is not None:
        for name, path in checkpoint_files(source).items():
            uploads.append(_upload(source, path, f"{folder}/{name}", known))
    notes = _local_paths(uploads)
    card = run.output_dir / "README.md"
    if card.is_file():
        problem = card_problem(card.read_text(encoding="utf-8", errors="replace"), run)
        if problem is None:
            uploads.append(Upload(card, "README.md"))
        else:
            notes.append(f"README.md stays here: {problem}")
    return Selection(tuple(uploads), tuple(notes))


def checkpoint_folder(request: PushRequest) -> str | None:
    """The folder of the repository that gets the whole checkpoint, where the strategy has one."""
    if request.kind == "save" and request.strategy == "checkpoint":
        return "last-checkpoint"
    if request.kind == "save" and request.strategy == "all_checkpoints":
        return request.source
    return None


def has_own_folder(request: PushRequest) -> bool:
    """Whether a push brings a checkpoint into a folder that no other push touches."""
    return request.kind == "save" and request.strategy == "all_checkpoints"


def has_weights(files: Sequence[Path]) -> bool:
    """Whether these files hold a model or an adapter that loads by itself."""
    return any(_matches(path, WEIGHTS) for path in files)


def model_files(directory: Path) -> list[Path]:
    """List what loads the model, its tokenizer and its template; never an optimizer or a pickle."""
    found = [path for path in sorted(directory.iterdir()) if path.is_file()]
    wanted: tuple[str, ...] = (*WEIGHTS, *DESCRIPTION)
    if any(_names_own_code(path) for path in found if path.name.endswith("config.json")):
        wanted = (*wanted, "*.py")
    chosen = [path for path in found if _matches(path, wanted)]
    return chosen + sorted((directory / "additional_chat_templates").glob("*.jinja"))


def checkpoint_files(directory: Path) -> dict[str, Path]:
    """List what a resume needs, by its path inside the checkpoint: what loads the model, and the state beside it.

    A checkpoint with a manifest is what its manifest lists, as a resume will hold it to that.
    """
    known = _known_hashes(directory)
    if known:
        return {name: directory / name for name in (*sorted(known), MANIFEST) if name not in NEVER}
    found = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*"))}
    model = set(model_files(directory))
    return {
        name: path
        for name, path in found.items()
        if path.is_file() and (path in model or any(fnmatchcase(name, pattern) for pattern in RESUME))
    }


def _known_hashes(directory: Path) -> dict[str, str]:
    """Read what a checkpoint's files must hold; nothing where it has no manifest that can be trusted."""
    try:
        return {name: record.sha256 for name, record in read_manifest(directory).files.items()}
    except ValueError:
        return {}


def _upload(source: Path, path: Path, path_in_repo: str, known: dict[str, str]) -> Upload:
    return Upload(path, path_in_repo, known.get(path.relative_to(source).as_posix()))


def _local_paths(uploads: Sequence[Upload]) -> list[str]:
    """Say which of the descriptions tell where things lie on this machine. They go as they are.

    PEFT needs the base model's path in adapter_config.json, and a resume holds its files to their hashes.
    """
    told = [
        upload.path_in_repo
        for upload in uploads
        if upload.path.name in _TELLING
        and _LOCAL_VALUE.search(upload.path.read_text(encoding="utf-8", errors="replace"))
    ]
    return [f"pushed as they are, and they name paths of this machine: {', '.join(told)}"] if told else []


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in patterns)


def _names_own_code(config: Path) -> bool:
    """Whether the configuration loads classes from Python files beside it (transformers' auto_map)."""
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(content, dict) and "auto_map" in content
