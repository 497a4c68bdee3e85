"""What is written of a run's settings holds no secret, and all that a later launch compares."""

from __future__ import annotations

from sft.training.reporting import without_secrets


def test_secrets_are_left_out_and_what_speaks_of_tokens_of_a_text_is_not() -> None:
    settings = {
        "eos_token": "<|im_end|>",
        "pad_token": "<pad>",
        "tokenizer_backend": "auto",
        "special_tokens_in_content": "text",
        "hub_token": "hf_secret",
        "env": {"WANDB_API_KEY": "secret", "MY_TOKEN": "secret", "HF_HOME": "/here"},
        "model_init_kwargs": {"token": "hf_secret", "dtype": "bfloat16"},
    }
    assert without_secrets(settings) == {
        "eos_token": "<|im_end|>",
        "pad_token": "<pad>",
        "tokenizer_backend": "auto",
        "special_tokens_in_content": "text",
        "env": {"HF_HOME": "/here"},
        "model_init_kwargs": {"dtype": "bfloat16"},
    }
