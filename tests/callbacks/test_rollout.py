"""Sampling inside a run: synced once an update, proven, seeded by occasion, loud when responses are cut."""

from pathlib import Path

import pytest
import torch

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards import JudgingAhead
from lambda_grpo_pl.sampling import SyncError, TransformersSampler
from tests.integration.runs import run

OPTIONS = (
    "--trainer.callbacks=null",
    "--trainer.max_steps=2",
    "--trainer.val_check_interval=1000",
    "--reward.functions=[{name: tests.integration.runs.digit_share}]",
)


class StaleSampler(TransformersSampler):
    """An engine whose embedding the sync has missed."""

    def probe(self, token_ids):  # type: ignore[no-untyped-def]
        return [[value - 0.05 for value in sequence] for sequence in super().probe(token_ids)]


def test_a_stale_engine_ends_the_run_with_a_sentence(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_grpo_pl.sampling.factory.TransformersSampler", StaleSampler)
    with pytest.raises(SyncError, match=r"differ from the policy's by 0\.05 nats"):
        run("fit", policy, tmp_path, *OPTIONS)


def test_weights_are_synced_once_an_update_and_seeds_differ(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, seeds = [], []

    class Counting(TransformersSampler):
        def sync(self, module):  # type: ignore[no-untyped-def]
            syncs.append(1)
            return super().sync(module)

        def generate(self, prompts, settings, seed, on_group=None):  # type: ignore[no-untyped-def]
            seeds.append(seed)
            return super().generate(prompts, settings, seed, on_group)

    monkeypatch.setattr("lambda_grpo_pl.sampling.factory.TransformersSampler", Counting)
    with pytest.warns(UserWarning, match=r"truncated at 8 tokens.*rollout\.sampling\.max_tokens"):
        run("fit", policy, tmp_path, *OPTIONS, "--dynamic_sampling.max_rounds=1")
    assert len(syncs) == 2
    assert len(set(seeds)) == len(seeds) >= 2


def test_rewards_judge_groups_that_have_ended_while_others_are_sampled(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacement rounds too: 4 prompts a step, then as many as were flat."""
    events: list[tuple[str, int]] = []

    class Telling(TransformersSampler):
        def generate(self, prompts, settings, seed, on_group=None):  # type: ignore[no-untyped-def]
            result = super().generate(prompts, settings, seed, on_group)
            events.append(("sampled", len(prompts.examples)))
            return result

    add = JudgingAhead.add

    def told(self, first, *part):  # type: ignore[no-untyped-def]
        events.append(("heard", first))
        add(self, first, *part)

    monkeypatch.setattr("lambda_grpo_pl.sampling.factory.TransformersSampler", Telling)
    monkeypatch.setattr(JudgingAhead, "add", told)
    run("fit", policy, tmp_path, *OPTIONS[:3], "--dynamic_sampling.max_rounds=1", "--reward.functions=[{name: math}]")
    calls = [number for name, number in events if name == "sampled"]
    assert len(calls) == 4
    assert [name for name, _ in events[:5]] == ["heard"] * 4 + ["sampled"]
    assert sum(name == "heard" for name, _ in events) == sum(calls)


def test_training_responses_end_at_the_template_s_stop_string(policy: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(f'{{"question": "Satz {n}", "answer": "{n}"}}' for n in range(8)))
    cli = run(
        "fit",
        policy,
        tmp_path,
        "--trainer.callbacks=null",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=1000",
        f"--data.train.path={questions}",
        "--data.train.template=translate_de_en",
        "--rollout.sampling.max_tokens=64",
        "--reward.functions=[{name: tests.integration.runs.one_line}]",
    )
    assert cli.trainer.callback_metrics["reward/accuracy"] == 1.0
    assert cli.trainer.callback_metrics["response/truncated"] < 1.0


def test_the_export_of_a_lora_policy_is_the_policy(policy: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    cli = run("fit", policy, tmp_path, *OPTIONS, "--model.policy.lora.rank=4", "--model.optimizer.lr=0.05")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    tokens = AutoTokenizer.from_pretrained(tmp_path / "policy")("12+30=####42", return_tensors="pt").input_ids
    start = AutoModelForCausalLM.from_pretrained(policy)
    with torch.no_grad():
        ours, theirs, before = (model(tokens).logits for model in (cli.model.policy.model.eval(), exported, start))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(theirs, before, atol=1e-2)


def test_a_fit_checks_the_sampling_before_weights_load(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_grpo_pl.training.module.load_policy", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(UserError, match=r"rollout\.sampling\.top_p is 0\.5"):
        run("fit", policy, tmp_path, *OPTIONS, "--rollout.sampling.top_p=0.5")


def test_predictions_may_be_sampled_from_a_truncated_distribution_and_are_not_judged(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambda_grpo_pl.rewards.RewardSuite.judge", lambda *_: pytest.fail("a prediction was judged"))
    val = "--data.val=[{split: test, limit: 3}]"
    run("predict", policy, tmp_path, "--trainer.callbacks=null", "--rollout.sampling.top_p=0.5", val)
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 3
