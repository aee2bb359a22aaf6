"""The real model that tests and demos use, and what only real weights show."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.builtin import smollm2
from lambda_grpo_pl.builtin.models import resolve_model_path
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import Policy, PolicyConfig, check_checkpoint, lay_out, load_policy

installed = pytest.mark.skipif(not smollm2.is_installed(), reason="needs the extra real-model")
LONG_TEXT = "A list of the first numbers in words: " + ", ".join(f"number {n} is {n * n} squared" for n in range(60))


@pytest.fixture(scope="module")
def path() -> str:
    """The model in the user's cache, unpacked on first use."""
    return resolve_model_path("builtin:smollm2-135m")


@pytest.fixture(scope="module")
def real_policy(path: str) -> Policy:
    return load_policy(path, PolicyConfig(path=path)).requires_grad_(False)


def test_a_missing_package_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGES", ("a_package_that_is_not_there",))
    with pytest.raises(UserError, match=r"model\.policy\.path builtin:smollm2-135m needs .* extra real-model"):
        smollm2.make_smollm2(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@installed
def test_the_model_knows_its_chat_template_and_answers(path: str) -> None:
    check_checkpoint(path, PolicyConfig(path=path))
    assert "Apache License 2.0" in (Path(path) / "LICENSE").read_text()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    answer = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"


@installed
def test_real_weights_and_a_real_vocabulary_score_as_the_model_itself(path: str, real_policy: Policy) -> None:
    """Long text, 49,152 tokens in the vocabulary, in chunks of the head and with a shared prompt."""
    tokens = AutoTokenizer.from_pretrained(path)(LONG_TEXT)["input_ids"]
    prompt, responses = tokens[:40], [tokens[40:], tokens[100:160]]
    width = len(responses[0])
    ids = torch.tensor([response + [0] * (width - len(response)) for response in responses])
    lengths = torch.tensor([len(response) for response in responses])
    prompts = Prompts(torch.tensor([prompt]), torch.tensor([40]), ({},))
    completions = Completions(ids, lengths, lengths < 0, torch.zeros(ids.shape))
    with torch.no_grad():
        scores = real_policy(lay_out(prompts, completions, torch.arange(2), "shared_prefix"))[1]
        for row, logprobs in enumerate(scores.logprobs.split(lengths.tolist())):
            logits = real_policy.causal_lm(torch.tensor([prompt + responses[row]])).logits[0, 39:-1].log_softmax(-1)
            expected = logits.gather(1, torch.tensor(responses[row])[:, None])[:, 0]
            torch.testing.assert_close(logprobs, expected, atol=1e-3, rtol=0)
    assert -3 < float(scores.logprobs[: lengths[0]].mean()) < 0, "the model does not expect plain English"
