"""Sampling is declared once; benchmarks, overrides and records hold the same parameters."""

from typing import get_type_hints

import pytest

from lambda_grpo_pl.callbacks.evaluation_settings import EvaluationSettings, plan_set
from lambda_grpo_pl.data.benchmarks import BENCHMARKS, Benchmark
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.records import EvaluationSetup
from lambda_grpo_pl.rewards import RewardSpec
from lambda_grpo_pl.sampling_settings import SamplingParameters, SamplingSettings

OWN = {"temperature": 0.7, "top_p": 0.9, "top_k": 11, "max_tokens": 99, "num_samples": 3}
TRAINING = SamplingSettings(max_tokens=64, num_samples=8, top_k=5)


def test_overrides_are_the_parameters_or_null() -> None:
    expected = {name: hint | None for name, hint in get_type_hints(SamplingParameters).items()}
    assert get_type_hints(EvaluationSettings) == expected
    assert set(vars(EvaluationSettings()).values()) == {None}
    assert OWN.keys() == expected.keys()


def test_benchmarks_and_records_are_sampled_with_the_parameters() -> None:
    assert issubclass(Benchmark, SamplingParameters)
    assert issubclass(EvaluationSetup, SamplingParameters)
    assert SamplingSettings(**OWN, stop_token_ids=(4,)).sampling_parameters() == OWN


def test_a_benchmarks_own_parameters_reach_the_sampler_and_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "tides", Benchmark(name="tides", path="me/tides", **OWN))
    plan = plan_set(PromptSource(benchmark="tides"), [], TRAINING, [RewardSpec(name="math")], seed=6)
    assert plan.sampling == SamplingSettings(**OWN)
    assert plan.setup.sampling_parameters() == OWN
    assert plan.setup.seed == 6


def test_later_overrides_win_and_null_keeps_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BENCHMARKS, "tides", Benchmark(name="tides", path="me/tides", **OWN))
    overrides = [EvaluationSettings(top_p=0.5, top_k=2), EvaluationSettings(top_p=0.8)]
    plan = plan_set(PromptSource(benchmark="tides"), overrides, TRAINING, [RewardSpec(name="math")], seed=0)
    assert plan.setup.sampling_parameters() == OWN | {"top_p": 0.8, "top_k": 2}


def test_a_set_that_is_no_benchmark_is_greedy_at_the_training_limit() -> None:
    plan = plan_set(PromptSource(path="mine.jsonl"), [], TRAINING, [RewardSpec(name="math", weight=2.0)], seed=0)
    assert plan.sampling == SamplingSettings(temperature=0.0, max_tokens=64)
    assert plan.rewards == ()
    assert plan.setup.reward == "2·math"
    assert plan.setup.metric == "accuracy"


@pytest.mark.parametrize("name", ["rouge", "chrf", "bleu"])
def test_a_set_judged_by_overlap_has_no_right_answers(name: str) -> None:
    plan = plan_set(PromptSource(path="mine.jsonl"), [], TRAINING, [RewardSpec(name=name)], seed=0)
    assert plan.setup.metric == "score"


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"num_samples": 0}, "num_samples"),
    ],
)
def test_impossible_values_are_refused_by_the_key_that_set_them(wrong: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=rf"^rollout\.sampling\.{key} is "):
        SamplingSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"^evaluation\.overrides .*\.{key} is "):
        EvaluationSettings(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"Benchmark 'tides'.*{key} is "):
        Benchmark(name="tides", path="me/tides", **wrong)  # type: ignore[arg-type]
