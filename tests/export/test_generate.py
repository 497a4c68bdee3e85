"""Answers from one base and its adapters: they stop where the trained turn ends, and change without loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft.errors import UserError
from sft.export import generate
from sft.export.generate import Engine
from sft.export.generation import GenerationSettings
from sft.export.subject import find_subject
from sft.export.turns import Ends
from tests import tiny
from tests.export.adapters import write_adapter, write_run
from tests.export.taught import BEFORE, CHATS, answer, question

LONG = GenerationSettings(max_new_tokens=100)
ASK = [{"role": "user", "content": "What is number 3 about sockets?"}]


def engine_of(source: Path, *adapters: str, **settings: str) -> Engine:
    engine = Engine(find_subject(str(source), adapters), **settings)
    engine.attach()
    return engine


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_an_answer_stops_where_the_trained_turn_ends(kind: str, full_run: Path, lora_run: Path) -> None:
    """The base's own end of sequence is another token: only the template tells where a turn ends."""
    engine = engine_of(full_run if kind == "full" else lora_run)
    speaker = next(iter(engine.names), None)
    turns = engine.turns(speaker)
    learned = BEFORE if kind == "full" else CHATS
    for row in learned:
        reply = engine.answer(question(row), speaker, LONG)
        assert "".join(reply) == answer(row)
        tokens = len(turns.tokenizer.encode(answer(row)).ids) + 1
        assert (reply.ended, reply.tokens) == ("turn", tokens)
        assert tokens < LONG.max_new_tokens / 2
    # The model goes on where nobody stops it, so what stopped it is the end that was read off the template.
    turns.ends = Ends(frozenset([0]))
    reply = engine.answer(question(learned[0]), speaker, LONG)
    assert "".join(reply).startswith(answer(learned[0]))
    assert (reply.ended, reply.tokens) == ("length", 100)


def greedy(model: object, tokenizer: object) -> str:
    """Answer the plain transformers way."""
    ids = tokenizer.apply_chat_template(
        ASK, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return tokenizer.decode(out, skip_special_tokens=True)


def test_adapters_change_by_name_and_the_base_is_loaded_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    places = {"one": write_adapter(tiny_model, tmp_path / "one", std=0.1)}
    places["two"] = write_adapter(tiny_model, tmp_path / "two", std=0.2, r=8, use_rslora=True)
    expected = {None: greedy(AutoModelForCausalLM.from_pretrained(tiny_model), tokenizer)}
    for name, place in places.items():
        alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), place)
        expected[name] = greedy(alone, tokenizer)
    assert len(set(expected.values())) == 3

    loads: list[object] = []
    load = generate.load_model
    monkeypatch.setattr(generate, "load_model", lambda *words: loads.append(words) or load(*words))
    engine = engine_of(places["one"], str(places["two"]))
    assert engine.names == ["one", "two"]
    settings = GenerationSettings(max_new_tokens=12)
    for name in ("two", None, "one", "two", "one", None):
        assert "".join(engine.answer(ASK, name, settings)) == expected[name], name
    assert len(loads) == 1


def test_text_comes_while_it_is_written_and_can_be_broken_off(full_run: Path) -> None:
    engine = engine_of(full_run)
    row = BEFORE[3]
    reply = engine.answer(question(row), None, LONG)
    pieces = iter(reply)
    first = next(pieces)
    assert answer(row).startswith(first)
    assert len(first) < len(answer(row)) / 2
    pieces.close()
    assert reply.ended == "stopped"
    assert "".join(engine.answer(question(row), None, LONG)) == answer(row), "and the next answer is whole"


