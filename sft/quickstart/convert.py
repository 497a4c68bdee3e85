"""Convert the GGUF file into a directory that a plain `from_pretrained` loads: FILE.gguf DIRECTORY.

Below the torch line: a program that `sft.quickstart.model` runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def convert(gguf: Path, directory: Path) -> None:
    """Unpack the weights to bfloat16 and save them with tokenizer, chat template and generation settings."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(directory)
    # transformers leaves the weights to their owner alone.
    (directory / "model.safetensors").chmod(0o644)

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8")
    tokenizer.save_pretrained(directory)


def verify(directory: Path) -> None:
    """Load what was saved the plain way, and hear one answer that only working weights give."""
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    reply_1T = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(reply_1T[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    print(f"{question[0]['content']} -> {answer}")
    if "Paris" not in answer:
        raise RuntimeError(f"The converted model answers {answer!r}: the weights were not read as they are")


def main() -> None:
    gguf, directory = map(Path, sys.argv[1:])
    convert(gguf, directory)
    verify(directory)


if __name__ == "__main__":
    main()
