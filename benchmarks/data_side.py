"""One side of benchmarks/data.py, in a process of its own: SIDE SETTINGS.json. Prints one JSON object at the end.

Importing is not timed. What each side does:
    render   every chat as text, for the bare tokenizer (not timed)
    limit    tokenizers' encode_batch and encode_batch_fast over the rendered texts, with all threads
    ours     sft.data.prepare with an empty cache: reading, hashing and writing the entry are in its seconds
    trl      SFTTrainer._prepare_dataset as a real SFTTrainer calls it; reading the file is not in its seconds
    rows     tokens and labels of every row, not packed, of `ours` and of `trl`, compared
    padded   training by SFTTrainer with its default of 8 padded rows a batch
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

BATCH = 2000
"""Texts handed to the tokenizer at once: enough for all threads, and little enough to hold."""


def run_words(settings: dict[str, Any], *, packing: bool) -> list[str]:
    """Say what is prepared, as `sft` takes it."""
    words = {
        "model_name_or_path": settings["model"],
        "dataset_name": settings["chats"],
        "assistant_only_loss": "true",
        "max_length": settings["max_length"],
        "packing": "true" if packing else "false",
        "use_cpu": "true",
        "bf16": "false",
        "data_cache": settings["scratch"] + "/cache",
        "output_dir": settings["scratch"] + "/out",
        "max_cut_answers": 1,
    }
    return [word for key, value in words.items() for word in (f"--{key}", str(value))]


def render(settings: dict[str, Any]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    count = 0
    with open(settings["chats"]) as chats, open(settings["texts"], "w") as texts:
        for line in chats:
            text = tokenizer.apply_chat_template(json.loads(line)["messages"], tokenize=False)
            texts.write(json.dumps(text) + "\n")
            count += 1
    return {"rows": count}


def limit(settings: dict[str, Any]) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(settings["model"] + "/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    with open(settings["texts"]) as file:
        texts = [json.loads(line) for line in file]
    seconds, tokens = {}, 0
    for name in ("encode_batch", "encode_batch_fast"):
        encode, tokens = getattr(tokenizer, name), 0
        begin = time.perf_counter()
        for start in range(0, len(texts), BATCH):
            tokens += sum(map(len, encode(texts[start : start + BATCH], add_special_tokens=False)))
        seconds[name] = time.perf_counter() - begin
    return {"seconds": min(seconds.values()), "tokens": tokens, **seconds}


def ours(settings: dict[str, Any], *, packing: bool = True) -> dict[str, Any]:
    from sft.config.loader import load_run
    from sft.data.prepare import prepare

    loaded = load_run(None, run_words(settings, packing=packing), environment={})
    begin = time.perf_counter()
    entry = prepare(loaded, say=lambda line: None)
    seconds = time.perf_counter() - begin
    summary = entry.summary("train")
    return {
        "seconds": seconds,
        "rows": summary.rows,
        "tokens": summary.tokens,
        "directory": str(entry.directory),
    }


def _trainer(settings: dict[str, Any], *, model: Any, processes: int | None, **more: Any) -> Any:
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_caching()
    taken: list[float] = []

    class Timed(SFTTrainer):  # type: ignore[misc]
        """SFTTrainer that says how long it prepared."""

        prepared_seconds = taken

        def _prepare_dataset(self, *arguments: Any, **keywords: Any) -> Any:
            begin = time.perf_counter()
            try:
                return super()._prepare_dataset(*arguments, **keywords)
            finally:
                taken.append(time.perf_counter() - begin)

    rows = datasets.load_dataset("json", data_files=settings["chats"], split="train")
    arguments = SFTConfig(
        output_dir=settings["scratch"] + "/trl",
        use_cpu=True,
        bf16=False,
        assistant_only_loss=True,
        dataset_num_proc=processes,
        report_to="none",
        disable_tqdm=True,
        **{"max_length": settings["max_length"], **more},
    )
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    return Timed(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)


def _tiny(settings: dict[str, Any], hidden: int = 16, layers: int = 1) -> Any:
    """Make a Llama for the tokenizer of the benchmark; what is prepared does not depend on it."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(AutoTokenizer.from_pretrained(settings["model"])),
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=max(1, hidden // 64),
            max_position_embeddings=8192,
            tie_word_embeddings=True,
        )
    )


