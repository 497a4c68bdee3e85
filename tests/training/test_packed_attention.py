"""Samples that share a row are kept apart: logits and gradients are those of each sample alone.

Rows go through TRL's own collator. FlashAttention's kernel needs a GPU; without one, plain arithmetic stands in for
the kernel, which shows that transformers hands it the bounds of the samples, and not what the kernel does with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, modeling_flash_attention_utils
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from sft.plan.combinations.packing import FLASH_ONLY, MIXES

VOCABULARY = 128
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WINDOW = 8
"""Tokens that a sliding window sees: fewer than the longer samples have."""
GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "mistral": {**SHAPE, "sliding_window": WINDOW},
    "qwen2": {**SHAPE, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "gemma3_text": {**SHAPE, "head_dim": 8, "sliding_window": WINDOW},
    "mixtral": {**SHAPE, "num_local_experts": 2, "num_experts_per_tok": 1},
    "gpt2": {**GPT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "gpt_oss": {
        **SHAPE,
        "head_dim": 8,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "sliding_window": WINDOW,
    },
    "bloom": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {k: v for k, v in SHAPE.items() if k != "num_key_value_heads"},
    "mamba2": {**SHAPE, "state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1},
}
LENGTHS = (11, 23, 1, 5, 17)


def tiny_model(kind: str, attention: str | None, device: str = "cpu", dtype: Any = torch.float32) -> Any:
    """Make a model with weights large enough that a token which sees too much is seen to."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[kind](**SHAPES[kind]), attn_implementation=attention, dtype=dtype
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.to(device).eval()


