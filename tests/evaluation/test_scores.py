"""Metrics against hand-computed numbers, whatever the order, the repeats and the number of ranks."""

import json
import math
import random
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torchmetrics import Metric

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.collection import BenchmarkScores
from lambda_grpo_pl.evaluation.scores import QuestionScores, QuestionTable, answer_classes, default_ks, summarize
from tests.ranks import run_on_two_ranks


def question(index, correct, extracted=None, lengths=None, truncated=None, status=None, scores=None):
    n = len(correct)
    return QuestionScores(
        index=index,
        correct=[bool(right) for right in correct],
        scores=scores or [float(right) for right in correct],
        extracted=extracted or ["7" if right else "8" for right in correct],
        lengths=lengths or [10] * n,
        truncated=truncated or [False] * n,
        status=status or ["ok"] * n,
    )


# Two questions, four samples each: 3/4 and 1/4 correct.
PAIR = [
    question(0, [1, 1, 0, 1], ["1/2", "0.5", "2", "1/2"], [1, 2, 3, 4]),
    question(1, [0, 1, 0, 0], ["5", "6", "5", None], [5, 6, 7, 8], [False] * 3 + [True], ["ok"] * 3 + ["no_answer"]),
]


def scalars(metric, questions):
    metric.update(questions)
    return metric.compute()


def test_every_measure_by_hand():
    found = scalars(BenchmarkScores(4), PAIR)
    assert found["accuracy"] == found["avg@4"] == found["score"] == found["pass@1"] == 0.5
    assert found["pass@2"] == pytest.approx((1 + 0.5) / 2)  # 1 - C(1,2)/C(4,2) = 1; 1 - C(3,2)/C(4,2) = 1/2
    assert found["pass@4"] == found["best@4"] == 1.0
    assert found["maj@4"] == 0.5  # "5" outvotes "6" on the second question
    assert found["length/mean"] == 4.5
    assert found["length/median"] == 4.5
    assert (found["length/p25"], found["length/p75"]) == (2.75, 6.25)
    assert found["length/correct"] == (1 + 2 + 4 + 6) / 4
    assert found["length/incorrect"] == (3 + 5 + 7 + 8) / 4
    assert found["truncated"] == found["no_answer"] == 1 / 8
    assert found["verifier_failed"] == 0
    assert (found["num_questions"], found["num_samples"]) == (2, 4)
    assert found["accuracy_low"] < 0.5 < found["accuracy_high"]


def test_without_confidence_there_are_no_bounds():
    found = scalars(BenchmarkScores(4, ks=[3], confidence=0), PAIR)
    assert not [name for name in found if name.endswith(("_low", "_high"))]
    assert {name for name in found if name.startswith("pass@")} == {"pass@3"}


def test_batches_order_and_repeats_change_nothing():
    questions = [question(i, [i % 3 == 0, i % 2 == 0], scores=[0.1 * i, 0.2]) for i in range(7)]
    whole = scalars(BenchmarkScores(2), questions)
    metric = BenchmarkScores(2)
    shuffled = [*reversed(questions), questions[0], questions[3]]
    for start in range(0, len(shuffled), 2):
        metric.update(shuffled[start : start + 2])
    assert metric.compute() == whole


def test_a_running_evaluation_and_its_records_give_the_same_numbers():
    assert scalars(BenchmarkScores(4), PAIR[::-1]) == summarize(QuestionTable.of(PAIR), default_ks(4))


def test_of_two_answers_to_one_question_the_first_counts():
    twice = [question(0, [1]), question(0, [0])]
    assert scalars(BenchmarkScores(1), twice)["accuracy"] == QuestionTable.of(twice).correct.mean() == 1.0


def test_failed_verifier_is_counted_apart_from_wrong_and_from_no_answer():
    found = scalars(BenchmarkScores(2), [question(0, [0, 0], [None, None], status=["failed", "no_answer"])])
    assert (found["verifier_failed"], found["no_answer"], found["accuracy"], found["maj@2"]) == (0.5, 0.5, 0.0, 0.0)
    assert math.isnan(found["length/correct"])


