"""Broken setups: the tokenizer beside the model, the chat template, and the data."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.check.corpus.bench import Bench, Broken
from tests.check.corpus.spoil import shapes_of, write_weights

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def settings(**changes: object) -> Callable[[Bench], object]:
    return lambda bench: bench.settings.update(changes)


def rows(*lines: object) -> Callable[[Bench], object]:
    """Have other rows, each as JSON or as the text that it is."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    return lambda bench: bench.data.write_text(text, encoding="utf-8")


def no_tokenizer(bench: Bench) -> None:
    for name in TOKENIZER_FILES:
        (bench.model / name).unlink(missing_ok=True)


def pad_beyond_the_embeddings(bench: Bench) -> None:
    """Add a token as `tokenizer.add_special_tokens` does, and do not resize the embeddings."""

    def add(file: dict[str, object]) -> None:
        added = file["added_tokens"]
        assert isinstance(added, list)
        added.append({**added[0], "id": 512, "content": "[PAD]"})

    bench.edit("tokenizer.json", add)
    bench.edit("tokenizer_config.json", lambda one: one.update(pad_token="[PAD]"))


def tokenizer_of_another_model(bench: Bench) -> None:
    """Embeddings of a smaller vocabulary than the tokenizer's."""
    file = bench.model / "model.safetensors"
    tensors = shapes_of(file)
    for name, (dtype, shape) in list(tensors.items()):
        if shape[0] == 512:
            tensors[name] = (dtype, (384, *shape[1:]))
    write_weights(file, tensors)
    bench.edit("config.json", lambda one: one.update(vocab_size=384))


def eos_of_the_base_model(bench: Bench) -> None:
    """As base models have it: their template ends answers with a token that is not their end of text."""
    bench.edit("tokenizer_config.json", lambda one: one.update(eos_token="<|endoftext|>"))
    bench.edit("generation_config.json", lambda one: one.update(eos_token_id=0))


def neither_pad_nor_eos(bench: Bench) -> None:
    def change(one: dict[str, object]) -> None:
        one.pop("pad_token")
        one.pop("eos_token")

    bench.edit("tokenizer_config.json", change)
    (bench.model / "special_tokens_map.json").unlink(missing_ok=True)


def no_template(bench: Bench) -> None:
    (bench.model / "chat_template.jinja").unlink(missing_ok=True)
    bench.edit("tokenizer_config.json", lambda one: one.pop("chat_template", None))


def llama_template(bench: Bench) -> None:
    template = bench.directory / "llama.jinja"
    template.write_text(
        "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>' }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|eot_id|>' }}{% endgeneration %}"
        "{% else %}{{ m['content'] + '<|eot_id|>' }}{% endif %}{% endfor %}"
    )
    bench.settings["chat_template_path"] = str(template)


BROKEN = (
    Broken(
        "a model that was saved without its tokenizer",
        "https://github.com/huggingface/transformers/issues/28670",
        "has no tokenizer",
        "tokenizer",
        no_tokenizer,
    ),
    Broken(
        "a padding token beyond the rows of the embeddings",
        "https://github.com/meta-llama/llama-cookbook/issues/189",
        "has embeddings for 512 tokens, and none for [PAD] (512)",
        "tokenizer",
        pad_beyond_the_embeddings,
    ),
    Broken(
        "a tokenizer of another model, with more tokens than embeddings",
        "https://github.com/fc2869/lo-fit/issues/1",
        "words of the tokenizer have ids beyond the 384 rows",
        "tokenizer",
        tokenizer_of_another_model,
    ),
    Broken(
        "answers that end in a token at which generation does not stop",
        "https://github.com/huggingface/trl/issues/2059",
        "ends an answer with <|im_end|>, and generation ends at <|endoftext|>",
        "tokenizer",
        eos_of_the_base_model,
    ),
    Broken(
        "a tokenizer that names neither a padding nor an end token",
        "https://github.com/huggingface/trl/issues/466",
        "names neither a pad_token nor an eos_token",
        "tokenizer",
        neither_pad_nor_eos,
    ),
    Broken(
        "a pad_token that is no token",
        "https://github.com/QwenLM/Qwen/issues/125",
        "the vocabulary has no token '<pad>'",
        "tokenizer",
        settings(pad_token="<pad>"),
    ),
    Broken(
        "a template in tokens that the vocabulary lacks",
        "https://github.com/foundation-model-stack/fms-hf-tuning/issues/470",
        "which the vocabulary lacks: each falls into pieces",
        "tokenizer",
        llama_template,
    ),
    Broken(
        "chats for a base model that has no chat template",
        "https://github.com/unslothai/unsloth/issues/2096",
        "the tokenizer has no chat template",
        "data",
        no_template,
    ),
    Broken(
        "an eos_token that is no token",
        "https://github.com/huggingface/trl/pull/3200",
        "the vocabulary has no token '</s>'",
        "data",
        settings(eos_token="</s>"),
    ),
    Broken(
        "a max_length that leaves nothing to train",
        "https://github.com/huggingface/trl/issues/362",
        "no row of the train split is left to train",
        "data",
        settings(max_length=4),
    ),
    Broken(
        "a row that is no JSON",
        "https://github.com/tloen/alpaca-lora/issues/239",
        "is not valid JSON",
        "data",
        rows('{"messages": [{"role": "user", "content": "a"}'),
    ),
    Broken(
        "rows of a shape that nobody knows",
        "https://github.com/unslothai/unsloth/issues/337",
        "fit no known shape",
        "data",
        rows({"question": "What is it?", "reply": "It is 42."}),
    ),
    Broken(
        "an empty file of data",
        "https://github.com/huggingface/autotrain-advanced/issues/432",
        "the file is empty",
        "data",
        rows(),
    ),
    Broken(
        "an evaluation without a split for it",
        "https://github.com/huggingface/trl/issues/2253",
        "the data set has no split 'test'",
        "data",
        settings(eval_strategy="steps", eval_steps=5),
    ),
    Broken(
        "a data set at a path that is not there",
        "https://huggingface.co/docs/datasets/loading",
        "is not there",
        "paths",
        settings(dataset_name="/data/chats.jsonl"),
    ),
)
