"""What of a run file decides its tokens, gathered once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError

from sft.config.code import with_neighbours
from sft.config.run import RunConfig
from sft.data.convert import ConvertSettings
from sft.data.loss import EncodeSettings
from sft.data.template import ChatTemplate
from sft.data.tokenizer import TokenizerFiles, read_tokenizer, with_template_of
from sft.data.work import WorkSettings
from sft.errors import ExitCode, UserError
from sft.json_file import UnreadableError, read_json

MOST_WORKERS = 8
"""Processes that prepare data if dataset_num_proc does not say: login nodes are shared."""


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Everything but the data.

    Attributes:
        packing: the strategy for the training rows, None where they are not packed; eval_packing for the others.
        shuffle_seed: set where shuffle_dataset asks for another order than the files'.
        row_seed: shuffles packed rows, which come longest first, where the trainer's sampler keeps the order.
    """

    work: WorkSettings
    packing: str | None
    eval_packing: str | None
    max_length: int | None
    shuffle_seed: int | None
    row_seed: int | None
    bad_rows: str
    strict: bool
    max_cut_answers: float
    workers: int

    def strategy(self, split: str) -> str | None:
        """Return how the rows of a split are packed."""
        return self.packing if split == "train" else self.eval_packing

    def for_split(self, split: str) -> WorkSettings:
        """Return what the workers are told for one split: packing that cuts long rows needs them whole."""
        if self.strategy(split) in ("bfd_split", "wrapped"):
            return replace(self.work, encode=replace(self.work.encode, max_length=None))
        return self.work

    def identity(self) -> dict[str, Any]:
        """Return what the digest is made of: all that changes a token or its place."""
        work = self.work
        return {
            "tokenizer": asdict(work.tokenizer),
            "convert": asdict(work.convert),
            "functions": [
                _function_bytes(name) for name in (work.convert.mapping, work.convert.formatting_func)
            ],
            "encode": asdict(work.encode),
            "packing": [self.packing, self.eval_packing, self.max_length],
            "order": [self.shuffle_seed, self.row_seed],
            "bad_rows": self.bad_rows,
        }


def _function_bytes(reference: Any) -> str | None:
    """Hash the user's own file, as far as a reference names one, with what it imports from beside it."""
    if not isinstance(reference, str):
        return None
    file = Path(reference.rpartition(":")[0])
    if not file.is_file():
        return None
    return hashlib.sha256(b"".join(part.read_bytes() for part in with_neighbours(file))).hexdigest()


def prepare_settings(config: RunConfig, say: Callable[[str], None]) -> PrepareSettings:
    """Read the tokenizer and gather the settings.

    Raises:
        UserError: the tokenizer or a template cannot be read.
    """
    training, kit = config.training, config.kit
    packing = training.packing_strategy if training.packing else None
    evaluates_packed = training.packing if training.eval_packing is None else training.eval_packing
    seed = training.seed if training.seed is not None else 42
    return PrepareSettings(
        work=WorkSettings(
            tokenizer=tokenizer_files(config, say),
            convert=ConvertSettings(
                text_field=training.dataset_text_field,
                mapping=kit.dataset_mapping,
                formatting_func=kit.formatting_func,
            ),
            encode=EncodeSettings(
                assistant_only_loss=bool(training.assistant_only_loss),
                completion_only_loss=training.completion_only_loss,
                max_length=training.max_length,
                truncation_mode=training.truncation_mode,
                special_tokens_in_content=kit.special_tokens_in_content,
                eos_token=training.eos_token,
            ),
        ),
        packing=packing,
        eval_packing=training.packing_strategy if evaluates_packed else None,
        max_length=training.max_length,
        shuffle_seed=seed if training.shuffle_dataset else None,
        row_seed=seed if packing and training.train_sampling_strategy == "sequential" else None,
        bad_rows=kit.bad_rows,
        strict=kit.strict_data,
        max_cut_answers=kit.max_cut_answers,
        workers=training.dataset_num_proc or min(len(os.sched_getaffinity(0)), MOST_WORKERS),
    )


def tokenizer_files(config: RunConfig, say: Callable[[str], None]) -> TokenizerFiles:
    """Read the tokenizer with the template that the run file gives it."""
    model, training, kit = config.model, config.training, config.kit
    assert model.model_name_or_path is not None

    def read(name: str, revision: str | None, key: str) -> TokenizerFiles:
        return read_tokenizer(
            name,
            revision=revision,
            backend=kit.tokenizer_backend,
            trust_remote_code=training.trust_remote_code,
            say=say,
            key=key,
        )

    files = read(model.model_name_or_path, model.model_revision, "model_name_or_path")
    path = training.chat_template_path
    if path is not None and kit.chat_template is not None:
        raise UserError(
            "chat_template and chat_template_path are both set", where="chat_template", fix="keep one"
        )
    if kit.chat_template is not None:
        files = replace(files, templates={"default": kit.chat_template})
    elif path is not None and path.endswith((".jinja", ".j2")):
        files = replace(files, templates={"default": _template_text(Path(path))})
    elif path is not None:
        files = with_template_of(files, read(path, None, "chat_template_path"))
        _check_new_tokens(files, config)
    _check_templates(files, path if path is not None and path.endswith((".jinja", ".j2")) else None)
    if training.eos_token is not None:
        if files.build().token_to_id(training.eos_token) is None:
            raise UserError(
                f"the vocabulary has no token {training.eos_token!r}",
                where="eos_token",
                fix="name a token that the tokenizer has",
            )
        files = replace(files, special={**files.special, "eos_token": training.eos_token})
    return files


def _check_new_tokens(files: TokenizerFiles, config: RunConfig) -> None:
    """Refuse what ends at the first step: TRL 1.16's loss asks PEFT's wrapper around a tied head for its bias."""
    if not files.added or not config.model.use_peft:
        return
    path = Path(config.model.model_name_or_path or "") / "config.json"
    try:
        shape = read_json(path) or {}
    except UnreadableError as broken:
        raise broken.refusal() from None
    text = shape.get("text_config")
    if {**shape, **(text if isinstance(text, dict) else {})}.get("tie_word_embeddings"):
        raise UserError(
            f"the template of {config.training.chat_template_path} needs tokens that the vocabulary lacks "
            f"({', '.join(files.added[:4])}), and an adapter cannot train them where head and embeddings are tied",
            where="chat_template_path",
            fix="train every weight (use_peft: false), or name a template that is written in tokens of the vocabulary",
        )


def _check_templates(files: TokenizerFiles, path: str | None) -> None:
    """Refuse a template that cannot be compiled, before there are workers to find it."""
    for name, text in files.templates.items():
        try:
            ChatTemplate(text, files.special)
        except TemplateSyntaxError as error:
            raise UserError(
                f"the chat template is broken at its line {error.lineno}: {error.message}",
                where=f"{path}:{error.lineno}" if path else f"chat_template ({name})",
                fix="mend the template",
            ) from None


def _template_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        is_locked = isinstance(error, PermissionError)
        raise UserError(
            f"the chat template cannot be read: {error}",
            where="chat_template_path",
            fix="name a text file with the template, or a model's directory",
            exit_code=ExitCode.ENVIRONMENT if is_locked else ExitCode.USAGE,
        ) from None
