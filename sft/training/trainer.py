"""TRL's trainer, with the count of trained tokens that no callback can see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.utils import NoMatchingPeftModuleError
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from trl import SFTTrainer

from sft.checkpoint.pickles import refuse_foreign_code
from sft.checkpoint.resume import Resume
from sft.config.run import RunConfig
from sft.data.user_code import load_object
from sft.errors import ExitCode, UserError
from sft.training.adapter import (
    check_saved_modules,
    check_targets,
    linear_leaves_of,
    no_target,
    upcast_frozen,
)
from sft.training.arguments import peft_config, quantization_config
from sft.training.saving import Saver
from sft.training.stopping import StopEvaluation
from sft.training.universal import SeparateSteps
from sft.training.workers import guarded


class CountingTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer that keeps `trained_tokens`: tokens that carried loss, over all ranks.

    A subclass because callbacks do not see batches, and TRL's own `num_tokens` counts padding-free prompts
    too. The count is the one that the loss is divided by, so it costs nothing.
    """

    saver: Saver | None = None
    """Makes the checkpoints; without one they are transformers' own."""
    trained_tokens = 0.0
    micro_batches = 0
    lost_micro_batches: Any = 0
    """Micro-batches whose loss was NaN or infinite, on this rank. transformers logs the average of the others
    instead (logging_nan_inf_filter), so that the logged loss alone never tells."""

    @property
    def seen_tokens(self) -> int:
        """What TRL logs as `num_tokens`. It keeps the count to itself and saves it nowhere."""
        return int(self._total_train_tokens)

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        """Train on one micro-batch, and look at its loss without waiting for the device."""
        loss = super().training_step(*arguments, **keywords)
        self.micro_batches += 1
        self.lost_micro_batches = self.lost_micro_batches + (~torch.isfinite(loss)).any()
        return loss

    def get_batch_samples(self, *arguments: Any, **keywords: Any) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of one optimizer step, and count."""
        samples, count = super().get_batch_samples(*arguments, **keywords)
        if count is not None:
            total = count.detach().float().mean() if isinstance(count, torch.Tensor) else float(count)
            share = 1 if self.args.average_tokens_across_devices else self.args.world_size
            self.trained_tokens = self.trained_tokens + total * share
        return samples, count

    def continue_from(self, resume: Resume | None) -> None:
        """Train, from a checkpoint where there is one.

        Raises:
            UserError: it comes from elsewhere and would run code.
        """
        if resume is not None and not resume.path.is_relative_to(Path(str(self.args.output_dir)).absolute()):
            refuse_foreign_code(resume.path)
        if resume is not None and (resume.path / "latest_universal").exists():
            self.add_callback(SeparateSteps())
        if resume is not None and resume.manifest is not None:
            self.trained_tokens = float(resume.manifest.trained_tokens)
            self._total_train_tokens = resume.manifest.seen_tokens
        # Raised past the training only where an evaluation before the first step is left.
        with suppress(StopEvaluation):
            self.train(resume_from_checkpoint=None if resume is None else str(resume.path))

    def get_train_dataloader(self) -> Any:
        """Return it with workers that no scheduler's signal ends."""
        return guarded(super().get_train_dataloader())

    def get_eval_dataloader(self, *arguments: Any, **keywords: Any) -> Any:
        """Return it with workers that no scheduler's signal ends."""
        return guarded(super().get_eval_dataloader(*arguments, **keywords))

    def evaluate_anew(self) -> None:
        """Evaluate the step that the run continues from, as at its end. The names are private upstream: its public
        `evaluate` neither steps a schedule that goes by a metric nor finds the best."""
        metrics = self._evaluate(None, None)
        self._determine_best_metric(metrics=metrics, trial=None)

    def _run_epoch(self, *arguments: Any, **keywords: Any) -> None:
        """Take no step where none is left, or where the run is stopped before its first one. A private name upstream,
        which looks whether to stop after a step only."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*arguments, **keywords)

    def _maybe_log_save_evaluate(self, *arguments: Any, **keywords: Any) -> None:
        """Save without the evaluation where a stop ends that. A private name upstream, which has no hook between."""
        try:
            super()._maybe_log_save_evaluate(*arguments, **keywords)
        except StopEvaluation:
            # TRL would log what the evaluation has gathered so far as one.
            self.model.train()
            self._metrics["eval"].clear()
            self.control.should_evaluate = False
            self.control.should_save = self.control.should_training_stop = True
            super()._maybe_log_save_evaluate(*arguments, **keywords)

    def _load_from_checkpoint(self, *arguments: Any, **keywords: Any) -> None:
        """Load weights as what they were trained as. A private name upstream: PEFT's `load_adapter` makes float32
        of the bfloat16 adapter that TRL trains on a 4-bit base, and training would go on otherwise."""
        before = {
            name: weight.dtype for name, weight in self.model.named_parameters() if weight.requires_grad
        }
        super()._load_from_checkpoint(*arguments, **keywords)
        for name, weight in self.model.named_parameters():
            if weight.dtype != before.get(name, weight.dtype):
                weight.data = weight.data.to(before[name])

    def save_model(self, *arguments: Any, **keywords: Any) -> None:
        """Save as transformers does; under DeepSpeed what ZeRO-3 shards is gathered by the kit."""
        if self.is_deepspeed_enabled and self.saver is not None:
            from sft.training.gathering import consolidated

            self.deepspeed._zero3_consolidated_16bit_state_dict = partial(
                consolidated, self.deepspeed, memory=self.saver.host_memory
            )
        super().save_model(*arguments, **keywords)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save through the saver. A private name upstream: transformers pushes, rotates and calls `on_save` in
        the same breath, and has no hook that stands around the writing.

        TRL's own step of it, a model card beside the checkpoints, is left out: the kit writes one at the end.
        """
        if self.saver is None:
            super()._save_checkpoint(model, trial)
        else:
            self.saver.save(self, partial(Trainer._save_checkpoint, self, model, trial))


