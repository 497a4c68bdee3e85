"""Answer the same questions with several models, the plain transformers way: QUESTIONS.json OUT.json MODEL...

Below the torch line: a program that the last stage runs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

NEW_TOKENS = 64


def answers(model_name: str, questions: list[str]) -> list[str]:
    """Return the model's greedy answers; a base model without a chat template continues the text."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Most CPUs compute in float32 several times faster than in bfloat16.
    dtype = "auto" if device == "cuda" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    model = AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype).to(device).eval()
    found = []
    for number, question in enumerate(questions, start=1):
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": question}]
            inputs = tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        else:
            inputs = tokenizer(question, return_tensors="pt")
        inputs = inputs.to(device)
        reply_1T = model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        reply_T = reply_1T[0, inputs["input_ids"].shape[1] :]
        # The cut is shown, or an answer of this length would look finished.
        cut = "" if len(reply_T) < NEW_TOKENS else " ..."
        found.append(tokenizer.decode(reply_T, skip_special_tokens=True).strip() + cut)
        print(f"{Path(model_name).name}: question {number} of {len(questions)} answered", flush=True)
    return found


def main() -> None:
    questions_file, output, *models = sys.argv[1:]
    # A token of a small model is too little work to share: on a busy machine, threads that wait for each
    # other made this twenty times slower, and on an idle one they gain seconds.
    torch.set_num_threads(1)
    questions = json.loads(Path(questions_file).read_text(encoding="utf-8"))
    found = {model: answers(model, questions) for model in models}
    Path(output).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