def test_correct_answers_vote_together_however_they_are_written():
    assert answer_classes(["1/2", "0.5", "2", " 2", None], [True, True, False, False, False]) == [0, 0, 1, 1, -1]
    found = scalars(BenchmarkScores(5), [question(0, [1, 1, 0, 0, 1], ["1/2", "0.5", "2", "2", r"\frac12"])])
    assert found["maj@5"] == 1.0


def test_wrong_number_of_samples_and_no_question_are_refused():
    with pytest.raises(ValueError, match="has 1 responses instead of 2"):
        BenchmarkScores(2).update([question(0, [1])])
    with pytest.raises(UserError, match="No question was scored"):
        scalars(BenchmarkScores(2), [])


def many():
    draw = random.Random(0)
    return [
        question(i, [draw.random() < 0.4 for _ in range(3)], lengths=[draw.randrange(1, 99) for _ in range(3)])
        for i in range(11)
    ]


def run_rank(rank, shares, folder):
    questions = many()
    results = {}
    for name, share in shares.items():
        metric = BenchmarkScores(3)
        metric.update([questions[i] for i in share[rank]])
        results[name] = metric.compute()
    (folder / f"{rank}.json").write_text(json.dumps(results))


def test_two_ranks_give_the_numbers_of_one(tmp_path):
    """A size that does not divide (11 over 2 with one repeat), uneven ranks, and a rank with nothing."""
    shares = {
        "padded": ([0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 0]),
        "uneven": (list(range(8)), [8, 9, 10]),
        "empty": (list(range(11)), []),
    }
    whole = scalars(BenchmarkScores(3), many())
    run_on_two_ranks(run_rank, shares, tmp_path)
    for rank in range(2):
        results = json.loads((tmp_path / f"{rank}.json").read_text())
        assert results == dict.fromkeys(shares, whole)


def test_float_scores_survive_in_full_precision():
    assert scalars(BenchmarkScores(1), [question(0, [0], scores=[0.1])])["score"] == 0.1


GROUP_LIKE_NCCL = """
import torch.distributed as dist
from lambda_grpo_pl.evaluation.collection import BenchmarkScores
from lambda_grpo_pl.evaluation.scores import QuestionScores

dist.init_process_group("cuda:gloo", store=dist.HashStore(), rank=0, world_size=1)  # like NCCL, no CPU backend
scores = BenchmarkScores(1)
scores.update([QuestionScores(i, [i < 1], [1.0], ["4"], [3], [False], ["ok"]) for i in range(4)])
print(scores.compute()["accuracy"])
"""


def test_scores_are_gathered_in_a_process_group_without_a_cpu_backend():
    done = subprocess.run([sys.executable, "-c", GROUP_LIKE_NCCL], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0.25", done.stderr[-2000:]


def test_ranks_exchange_objects_and_never_tensors_on_the_cpu(monkeypatch):
    """A group of NCCL moves objects, and tensors only from its own device."""
    theirs = torch.tensor([question(1, [0]).as_row()], dtype=torch.float64)
    monkeypatch.setattr("lambda_grpo_pl.evaluation.collection.num_ranks", lambda: 2)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_gather_object", lambda out, mine, group: out.__setitem__(slice(2), [mine, theirs]))
    for collective in ("all_gather", "barrier", "all_reduce"):
        monkeypatch.setattr(dist, collective, pytest.fail)
    metric = BenchmarkScores(1)
    assert scalars(metric, [question(0, [1])])["accuracy"] == 0.5
    assert len(metric.rows) == 1  # what was gathered does not stay


def test_scores_are_a_metric_that_can_be_reset_and_moved():
    metric = BenchmarkScores(4)
    assert isinstance(metric, Metric)
    assert metric(PAIR[:1])["accuracy"] == 0.75  # of this batch
    metric.update(PAIR[1:])
    assert metric.compute()["accuracy"] == metric.to("cpu").half().compute()["accuracy"] == 0.5
    assert [rows.dtype for rows in metric.rows] == [torch.float64] * 2
    metric.reset()
    assert scalars(metric, PAIR[1:])["accuracy"] == 0.25
