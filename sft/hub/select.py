"""Which files of a run go to the Hub, and under which names. Nothing goes that is not named here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sft.hub.card import card_problem
from sft.hub.outbox import PushRequest
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
# In a checkpoint, but not for resuming: a pickle of the settings, and PEFT's draft card with local paths.
NOT_RESUMED = ("training_args.bin", "README.md")


@dataclass(frozen=True, slots=True)
class Upload:
    """One file and its path in the repository."""

    path: Path
    path_in_repo: str


@dataclass(frozen=True, slots=True)
class Selection:
    """The files of one push, and what is worth saying about those left out."""

    uploads: tuple[Upload, ...]
    note: str | None = None


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
        raise NothingToPushError(gone(request))
    model = model_files(source)
    uploads = [Upload(path, path.relative_to(source).as_posix()) for path in model]
    folder = checkpoint_folder(request)
    if not has_weights(model):
        if folder is None:
            raise NothingToPushError(f"{request.what} holds no weights that load by themselves, only shards")
        uploads = []
    if folder is not None:
        uploads += [Upload(path, f"{folder}/{name}") for name, path in checkpoint_files(source).items()]
    card = run.output_dir / "README.md"
    if not card.is_file():
        return Selection(tuple(uploads))
    problem = card_problem(card.read_text(encoding="utf-8"), run)
    if problem is not None:
        return Selection(tuple(uploads), f"README.md stays here: {problem}")
    return Selection((*uploads, Upload(card, "README.md")))


def checkpoint_folder(request: PushRequest) -> str | None:
    """The folder of the repository that gets the whole checkpoint, where the strategy has one."""
    if request.kind == "save" and request.strategy == "checkpoint":
        return "last-checkpoint"
    if request.kind == "save" and request.strategy == "all_checkpoints":
        return request.source
    return None


def gone(request: PushRequest) -> str:
    """What is said of a checkpoint that is not there any more."""
    return f"{request.source} was rotated away before it could be pushed"


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
    """List what a resume needs, by its path inside the checkpoint."""
    found = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*"))}
    return {name: path for name, path in found.items() if path.is_file() and name not in NOT_RESUMED}


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in patterns)


def _names_own_code(config: Path) -> bool:
    """Whether the configuration loads classes from Python files beside it (transformers' auto_map)."""
    content = json.loads(config.read_text(encoding="utf-8"))
    return isinstance(content, dict) and "auto_map" in content
