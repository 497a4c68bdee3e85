"""Train a small text classifier with `Trainer`, from nothing: data, tokenizer, model, training, accuracy.

    python examples/getting_started.py
    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 examples/getting_started.py --output runs/getting_started_2

Takes seconds on a CPU and downloads nothing: the reviews are generated, and the model is a tiny Llama with random
weights. Next: advanced_usage.py, or sft_minimal.py for a language model.
"""

import argparse
import itertools
import os
import random
from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--output", type=Path, default="runs/getting_started")
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()
world = int(os.environ.get("WORLD_SIZE", 1))  # said by the launcher
BATCH_SIZE = 32  # rows of a step, over all processes

# --- data: every review once. "not" turns a word around, so that counting good and bad words is not enough.
THINGS = ("plot", "cast", "music", "ending", "script", "camera", "pace", "humour", "costume", "sound")
VERBS, NEGATIONS = ("is", "was"), ("", "not ")
GOOD = ("great", "lovely", "clever", "moving", "funny", "superb", "brilliant", "charming")
BAD = ("dull", "awful", "clumsy", "boring", "weak", "dreadful", "shallow", "tiresome")
reviews = [
    {"text": f"the {thing} {verb} {negation}{word}", "label": int((word in GOOD) == (negation == ""))}
    for thing, verb, negation, word in itertools.product(THINGS, VERBS, NEGATIONS, GOOD + BAD)
]
random.Random(args.seed).shuffle(reviews)
# An odd number is held out, so that two processes have unlike shares of it: Trainer counts each row once.
test, train = Dataset.from_list(reviews[:151]), Dataset.from_list(reviews[151:])

# --- tokenizer: a number for each word of the training rows
words = Tokenizer(models.WordLevel(unk_token="[unknown]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
special = {"pad_token": "[pad]", "unk_token": "[unknown]"}
counting = trainers.WordLevelTrainer(special_tokens=list(special.values()), show_progress=False)
words.train_from_iterator(train["text"], counting)
names = ["input_ids", "attention_mask"]  # what a Llama takes
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=names, **special)
train, test = (rows.map(lambda row: tokenizer(row["text"]), batched=True) for rows in (train, test))

# --- model: random weights, the same on every process by the seed
set_seed(args.seed)
model = LlamaForSequenceClassification(
    LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=2,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
        pad_token_id=tokenizer.pad_token_id,  # a review is judged at its last token that is no padding
        bos_token_id=None,
        eos_token_id=None,
    )
)
# Its loss is the mean over a micro-batch. Trainer would take it for a share of the whole step, because `forward` takes
# any keyword, and so make it too large, by the number of processes times the micro-batches that are accumulated.
model.accepts_loss_kwargs = False


def accuracy(prediction) -> dict[str, float]:
    """Return the share of rows that were judged rightly; what evaluation adds to the loss."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


# --- training
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=str(args.output),
        num_train_epochs=args.epochs,
        per_device_train_batch_size=BATCH_SIZE // world,
        learning_rate=2e-3,
        eval_strategy="epoch",
        save_strategy="no",
        logging_steps=10,
        seed=args.seed,
        disable_tqdm=True,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),  # else processes without GPUs would train side by side
    ),
    train_dataset=train,
    eval_dataset=test,
    processing_class=tokenizer,  # also pads the rows of a batch
    compute_metrics=accuracy,
)
if trainer.args.world_size != world:
    raise SystemExit(f"{world} processes were launched, and the trainer sees {trainer.args.world_size}")
before = trainer.evaluate()["eval_accuracy"]
trainer.train()
after = trainer.evaluate()["eval_accuracy"]
trainer.save_model()  # weights, configuration and tokenizer: from_pretrained(args.output) has it all

# --- use it, from the disk
if trainer.is_world_process_zero():
    loaded = LlamaForSequenceClassification.from_pretrained(args.output)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.output)
    print(f"accuracy on {len(test)} held-out reviews: {before:.3f} before, {after:.3f} after")
    for text in ("the plot was not dull", "the music is not great"):
        answer = loaded(**tokenizer(text, return_tensors="pt")).logits.argmax(-1).item()
        print(f"{text}: {loaded.config.id2label[answer]}")
trainer.accelerator.end_training()
