"""Instruction following: answer what is asked, learnt from chats or from instructions with answers.

Needs: chats (a column `messages`) or alpaca rows (`instruction`, `input`, `output`), a file, a directory or a Hub id; what
       `bash launch/quickstart.sh` leaves in quickstart/data is real text and is taken where $DATA names nothing else
Run:   sft launch recipes/tasks/instruct.py --model_name_or_path quickstart/base
Yours: DATA=my.jsonl sft launch recipes/tasks/instruct.py
Real:  DATA=tatsu-lab/alpaca sft launch recipes/tasks/instruct.py --validation_fraction 0.02
"""

import os

SHORTEST = 2  # words; a shorter answer teaches to say nothing


def to_chat(row):
    """Make a chat of a row of either shape; None drops it, and the data's summary counts it."""
    messages = row.get("messages")
    if messages is None:
        question = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
    if len((messages[-1]["content"] or "").split()) < SHORTEST:
        return None
    return {"messages": messages}


RUN = {
    "model_name_or_path": "Qwen/Qwen3-0.6B",
    "dtype": "bfloat16",
    "dataset_name": os.environ.get("DATA") or "quickstart/data",
    "dataset_mapping": to_chat,
    "assistant_only_loss": True,  # learn the answers, not the questions
    "max_length": 1024,
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
    # after it: base against adapter on the test split. An open question has no one answer to match: the loss tells most.
    "eval_metrics": ["loss", "perplexity"],
    "output_dir": "runs/instruct",
    "save_steps": 100,
    "save_total_limit": 2,
}
