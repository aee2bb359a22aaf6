"""The built-in base model: made once, the same each time, loadable by anyone."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo_pl.builtin import models
from lambda_grpo_pl.builtin.arithmetic import ArithmeticTraces
from lambda_grpo_pl.builtin.cache import CACHE_VARIABLE
from lambda_grpo_pl.builtin.models import make_base_model, resolve_model_path
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.builtin.warm_up import WarmUpConfig, warm_up

TINY = WarmUpConfig(traces=ArithmeticTraces(), hidden_size=32, num_layers=1, num_steps=12, batch_size=8)


def test_warm_up_is_a_function_of_its_configuration_and_leaves_the_callers_random_state_alone() -> None:
    tokenizer = character_tokenizer()
    before = torch.get_rng_state()
    one = warm_up(TINY, tokenizer).state_dict()
    torch.rand(3)
    after_one = torch.get_rng_state()
    two = warm_up(TINY, tokenizer).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(after_one, torch.get_rng_state())
    assert not torch.equal(before, after_one)


def test_warm_up_learns() -> None:
    """Cross-entropy per token falls well below ln 100 = 4.6, that of a uniform guess."""
    tokenizer = character_tokenizer()
    model = warm_up(
        WarmUpConfig(traces=ArithmeticTraces(), hidden_size=32, num_layers=1, num_steps=100, batch_size=16), tokenizer
    )
    ids = torch.tensor([tokenizer.encode("12+34=2+4=6;1+3=4;####46<eos>")])
    with torch.no_grad():
        assert float(model(input_ids=ids, labels=ids).loss) < 3.0


def test_folder_loads_with_transformers_and_is_made_once(tmp_path, monkeypatch) -> None:
    folder = make_base_model(tmp_path / "model", TINY)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.hidden_size // model.config.num_attention_heads == 32, "vLLM's CPU attention needs 32"
    monkeypatch.setattr(models, "warm_up", lambda *_: pytest.fail("made a second time"))
    assert make_base_model(tmp_path / "model", TINY) == folder


def test_a_broken_warm_up_leaves_no_folder_behind(tmp_path, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(models, "warm_up", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_base_model(tmp_path / "model", TINY)
    assert (make_base_model(tmp_path / "model", TINY) / "config.json").exists()


def test_builtin_names_become_cached_folders_and_others_pass(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setitem(models.MODELS, "arithmetic-tiny", TINY)
    folder = resolve_model_path("builtin:arithmetic-tiny")
    assert folder.startswith(str(tmp_path / "arithmetic-tiny-"))
    assert resolve_model_path("Qwen/Qwen2.5-1.5B") == "Qwen/Qwen2.5-1.5B"
    assert resolve_model_path(folder) == folder
    monkeypatch.setitem(
        models.MODELS,
        "arithmetic-tiny",
        WarmUpConfig(traces=ArithmeticTraces(), hidden_size=32, num_layers=1, num_steps=3),
    )
    assert resolve_model_path("builtin:arithmetic-tiny") != folder, "another configuration is another model"


def test_an_unknown_builtin_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="builtin:arithmetic-tiny"):
        resolve_model_path("builtin:poetry")
