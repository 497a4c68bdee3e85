"""Compare models by their logits on a few prompts, and decide how far apart they may be.

One prompt at a time, so that no padding takes part. B=1 is left out: T tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# In units of the logits' spread. Measured on SmolLM2-135M in bfloat16: 4e-5 before rounding; after it 13 to 35 times
# the type's epsilon over three adapters, where running base and adapter in bfloat16 instead of float32 does 41.
FLOAT32_NOISE = 1e-3
ROUNDING_FACTOR = 100

PROMPTS = (
    "What is the capital of France?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Explain in two sentences why the sky is blue, then in one why sunsets are red.",
    "Translate into German: The train to Zurich leaves at 7:45, and the ticket costs 32 francs.",
)


def encode_prompts(tokenizer: Any | None, vocabulary: int) -> tuple[list[Tensor], str]:
    """Encode the prompts, by the chat template where there is one; say how it was done.

    Returns:
        One int64 tensor of shape (1, T) a prompt; fixed token ids where there is no tokenizer.
    """
    if tokenizer is None:
        generator = torch.Generator().manual_seed(0)
        return [torch.randint(vocabulary, (1, 24), generator=generator) for _ in PROMPTS], "fixed token ids"
    if tokenizer.chat_template:
        rendered = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )["input_ids"]
            for prompt in PROMPTS
        ]
        return rendered, "prompts in the chat template"
    return [tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in PROMPTS], "plain prompts"


def logits_of(model: Any, prompts: list[Tensor], *, as_in_training: bool = False) -> list[Tensor]:
    """Return float32 logits of shape (T, V) a prompt.

    Args:
        as_in_training: let bitsandbytes take the path that it takes under autograd. On CPUs with AVX512-BF16
            the other one repacks 4-bit weights in place and rounds their scales to bfloat16, so that a
            dequantisation afterwards would give other values.
    """
    hook = None
    if as_in_training:
        hook = model.get_input_embeddings().register_forward_hook(
            lambda _, __, output: output.requires_grad_()
        )
    logits = []
    with torch.set_grad_enabled(as_in_training):
        for ids in prompts:
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            logits.append(output.logits[0].detach().float())
    if hook is not None:
        hook.remove()
    return logits


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest absolute difference; NaN anywhere gives NaN."""
    return max_with_nan([(a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)])


def max_with_nan(values: list[float]) -> float:
    """Return the maximum, or NaN where one value is NaN (which `max` may pass over)."""
    return torch.tensor(values, dtype=torch.float64).max().item()


def spread_of(logits: list[Tensor]) -> float:
    """Return the standard deviation of the logits over the vocabulary, averaged over the tokens.

    It is the scale that softmax sees: a constant added to all logits of a token changes nothing.
    """
    return torch.cat([l_TV.std(dim=-1) for l_TV in logits]).mean().item()


def bound(reference: list[Tensor], dtype: torch.dtype, compute_dtype: torch.dtype) -> float:
    """Return the largest difference that rounding explains, for weights in `dtype` run in `compute_dtype`."""
    epsilon = max(torch.finfo(dtype).eps, torch.finfo(compute_dtype).eps)
    return spread_of(reference) * max(FLOAT32_NOISE, ROUNDING_FACTOR * epsilon)
