"""Scores of a sampler whose answers are known come out exactly, once per question, whatever dies in between."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from transformers import AutoModelForCausalLM

from lambda_grpo_pl.callbacks import BenchmarkEvaluation, EvaluationSettings
from lambda_grpo_pl.data.benchmarks import BENCHMARKS, Benchmark
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.evaluation.records import read_records, read_setup
from tests.known_answers import EngineDiedError, KnownAnswers, evaluate, right_where, write_questions
from tests.scored import save_tiny_policy

STEP = "evaluation/step-000000"
odd = right_where(lambda example, g: example["index"] % 2 == 1)


class NoEngine(KnownAnswers):
    """Can't even take the weights."""

    def sync(self, policy: torch.nn.Module) -> NoReturn:
        raise EngineDiedError


@pytest.fixture
def gsm8k(tmp_path: Path) -> PromptSource:
    return PromptSource(benchmark="gsm8k", path=str(write_questions(tmp_path / "gsm8k/test.jsonl", 11)))


def scores_of(folder: Path) -> dict:
    return json.loads((folder / STEP / "scores.json").read_text())


def test_a_known_subset_is_scored_exactly(policy: Path, gsm8k: PromptSource, tmp_path: Path) -> None:
    amc23 = PromptSource(benchmark="amc23", path=str(write_questions(tmp_path / "amc23.jsonl", 5)))
    known = right_where(lambda each, g: g < each["index"] if each["benchmark"] == "amc23" else each["index"] < 4)
    sampler = KnownAnswers(known)
    logged, _ = evaluate(tmp_path, policy, [gsm8k, amc23], sampler)
    assert logged["val/gsm8k/accuracy"] == pytest.approx(4 / 11)
    assert logged["val/amc23/accuracy"] == pytest.approx((0 + 1 + 2 + 3 + 4) / 8 / 5)
    assert logged["val/amc23/pass@8"] == pytest.approx(4 / 5)
    assert logged["val/amc23/pass@2"] == pytest.approx((0 + 1 / 4 + 13 / 28 + 9 / 14 + 11 / 14) / 5)
    assert logged["val/amc23/maj@8"] == pytest.approx(0.5 / 5)
    assert logged["val/average"] == pytest.approx((4 / 11 + 0.25) / 2)
    assert sorted(set(sampler.asked)) == sorted(sampler.asked)
    assert [(each.num_samples, each.temperature) for each in (sampler.settings[0], sampler.settings[-1])] == [
        (1, 0.0),
        (8, 1.0),
    ]


def test_an_interrupted_evaluation_goes_on_and_ends_with_the_same_table(
    policy: Path, gsm8k: PromptSource, tmp_path: Path
) -> None:
    evaluate(tmp_path / "whole", policy, [gsm8k], KnownAnswers(odd))
    broken, second = KnownAnswers(odd, dies_at=3), KnownAnswers(odd)
    with pytest.raises(EngineDiedError):
        evaluate(tmp_path / "run", policy, [gsm8k], broken)
    assert not (tmp_path / "run" / STEP / "scores.json").exists()
    evaluate(tmp_path / "run", policy, [gsm8k], second)
    assert len(broken.asked) == 6
    assert not set(broken.asked) & set(second.asked)
    assert scores_of(tmp_path / "run") == scores_of(tmp_path / "whole")
    records = [read_records(tmp_path / name / STEP / "gsm8k") for name in ("run", "whole")]
    assert records[0] == records[1]
    assert len(records[0]) == 11


def test_a_finished_evaluation_needs_no_engine(policy: Path, gsm8k: PromptSource, tmp_path: Path) -> None:
    first, _ = evaluate(tmp_path, policy, [gsm8k], KnownAnswers(odd))
    again, _ = evaluate(tmp_path, policy, [gsm8k], NoEngine(odd))
    assert again == first


