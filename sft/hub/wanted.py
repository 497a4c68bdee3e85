"""Which files of a model on the Hub a run reads. Pure: names in, names out.

Safetensors weights, tokenizer, configuration, chat templates, and code where it is trusted. Never weights in another
format beside safetensors: no pickles, no original/, GGUF, ONNX or TensorFlow.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # it is, lazily

from sft.errors import ExitCode, UserError

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where the weights begin, in the order in which transformers looks for them."""
SMALL = ("*config.json", "chat_template*", "*.tiktoken")
"""What is read beside the tokenizer's own files."""
CODE = "*.py"


def weights_entry(names: Collection[str]) -> str | None:
    """Name the file that the weights begin with: they themselves, or the index of their shards."""
    return next((name for name in WEIGHTS if name in names), None)


def shards_of(index: str, text: str) -> list[str]:
    """Name the shards that an index lists.

    Raises:
        UserError: the index is broken, or leads out of its directory.
    """
    try:
        names = sorted(set(json.loads(text)["weight_map"].values()))
        if not all(isinstance(name, str) and ".." not in PurePosixPath(name).parts for name in names):
            raise ValueError(f"a shard cannot be called {names}")
        if not names:
            raise ValueError("it lists no files")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"the list of the weights is broken: {error}",
            where=index,
            fix="fetch the model again, or ask who published it",
            exit_code=ExitCode.ENVIRONMENT,
        ) from None
    return names


def small_files(
    names: Collection[str], patterns: Sequence[str], ignored: Sequence[str], *, code: bool
) -> list[str]:
    """Name everything but the weights.

    Args:
        patterns: the tokenizer's files.
        ignored: patterns of what no run reads, whatever else matches.
    """
    allowed = [*patterns, *SMALL, *([CODE] if code else [])]
    return sorted(filter_repo_objects(names, allow_patterns=allowed, ignore_patterns=list(ignored)))
