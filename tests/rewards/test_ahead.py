"""Judging ahead says what judging at the end says, and has begun before the last response is there."""

import random
import time

import pytest

from lambda_grpo_pl.rewards import JudgingAhead, PoolConfig, RewardSpec, RewardSuite

GOLDS = [r"2\sqrt{2}", "x+y", "17", r"\frac{1}{3}"]
ANSWERS = [r"\boxed{\sqrt{8}}", r"\boxed{y+x}", "no answer", r"So \boxed{0.5}."]


def batch(num: int) -> tuple[list[str], list[dict], list[int], list[bool]]:
    texts = [f"Attempt {row % 5}: {ANSWERS[(row // 3) % 4]}" for row in range(num)]
    examples = [{"answer": GOLDS[row % 4]} for row in range(num)]
    return texts, examples, list(range(num)), [row % 7 == 0 for row in range(num)]


def test_parts_in_any_order_score_as_the_whole():
    """Two isolated rewards and one that is not, 12 parts of 4 rows, given in a random order."""
    specs = [
        RewardSpec(name="math"),
        RewardSpec(name="faulty_rewards.by_text", weight=0.5, isolated=True),
        RewardSpec(name="length", weight=0.1, params={"target": 20}),
    ]
    suite = RewardSuite(specs, PoolConfig(num_workers=2), on_failure="exclude")
    texts, examples, lengths, truncated = batch(48)
    texts[13] = "crash"
    ahead = JudgingAhead(suite)
    firsts = list(range(0, 48, 4))
    random.Random(0).shuffle(firsts)
    for first in firsts:
        part = slice(first, first + 4)
        ahead.add(first, texts[part], examples[part], lengths[part], truncated[part])
    judged = ahead.finish()
    assert set(judged) == {0, 1}
    scores = suite.score(texts, examples, lengths, truncated, judged)
    whole = suite.score(texts, examples, lengths, truncated)
    suite.close()
    assert scores == whole
    assert whole.num_failed == 1
    assert 0 < sum(verdict.correct for verdict in whole.verdicts) < 48


def test_a_part_is_judged_before_the_next_one_comes(tmp_path):
    suite = RewardSuite([RewardSpec(name="faulty_rewards.leave_a_mark", isolated=True)])
    ahead = JudgingAhead(suite)
    mark = tmp_path / "first"
    ahead.add(0, [str(mark)], [{}], [1], [False])
    deadline = time.monotonic() + 60
    while not mark.exists():
        assert time.monotonic() < deadline, "nobody judged the first part while we waited for the second"
        time.sleep(0.01)
    ahead.add(1, [str(tmp_path / "second")], [{}], [1], [False])
    assert [verdict.score for verdict in ahead.finish()[0]] == [1.0, 1.0]
    suite.close()


def test_what_the_pool_raises_is_raised_at_the_end(monkeypatch):
    suite = RewardSuite([RewardSpec(name="math")])

    def broken(calls):
        raise RuntimeError("The verifier's workers end as soon as they start")

    monkeypatch.setattr(suite._pool, "run", broken)
    ahead = JudgingAhead(suite)
    ahead.add(0, ["x"], [{"answer": "y"}], [1], [False])
    with pytest.raises(RuntimeError, match="end as soon as they start"):
        ahead.finish()