def test_answers_of_other_weights_are_set_aside(policy: Path, gsm8k: PromptSource, tmp_path: Path) -> None:
    evaluate(tmp_path, policy, [gsm8k], KnownAnswers(odd))
    model = AutoModelForCausalLM.from_pretrained(policy)
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-5
    trained = save_tiny_policy(tmp_path / "trained")
    model.save_pretrained(trained)
    sampler = KnownAnswers(right_where(lambda example, g: True))
    logged, _ = evaluate(tmp_path, trained, [gsm8k], sampler)
    assert len(sampler.asked) == 11
    assert logged["val/gsm8k/accuracy"] == 1.0
    assert len(read_records(tmp_path / STEP / "superseded/gsm8k-1")) == 11


def test_scores_of_other_weights_never_stand_beside_new_ones(policy: Path, gsm8k: PromptSource, tmp_path: Path) -> None:
    svamp = PromptSource(benchmark="svamp", path=gsm8k.path)
    evaluate(tmp_path, policy, [gsm8k, svamp], KnownAnswers(odd))
    evaluate(tmp_path, policy, [svamp], KnownAnswers(odd))
    assert (tmp_path / STEP / "gsm8k").exists()
    other = save_tiny_policy(tmp_path / "other", num_hidden_layers=1)
    evaluate(tmp_path, other, [svamp], KnownAnswers(odd))
    assert {file.parent.name for file in (tmp_path / STEP).glob("*/*.parquet")} == {"svamp"}


