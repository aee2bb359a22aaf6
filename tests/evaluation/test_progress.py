"""What was answered before is kept exactly if the same responses would come again, and all ranks agree on it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.progress import ResumableSet, set_aside_other_weights, weights_digest
from lambda_grpo_pl.evaluation.records import EvaluationSetup, QuestionRecord, read_setup
from tests.ranks import run_on_two_ranks

SETUP = EvaluationSetup(benchmark="marbles", template="plain", reward="math", policy="step 1", seed=1)
ASKED = [{"id": f"marbles-{i}", "index": i, "prompt": "3+4?", "answer": "7"} for i in range(3)]


def record(example):
    one = {"completions": ["7"], "extracted": ["7"], "correct": [True], "scores": [1.0], "status": ["ok"]}
    return QuestionRecord(**example, **one, lengths=[1], truncated=[False])


@pytest.fixture
def answered(tmp_path):
    """A folder in which two of three questions are answered."""
    ResumableSet(tmp_path, SETUP, ASKED).add([record(each) for each in ASKED[:2]], rank=0)
    return tmp_path


def resume(folder, setup=SETUP, asked=ASKED):
    resumed = ResumableSet(folder, setup, asked)
    moved = resumed.set_aside()
    resumed.read_found()
    return resumed, moved


def test_an_interrupted_evaluation_asks_only_what_is_missing(answered):
    resumed, moved = resume(answered)
    assert (moved, list(resumed.found), resumed.complete) == (None, ["marbles-0", "marbles-1"], False)
    resumed.add([record(ASKED[2])], rank=1)
    resumed.merge()
    assert resume(answered)[0].complete
    assert [file.name for file in (answered / "marbles").iterdir()] == ["records.parquet"]


def test_a_greedy_evaluation_is_kept_under_another_seed_and_a_sampled_one_is_not(answered):
    assert resume(answered, replace(SETUP, seed=2))[1] is None
    sampled = replace(SETUP, temperature=1.0)
    resumed, moved = resume(answered, sampled)
    assert (resumed.found, moved) == ({}, answered / "superseded" / "marbles-1")
    resumed.add([record(ASKED[0])], rank=0)
    assert resume(answered, replace(sampled, seed=2))[1] == answered / "superseded" / "marbles-2"


@pytest.mark.parametrize("changed", [{"prompt": "4+3?"}, {"answer": "8"}, {"index": 9}])
def test_answers_to_other_questions_are_set_aside(answered, changed):
    assert resume(answered, asked=[ASKED[0] | changed, *ASKED[1:]])[1] is not None


def test_answers_of_other_weights_are_set_aside_with_every_set(answered):
    assert set_aside_other_weights(answered, "step 1") == []
    (home,) = set_aside_other_weights(answered, "step 2")
    assert read_setup(home).policy == "step 1"
    assert resume(answered)[0].found == {}


def test_questions_that_share_an_id_are_refused(tmp_path):
    with pytest.raises(UserError, match="make the column `id` unique"):
        ResumableSet(tmp_path, SETUP, [ASKED[0], ASKED[0]])


def find_on_rank(rank, folder):
    """Rank 1 is on a node that does not see the folder."""
    resumed = ResumableSet(folder if rank == 0 else folder / "elsewhere", SETUP, ASKED)
    resumed.read_found()
    (folder / f"{rank}.txt").write_text(" ".join(resumed.found))


def test_ranks_agree_on_what_is_answered_even_without_a_shared_filesystem(answered):
    run_on_two_ranks(find_on_rank, answered)
    assert [(answered / f"{rank}.txt").read_text() for rank in range(2)] == ["marbles-0 marbles-1"] * 2


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))


def test_equal_weights_have_one_digest_and_one_small_step_another():
    trained = model()
    assert weights_digest(trained) == weights_digest(model())
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-6, weight_decay=0.0)
    trained(torch.randn(4, 256)).sum().backward()
    optimizer.step()
    assert weights_digest(trained) != weights_digest(model())


def test_swapped_tensors_differ():
    swapped = model()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    assert weights_digest(swapped) != weights_digest(model())