@contextmanager
def library_refusals(doing: str) -> Iterator[None]:
    """Turn what the libraries refuse at construction into problems that the user can mend.

    They check settings with ValueError and missing packages with ImportError; after construction such an
    error is no refusal any more, and keeps its traceback.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{doing}: {_text(error)}",
            where="the installed packages",
            fix="install the extra that README.md names for it, with -c constraints.txt",
            exit_code=ExitCode.ENVIRONMENT,
        ) from error
    except OSError as error:
        raise UserError(
            f"{doing}: {_text(error)}",
            where="model_name_or_path",
            fix="check the name and your access to it; where there is no network, name a local directory",
            exit_code=ExitCode.ENVIRONMENT if isinstance(error, ConnectionError) else ExitCode.USAGE,
        ) from error
    except (ValueError, TypeError, KeyError, NotImplementedError, AssertionError) as error:
        raise UserError(
            f"{doing}: {_text(error)}", where="the run file", fix="change the setting named above"
        ) from error


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def user_callbacks(config: RunConfig) -> list[TrainerCallback]:
    """Make the callbacks that the run file names, each a class or an instance."""
    made = []
    for reference in config.kit.callbacks:
        found = load_object(reference, "callbacks")
        callback = found() if isinstance(found, type) else found
        if not isinstance(callback, TrainerCallback):
            raise UserError(
                f"{reference} is no transformers.TrainerCallback",
                where="callbacks",
                fix="derive it from TrainerCallback",
            )
        made.append(callback)
    if config.kit.early_stopping_patience is not None:
        made.append(
            EarlyStoppingCallback(config.kit.early_stopping_patience, config.kit.early_stopping_threshold)
        )
    return made


def build_trainer(
    config: RunConfig,
    arguments: Any,
    train_split: Any,
    test_split: Any | None,
    callbacks: list[TrainerCallback],
) -> CountingTrainer:
    """Load the model, wrap it, tokenize the data: everything between a run file and the first step.

    Raises:
        UserError: a library refuses a setting, the model is not there, or a LoRA target matches nothing.
    """
    metrics = (
        load_object(config.kit.compute_metrics, "compute_metrics") if config.kit.compute_metrics else None
    )
    assert config.model.model_name_or_path is not None
    with library_refusals("the trainer cannot be built"):
        adapter = peft_config(config)
        try:
            trainer = CountingTrainer(
                model=config.model.model_name_or_path,
                args=arguments,
                train_dataset=train_split,
                eval_dataset=test_split,
                quantization_config=quantization_config(config),
                peft_config=adapter,
                compute_metrics=metrics,
                callbacks=[*callbacks, *user_callbacks(config)],
            )
        except NoMatchingPeftModuleError as error:
            raise _no_target(config) from error
    if config.kit.chat_template is not None:
        trainer.processing_class.chat_template = config.kit.chat_template
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    check_targets(trainer.model, config.model.lora_target_modules)
    check_saved_modules(trainer.model, config.model.lora_modules_to_save)
    if config.kit.prepare_model_for_kbit_training:
        upcast_frozen(trainer.model)
    return trainer


def _no_target(config: RunConfig) -> UserError:
    """Name what was asked for and what the model has; the model that PEFT refused is not handed out."""
    asked, model = config.model.lora_target_modules, config.model
    assert model.model_name_or_path is not None
    leaves = linear_leaves_of(
        model.model_name_or_path,
        revision=model.model_revision,
        trust_remote_code=config.training.trust_remote_code,
    )
    return no_target(", ".join(asked) if isinstance(asked, list) else str(asked), leaves)