def test_an_error_inside_is_told_where_the_answer_is_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_model)
    monkeypatch.setattr(engine.model, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(engine.answer(ASK))


def test_settings_are_heeded_and_nothing_of_the_models_own(tiny_model: Path) -> None:
    engine = engine_of(tiny_model)
    engine.model.generation_config.repetition_penalty = 9.0
    plain = "".join(engine.answer(ASK, None, GenerationSettings(max_new_tokens=8)))
    assert (
        plain
        == greedy(
            AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
        )[: len(plain)]
    )
    hot = GenerationSettings(max_new_tokens=8, temperature=1.5, seed=3)
    one, again = ("".join(engine.answer(ASK, None, hot)) for _ in range(2))
    other = "".join(engine.answer(ASK, None, hot.changed("seed", "4")))
    assert one == again != other
    assert "".join(engine.answer(ASK, None, hot.changed("top_k", "1"))) == plain


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("temprature", "1", "there is no setting 'temprature'"),
        ("temperature", "hot", "temperature cannot be 'hot'"),
        ("top_p", "1.5", "top_p cannot be '1.5'"),
        ("max_new_tokens", "0", "max_new_tokens cannot be '0'"),
        ("seed", "nan", "seed cannot be 'nan'"),
    ],
)
def test_a_setting_that_cannot_be_is_told(name: str, value: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        GenerationSettings().changed(name, value)
    assert caught.value.problems[0].what == told


def test_prompts_that_are_continued_together_get_the_same_answers(full_run: Path) -> None:
    engine = engine_of(full_run)
    turns = engine.turns()
    prompts = [turns.prompt(question(row)) for row in BEFORE]
    prompts[0] = prompts[0][1:]  # without its first token the answer is the same
    assert len(set(map(len, prompts))) > 1, "so that some are padded"
    found = engine.complete(prompts, None, LONG)
    assert [turns.decode(ids) for ids in found] == [answer(row) for row in BEFORE]
    assert all(ids[-1] == turns.tokenizer.token_to_id("<|im_end|>") for ids in found)


def test_a_conversation_that_is_too_long_is_told(tiny_model: Path) -> None:
    engine = engine_of(tiny_model)
    with pytest.raises(UserError, match="as many as the model takes"):
        engine.answer([{"role": "user", "content": "word " * 600}])


def test_an_adapter_for_another_base_is_told(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    other = tmp_path / "other"
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(other)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(other)
    fits, strange = write_adapter(tiny_model, tmp_path / "fits"), write_adapter(other, tmp_path / "strange")
    with pytest.raises(UserError, match=r"was trained on .*other, and the other adapter on"):
        find_subject(str(fits), [str(strange)])
    with pytest.raises(UserError, match="the adapter does not fit the base"):
        engine_of(tiny_model, str(strange))
    with pytest.raises(UserError, match="the adapter does not fit the base"):
        engine_of(tiny_model, str(fits), str(strange))


def test_a_base_that_a_run_held_in_4_bits_is_held_so(tiny_model: Path, tmp_path: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    adapter = write_adapter(tiny_model, tmp_path / "run")
    write_run(adapter, model_name_or_path=str(tiny_model), load_in_4bit=True, dtype="float32")
    engine = engine_of(adapter)
    assert any(isinstance(module, Linear4bit) for module in engine.model.modules())
    assert "".join(engine.answer(ASK, "run", GenerationSettings(max_new_tokens=4)))


def test_what_may_be_tried_is_found(full_run: Path, lora_run: Path, tiny_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "run")
    write_run(adapter, model_name_or_path=str(tiny_model))
    step = write_adapter(tiny_model, adapter / "checkpoint-4")
    (step / "trainer_state.json").write_text("{}")
    (adapter / "_sft" / "outcome.json").write_text(json.dumps({"step": 9}))
    bare = write_adapter(tiny_model, tmp_path / "bare")

    found = find_subject(str(adapter), [str(step), f"other={bare}"])
    assert list(found.adapters) == ["run", "run/checkpoint-4", "other"]
    assert (found.base, found.step, found.untrained) == (str(tiny_model), 9, None)
    assert find_subject(str(step)).step == 4
    whole = find_subject(str(full_run))
    assert (whole.base, whole.adapters) == (str(full_run), {})
    assert whole.untrained is not None
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"model_name_or_path": "m", "dataset_name": "d", "output_dir": str(lora_run)}))
    assert list(find_subject(str(file)).adapters) == ["out"]
    assert find_subject(str(tiny_model), [str(bare)]).base == str(tiny_model)


@pytest.mark.parametrize(
    ("source", "adapters", "told"),
    [
        ("{here}/none", [], "there is no directory {here}/none"),
        ("{here}/none.yaml", [], "there is no run file {here}/none.yaml"),
        ("{here}", [], "there is no model and no adapter in {here}"),
        ("{model}", ["{here}/none"], "there is no directory {here}/none"),
        ("{model}", ["{here}"], "there is no adapter in {here}"),
        ("{model}", ["{here}/bare"] * 3, "two of the models would be called"),
        ("{model}", ["base={here}/bare"], "two of the models would be called base"),
    ],
)
def test_what_cannot_be_tried_is_told(
    source: str, adapters: list[str], told: str, tiny_model: Path, tmp_path: Path
) -> None:
    if any("bare" in one for one in adapters):
        write_adapter(tiny_model, tmp_path / "bare")

    def put(text: str) -> str:
        return text.format(here=tmp_path, model=tiny_model)

    with pytest.raises(UserError) as caught:
        find_subject(put(source), [put(one) for one in adapters])
    assert caught.value.problems[0].what.startswith(put(told))


def test_the_template_that_was_trained_is_the_one_that_renders(tiny_model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tiny_model, tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("im_end", "endoftext")
    tokenizer.save_pretrained(adapter)
    engine = engine_of(tiny_model, str(adapter))
    for name in (None, "adapter"):
        assert engine.turns(name).tokenizer.decode(
            engine.turns(name).prompt(ASK), skip_special_tokens=False
        ) == (f"<|im_start|>user\n{ASK[0]['content']}<|endoftext|>\n<|im_start|>assistant\n")
        assert engine.turns(name).ends.tokens == {0, 2}
