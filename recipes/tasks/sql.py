"""SQL from a question and a schema. An answer counts if it gives what the reference gives, however it is spelled.

Needs: python recipes/tasks/make_data.py quickstart/tasks      (generated; or a file of your own with the same columns)
Run:   sft launch recipes/tasks/sql.py --model_name_or_path quickstart/base
Real:  sft launch recipes/tasks/sql.py --dataset_name b-mc2/sql-create-context --validation_fraction 0.02
"""

import random
import re
import sqlite3

SYSTEM = "Answer the question by one SQL query over these tables:\n"
ROWS = 40  # in each table of the database that two queries are compared on
STEPS = 1_000_000  # of SQLite's machine; a query that takes more is wrong


def to_chat(row):
    """Make prompt and completion: the schema and the question, and the query, which alone is learnt."""
    return {
        "prompt": [
            {"role": "system", "content": SYSTEM + row["context"]},
            {"role": "user", "content": row["question"]},
        ],
        "completion": [{"role": "assistant", "content": row["answer"]}],
    }


def same_result(prediction, reference, row):
    """Score an answer: 1 if both queries give the same rows of made-up tables, else 0."""
    expected = _result(reference, reference, row["context"])
    if expected is None:  # SQLite does not read the reference: compare the words
        return float(prediction.split() == reference.split())
    return float(_result(prediction, reference, row["context"]) == expected)


def _result(query, reference, schema):
    """Run a query on tables that hold the reference's own values among others; None if it cannot be run."""
    choose = random.Random(reference)
    texts = re.findall(r"'([^']*)'|\"([^\"]*)\"", reference)
    texts = [one or other for one, other in texts] + ["a", "b", "c"]
    numbers = [int(number) for number in re.findall(r"\b\d{1,9}\b", reference)] + [10, 1000]
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(schema)
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = database.execute(f'PRAGMA table_info("{table}")').fetchall()
            for _ in range(ROWS):
                values = [
                    max(0, choose.choice(numbers) + choose.randint(-5, 5)) if "INT" in column[2].upper() else choose.choice(texts)
                    for column in columns
                ]  # fmt: skip
                database.execute(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(values))})', values)
        # What a model has written may read these tables, and do nothing else.
        reads = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
        database.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in reads else sqlite3.SQLITE_DENY
        )
        steps = iter(range(STEPS // 1000))
        database.set_progress_handler(lambda: next(steps, None) is None, 1000)
        rows = database.execute(query).fetchall()
    except (sqlite3.Error, sqlite3.Warning, ValueError):
        return None
    finally:
        database.close()
    return rows if "order by" in reference.lower() else sorted(rows, key=repr)


RUN = {
    "model_name_or_path": "Qwen/Qwen3-0.6B",
    "dtype": "bfloat16",
    "dataset_name": "quickstart/tasks/sql",
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
    "eval_metrics": ["loss", "exact_match", same_result],
    "output_dir": "runs/sql",
    "save_steps": 100,
    "save_total_limit": 2,
}