def test_two_questions_of_one_id_are_refused(policy: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(2 * '{"question": "1+1?", "answer": "2", "id": "a"}\n')
    with pytest.raises(ValueError, match=r"mine\.jsonl: 2 rows have the id 'a'; give each"):
        evaluate(tmp_path, policy, [PromptSource(path=str(file))], KnownAnswers(odd))


def test_another_setting_or_another_question_is_asked_anew(policy: Path, gsm8k: PromptSource, tmp_path: Path) -> None:
    evaluate(tmp_path, policy, [gsm8k], KnownAnswers(odd))
    warm, reworded = KnownAnswers(odd), KnownAnswers(odd)
    evaluation = BenchmarkEvaluation(overrides=EvaluationSettings(temperature=0.5), to_terminal=False)
    evaluate(tmp_path, policy, [gsm8k], warm, evaluation)
    file = Path(str(gsm8k.path))
    file.write_text(file.read_text().replace("apples", "pears"))
    evaluation = BenchmarkEvaluation(overrides=EvaluationSettings(temperature=0.5), to_terminal=False)
    evaluate(tmp_path, policy, [gsm8k], reworded, evaluation)
    assert len(warm.asked) == len(reworded.asked) == 11


def test_more_questions_of_a_set_add_to_those_answered(policy: Path, gsm8k: PromptSource, tmp_path: Path) -> None:
    evaluate(tmp_path, policy, [replace(gsm8k, limit=4)], KnownAnswers(odd))
    sampler = KnownAnswers(odd)
    logged, _ = evaluate(tmp_path, policy, [gsm8k], sampler)
    assert len(sampler.asked) == 7
    assert logged["val/gsm8k/num_questions"] == 11
    fewer, _ = evaluate(tmp_path, policy, [replace(gsm8k, limit=4)], NoEngine(odd))
    assert fewer["val/gsm8k/num_questions"] == 4
    assert fewer["val/gsm8k/accuracy"] == 0.5


def test_the_model_asking_itself_another_question_is_not_judged_by_that_one(
    policy: Path, gsm8k: PromptSource, tmp_path: Path
) -> None:
    sampler = KnownAnswers(lambda example, g: f" ####{example['answer']}\nQuestion: 1+1?\nAnswer: ####2")
    logged, _ = evaluate(tmp_path, policy, [gsm8k], sampler)
    assert logged["val/gsm8k/accuracy"] == 1.0
    assert logged["val/gsm8k/truncated"] == 0.0
    record = read_records(tmp_path / STEP / "gsm8k")[0]
    assert record.completions == [" ####1"]
    assert record.lengths == [len(" #1\nQuestion:")]  # the marker #### is one token
    assert record.prompt.startswith("Question: Ann has 0 apples")


def share_of_ones(completion: str, example: object) -> float:
    return completion.count("1") / len(completion)


def test_the_average_takes_each_sets_own_headline(
    policy: Path, gsm8k: PromptSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tides = Benchmark(name="tides", path="me/tides", reward=f"{__name__}.share_of_ones", metric="score")
    monkeypatch.setitem(BENCHMARKS, "tides", tides)
    graded = PromptSource(benchmark="tides", path=str(write_questions(tmp_path / "tides.jsonl", 4)))
    sampler = KnownAnswers(lambda each, g: "1000" if each["benchmark"] == "tides" else f"####{each['answer']}")
    logged, _ = evaluate(tmp_path, policy, [gsm8k, graded], sampler)
    assert logged["val/tides/accuracy"] == 0.0
    assert logged["val/average"] == pytest.approx((1.0 + 0.25) / 2)
    chosen = BenchmarkEvaluation(average_over=["tides"], to_terminal=False)
    logged, _ = evaluate(tmp_path, policy, [gsm8k, graded], sampler, chosen)
    assert logged["val/average"] == pytest.approx(0.25)
    assert scores_of(tmp_path)["average"] == pytest.approx(0.25)
    assert "| **average over tides** | | **25.0** |" in (tmp_path / STEP / "scores.md").read_text()


def test_a_benchmarks_own_override_wins(policy: Path, gsm8k: PromptSource, tmp_path: Path) -> None:
    sampler = KnownAnswers(odd)
    evaluation = BenchmarkEvaluation(
        overrides=EvaluationSettings(max_tokens=40, temperature=0.3),
        benchmarks={"gsm8k": EvaluationSettings(num_samples=2, temperature=0.6)},
        to_terminal=False,
    )
    evaluate(tmp_path, policy, [gsm8k], sampler, evaluation)
    settings = sampler.settings[0]
    assert (settings.num_samples, settings.temperature, settings.max_tokens) == (2, 0.6, 40)


def test_the_engine_and_its_precision_are_recorded(policy: Path, gsm8k: PromptSource, tmp_path: Path) -> None:
    evaluate(tmp_path, policy, [gsm8k], KnownAnswers(odd))
    setup = read_setup(tmp_path / STEP / "gsm8k")
    assert (setup.engine, setup.engine_version, setup.dtype) == ("transformers", version("transformers"), "float32")


def test_several_greedy_samples_are_refused_before_a_model_is_loaded(gsm8k: PromptSource, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 identical samples per question"):
        EvaluationSettings(num_samples=4, temperature=0.0)
    tokenizer_alone = save_tiny_policy(tmp_path / "policy")
    (tokenizer_alone / "model.safetensors").unlink()
    evaluation = BenchmarkEvaluation(overrides=EvaluationSettings(num_samples=4))
    with pytest.raises(ValueError, match=r"gsm8k would draw 4 identical samples.*set evaluation.overrides"):
        evaluate(tmp_path, tokenizer_alone, [gsm8k], KnownAnswers(odd), evaluation)


def test_names_that_are_no_set_and_sets_of_one_name_are_refused(
    policy: Path, gsm8k: PromptSource, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"Unknown validation set gsm9k in .*available: gsm8k"):
        evaluate(tmp_path, policy, [gsm8k], KnownAnswers(odd), BenchmarkEvaluation(average_over=["gsm9k"]))
    with pytest.raises(ValueError, match=r"data\.val has 2 sets of the name 'gsm8k'"):
        evaluate(tmp_path, policy, [gsm8k, gsm8k], KnownAnswers(odd))


def test_template_extractor_and_sampling_are_printed_with_the_score(
    policy: Path, gsm8k: PromptSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(tmp_path, policy, [gsm8k], KnownAnswers(odd), BenchmarkEvaluation())
    shown = capsys.readouterr().out
    assert "template plain, reward math(), greedy, n 1, at most 1024 tokens" in shown
    assert r"math reads what follows the last </think>: the last \boxed{…}, else the last <answer>" in shown
    assert (tmp_path / STEP / "scores.md").read_text() in shown