def differences(model: Any, *, backward: bool = True) -> tuple[float, float]:
    """Return how far logits and gradients of a packed row are from those of its samples, relative to the largest."""
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]
    row = [token for sample in samples for token in sample]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": row, "labels": row, "seq_lengths": list(LENGTHS)}])
    batch = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
    labels = batch.pop("labels")

    def gradients() -> torch.Tensor:
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        model.zero_grad()
        return torch.cat([gradient.flatten() for gradient in found])

    def step(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = cross_entropy(logits[0, :-1].float(), targets[0, 1:], ignore_index=-100, reduction="sum")
        if backward and loss.requires_grad:
            loss.backward()
        return logits.detach()

    with torch.set_grad_enabled(backward):
        packed = step(model(**batch, use_cache=False).logits, labels)
        packed_gradients = gradients()
        alone = []
        for sample in samples:
            tokens = torch.tensor([sample], device=model.device)
            alone.append(step(model(input_ids=tokens, use_cache=False).logits, tokens))
    together, together_gradients = torch.cat(alone, 1), gradients()
    logits_apart = (packed - together).abs().max() / together.abs().max()
    gradients_apart = (packed_gradients - together_gradients).abs().max() / together_gradients.abs().max()
    return float(logits_apart), float(gradients_apart) if backward else 0.0


def varlen(q: Any, k: Any, v: Any, cu_seqlens_q: Any = None, cu_seqlens_k: Any = None, max_seqlen_q: Any = None,
           max_seqlen_k: Any = None, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False,
           window_size: Any = (-1, -1), s_aux: Any = None) -> torch.Tensor:  # fmt: skip
    """What flash_attn_varlen_func computes, sample by sample: q, k, v are tokens x heads x head size."""
    assert causal
    assert torch.equal(cu_seqlens_q, cu_seqlens_k)
    bounds, parts = cu_seqlens_q.tolist(), []
    for start, stop in itertools.pairwise(bounds):
        Q, K, V = (
            each[start:stop].repeat_interleave(q.shape[1] // each.shape[1], 1).transpose(0, 1)
            for each in (q, k, v)
        )
        place = torch.arange(stop - start)
        behind = place[:, None] - place
        sees = (behind >= 0) & ((behind <= window_size[0]) | (window_size[0] < 0))
        scores = (Q @ K.transpose(1, 2) * softmax_scale).masked_fill(~sees, float("-inf"))
        if s_aux is not None:
            sink = s_aux.view(-1, 1, 1).expand(-1, stop - start, 1)
            weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
        else:
            weights = scores.softmax(-1)
        parts.append((weights @ V).transpose(0, 1))
    return torch.cat(parts)


def dense(q: Any, k: Any, v: Any, **more: Any) -> torch.Tensor:
    """What flash_attn_func computes of one row: batch x tokens x heads x head size."""
    bounds = torch.tensor([0, q.shape[1]])
    return varlen(q[0], k[0], v[0], cu_seqlens_q=bounds, cu_seqlens_k=bounds, **more)[None]


@contextmanager
def kernel_stand_in(model: Any, name: str) -> Iterator[list[int]]:
    """Run a model through transformers' FlashAttention with the kernel replaced; yields the samples of each call."""
    calls: list[int] = []

    def counted(*arrays: Any, cu_seqlens_q: Any = None, cu_seqlens_k: Any = None, max_seqlen_q: Any = None,
                max_seqlen_k: Any = None, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False,
                window_size: Any = (-1, -1), s_aux: Any = None) -> torch.Tensor:  # fmt: skip
        calls.append(len(cu_seqlens_q) - 1)
        return varlen(*arrays, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, causal=causal,
                      softmax_scale=softmax_scale, window_size=window_size, s_aux=s_aux)  # fmt: skip

    utils = modeling_flash_attention_utils
    with pytest.MonkeyPatch.context() as patch:
        functions = (dense, counted, None, utils._pad_input, utils._unpad_input)
        patch.setattr(utils, "_lazy_imports", lambda *a, **k: functions)
        patch.setattr(utils, "_loaded_implementation", None)
        for module in model.modules():
            if hasattr(module, "config") and hasattr(module.config, "_attn_implementation"):
                patch.setattr(module.config, "_attn_implementation_internal", name)
        yield calls
    utils._loaded_implementation = None


APART = ["llama", "mistral", "qwen2", "gemma3_text", "mixtral", "gpt2"]


@pytest.mark.parametrize("kind", APART)
@pytest.mark.parametrize("attention", [None, "eager", "sdpa"])
def test_packed_samples_are_computed_as_if_alone(kind: str, attention: str | None) -> None:
    model = tiny_model(kind, attention)
    assert attention in (None, model.config._attn_implementation)
    assert max(differences(model)) < 1e-5


@pytest.mark.parametrize("kind", [*APART[:-1], "gpt_oss"])  # gpt2 has no torch.nn.Linear to take a dtype from
@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_is_told_where_samples_begin(kind: str, name: str) -> None:
    model = tiny_model(kind, "eager")
    with kernel_stand_in(model, name) as calls:
        assert max(differences(model)) < 1e-5
    assert calls == [len(LENGTHS)] * 2  # once a layer, in the packed row alone


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_flex_attention_computes_logits_of_packed_samples_as_if_alone(kind: str) -> None:
    """On the CPU it has no backward pass, and compiling takes a while."""
    assert differences(tiny_model(kind, "flex_attention"), backward=False)[0] < 1e-5


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
FLASH = pytest.mark.skipif(find_spec("flash_attn") is None, reason="needs the package flash-attn")


@GPU
@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize(
    ("attention", "dtype", "most"),
    [
        ("sdpa", torch.float32, 1e-4),
        ("flex_attention", torch.float32, 1e-2),
        pytest.param("flash_attention_2", torch.bfloat16, 5e-2, marks=FLASH),
    ],
)
def test_on_a_gpu_too(kind: str, attention: str, dtype: Any, most: float) -> None:
    assert max(differences(tiny_model(kind, attention, "cuda", dtype))) < most


@pytest.mark.parametrize("kind", ["bloom", "falcon", "mamba2", "gpt_oss"])
def test_models_that_are_refused_do_mix_samples(kind: str) -> None:
    assert kind in MIXES | FLASH_ONLY
    assert min(differences(tiny_model(kind, None))) > 1e-2


def test_an_attention_of_another_name_does_mix_samples() -> None:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("sdpa_by_another_name", sdpa_attention_forward)
    assert min(differences(tiny_model("llama", "sdpa_by_another_name"))) > 1e-1


def test_packed_rows_without_the_lengths_of_their_samples_are_mixed() -> None:
    """What tells that the comparison above can fail: plain rows, as of `wrapped`."""
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    row = list(range(3, 30))
    model = tiny_model("llama", "sdpa")
    with torch.no_grad():
        apart, mixed = (
            model(**{key: value for key, value in collate([example]).items() if key != "labels"}).logits
            for example in ({"input_ids": row, "seq_lengths": [13, 14]}, {"input_ids": row})
        )
    assert torch.allclose(apart[:, :13], mixed[:, :13], atol=1e-5)
    assert (apart[:, 13:] - mixed[:, 13:]).abs().max() > 0.05