def trl(settings: dict[str, Any]) -> dict[str, Any]:
    trainer = _trainer(settings, model=_tiny(settings), processes=settings["processes"], packing=True)
    rows = trainer.train_dataset
    tokens = sum(sum(lengths) for batch in rows.iter(1000) for lengths in batch["seq_lengths"])
    return {"seconds": trainer.prepared_seconds[0], "rows": len(rows), "tokens": tokens}


def rows(settings: dict[str, Any]) -> dict[str, Any]:
    """Compare every row; the kit's come in the order of the file when nothing is packed or shuffled."""
    import datasets

    # Before ours, which starts workers: they must not inherit torch's threads.
    entry = ours(settings, packing=False)
    mine = datasets.Dataset.from_file(entry["directory"] + "/train.arrow")
    plain = _trainer(settings, model=_tiny(settings), processes=None, packing=False).train_dataset
    found: dict[str, Any] = {"rows": [len(mine), len(plain)], "tokens": 0, "labels": 0, "trained": [0, 0]}
    examples = []
    for number, (a, b) in enumerate(zip(mine, plain, strict=False)):
        same = [a[column] == b[column] for column in ("input_ids", "labels")]
        found["tokens"] += not same[0]
        found["labels"] += not same[1]
        for side, row in enumerate((a, b)):
            found["trained"][side] += sum(label != -100 for label in row["labels"])
        if not all(same) and len(examples) < 5:
            place = next(
                (i for i, (x, y) in enumerate(zip(a["input_ids"], b["input_ids"], strict=False)) if x != y),
                None,
            )
            examples.append({"row": number + 1, "first_token_that_differs": place})
    return {**found, "examples": examples}


def padded(settings: dict[str, Any]) -> dict[str, Any]:
    """Train as TRL does by default, and count the tokens that the loss is divided by."""
    from transformers import AutoModelForCausalLM, TrainerCallback

    marks: list[tuple[float, float]] = []
    counted = [0.0]

    class Mark(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            marks.append((time.perf_counter(), counted[0]))

    model = AutoModelForCausalLM.from_pretrained(settings["trained_model"], dtype="float32")
    trainer = _trainer(
        settings,
        model=model,
        processes=None,
        max_steps=settings["steps"],
        per_device_train_batch_size=8,
        seed=settings["seed"],
        logging_steps=1,
        save_strategy="no",
    )
    fetch = trainer.get_batch_samples

    def counting(*arguments: Any, **keywords: Any) -> Any:
        samples, count = fetch(*arguments, **keywords)
        counted[0] += float(count)
        return samples, count

    trainer.get_batch_samples = counting
    trainer.add_callback(Mark())
    trainer.train()
    return {"marks": marks}


def tiny(settings: dict[str, Any]) -> dict[str, Any]:
    """Save the small Llama that is trained where no model is given, with the tokenizer beside it."""
    from transformers import AutoTokenizer

    model = _tiny(settings, hidden=256, layers=4)
    model.save_pretrained(settings["trained_model"])
    AutoTokenizer.from_pretrained(settings["model"]).save_pretrained(settings["trained_model"])
    return {"parameters": model.num_parameters()}


SIDES = {side.__name__: side for side in (render, limit, ours, trl, rows, padded, tiny)}

if __name__ == "__main__":
    # Libraries greet on stdout, which is for the result.
    with contextlib.redirect_stdout(sys.stderr):
        found = SIDES[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
    print(json.dumps(found), flush=True)
    os._exit(0) if sys.argv[1] == "padded" else None
