"""Rewriting: a rude sentence, said politely.

Needs: python recipes/tasks/make_data.py quickstart/tasks      (generated; or a file of your own with the same columns)
Run:   sft launch recipes/tasks/rewrite.py --model_name_or_path quickstart/base
Real:  sft launch recipes/tasks/rewrite.py --dataset_name s-nlp/paradetox --validation_fraction 0.02
"""

import re

SYSTEM = "Rewrite the sentence so that it is polite and says the same."
RUDE = re.compile(r"\b(idiot|moron|fool|clown|loser|damn|stupid|bloody|useless|pathetic|shut up|asleep|mad)\b", re.IGNORECASE)  # fmt: skip


def to_chat(row):
    """Make prompt and completion of the two sentences; only the second is learnt."""
    return {
        "prompt": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": row["en_toxic_comment"]},
        ],
        "completion": [{"role": "assistant", "content": row["en_neutral_comment"]}],
    }


def polite_overlap(prediction, reference):
    """Score an answer: 0 if it is still rude, else the share of its words and the reference's that are in both (F1)."""
    if RUDE.search(prediction):
        return 0.0
    said, meant = (re.findall(r"\w+", text.lower()) for text in (prediction, reference))
    common = sum(min(said.count(word), meant.count(word)) for word in set(said))
    return 2 * common / (len(said) + len(meant)) if common else 0.0


RUN = {
    "model_name_or_path": "Qwen/Qwen3-0.6B",
    "dtype": "bfloat16",
    "dataset_name": "quickstart/tasks/rewrite",
    "dataset_mapping": to_chat,
    "max_length": 512,
    # LoRA
    "use_peft": True,
    "lora_target_modules": "all-linear",
    "lora_r": 16,
    "lora_alpha": 32,
    # training
    "total_train_batch_size": 48,
    "per_device_train_batch_size": 2,
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "num_train_epochs": 1,
    "logging_steps": 10,
    "eval_strategy": "epoch",
    # after it: base against adapter on the test split; the last metric is the one that `sft table` shows
    "eval_metrics": ["loss", "exact_match", polite_overlap],
    "output_dir": "runs/rewrite",
    "save_steps": 100,
    "save_total_limit": 2,
}
