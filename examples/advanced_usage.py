"""`Trainer` made one's own: its arguments, a subclass with another loss, callbacks, and the best model at the end.

    python examples/advanced_usage.py
    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 examples/advanced_usage.py --output runs/advanced_usage_2

Sorts messages to a help desk into three classes of which one is rare, so that accuracy says little: rare rows weigh
more in the loss, and the best model is the one with the best F1. Takes seconds on a CPU and downloads nothing. The
same command goes on from its last checkpoint. Read getting_started.py first.
"""

import argparse
import json
import os
import random
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import (
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--output", type=Path, default="runs/advanced_usage")
parser.add_argument("--steps", type=int, default=120)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
world = int(os.environ.get("WORLD_SIZE", 1))
BATCH_SIZE, ACCUMULATION = 16, 2  # rows of a micro-batch over all processes; micro-batches of a step

# --- data: messages as numbers of words, one of which tells the class, and now and then the wrong one
CLASSES, SHARES = ("question", "complaint", "outage"), (80, 15, 5)
OWN_WORDS, LENGTH, VOCABULARY = 8, 8, 100
chance = random.Random(args.seed)


def message() -> dict[str, object]:
    """Make one message: words 1 to 24 belong to a class each, the others to none. 0 would be padding."""
    label = chance.choices(range(3), SHARES)[0]
    spoken = label if chance.random() < 0.95 else chance.randrange(3)
    words = [1 + OWN_WORDS * spoken + chance.randrange(OWN_WORDS)]
    words += chance.choices(range(1 + 3 * OWN_WORDS, VOCABULARY), k=LENGTH - 1)
    return {"input_ids": chance.sample(words, len(words)), "labels": label}


train, test = (Dataset.from_list([message() for _ in range(count)]) for count in (2000, 401))


def f1(prediction) -> dict[str, float]:
    """Score each class by itself; their mean counts the rare one as much as the others."""
    guessed, labels, scores = prediction.predictions.argmax(-1), prediction.label_ids, {}
    for number, name in enumerate(CLASSES):
        right = np.sum((guessed == number) & (labels == number))
        scores[f"f1_{name}"] = float(2 * right / max(1, np.sum(guessed == number) + np.sum(labels == number)))
    return scores | {"f1": float(np.mean(list(scores.values())))}


class WeightedTrainer(Trainer):
    """Counts a row the more in the loss, the rarer its class is."""

    weights = torch.tensor([sum(SHARES) / share for share in SHARES]) / 3

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Average over the rows of the whole step, which Trainer counts: all micro-batches of all processes."""
        # A mean over the micro-batch would be ACCUMULATION times too large: Trainer leaves that to the loss.
        labels_B = inputs["labels"]
        outputs = model(input_ids=inputs["input_ids"])
        loss = cross_entropy(outputs.logits, labels_B, self.weights.to(labels_B.device), reduction="sum")
        loss = loss / num_items_in_batch * self.args.world_size
        return (loss, outputs) if return_outputs else loss


class Curve(TrainerCallback):
    """Keeps what is logged as a file of JSON lines, and prints each evaluation."""

    def on_log(self, arguments, state, control, logs=None, **_):
        """Write from one process; the others log the same."""
        if state.is_world_process_zero:
            with (Path(arguments.output_dir) / "curve.jsonl").open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_evaluate(self, arguments, state, control, metrics, **_):
        """Print the scores. A callback may also act: `control.should_training_stop = True` ends the run."""
        if state.is_world_process_zero:
            scores = "  ".join(f"{name} {metrics[f'eval_f1_{name}']:.3f}" for name in CLASSES)
            print(f"step {state.global_step:3}  f1 {metrics['eval_f1']:.3f}  ({scores})")


# --- model and trainer
set_seed(args.seed)
size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
model = LlamaForSequenceClassification(LlamaConfig(vocab_size=VOCABULARY, num_labels=3, **size, **ends))
trainer = WeightedTrainer(
    model=model,
    args=TrainingArguments(
        output_dir=str(args.output),
        max_steps=args.steps,
        per_device_train_batch_size=BATCH_SIZE // world,
        gradient_accumulation_steps=ACCUMULATION,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,  # below 1: a share of all steps
        weight_decay=0.01,
        # Evaluate and save at the same steps: only what was saved can be the best.
        eval_strategy="steps",
        eval_steps=10,
        save_steps=10,
        save_total_limit=2,  # the best and the newest
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # else a resume forgets how long nothing got better
        logging_steps=10,
        seed=args.seed,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
    ),
    train_dataset=train,
    eval_dataset=test,
    compute_metrics=f1,
    callbacks=[Curve(), EarlyStoppingCallback(early_stopping_patience=4)],
)
trainer.remove_callback(PrinterCallback)
if trainer.args.world_size != world:
    raise SystemExit(f"{world} processes were launched, and the trainer sees {trainer.args.world_size}")
whole = [path.parent for path in args.output.glob("checkpoint-*/trainer_state.json")]
newest = max(whole, key=lambda path: int(path.name.partition("-")[2]), default=None)
trainer.train(resume_from_checkpoint=None if newest is None else str(newest))

# --- the best model is in memory again, and is what is saved
score = trainer.evaluate()["eval_f1"]
trainer.save_model()
if trainer.is_world_process_zero():
    state = trainer.state
    print(f"best f1 {state.best_metric:.3f} in {state.best_model_checkpoint}, of {state.global_step} steps")
    print(f"saved in {args.output}: f1 {score:.3f}")
trainer.accelerator.end_training()
