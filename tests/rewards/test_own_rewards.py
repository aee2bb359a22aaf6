"""A user's reward is taken in every documented shape, alike inline and isolated, and a wrong one is named."""

import asyncio
import os
import time

import own_rewards
import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards import PoolConfig, RewardError, RewardSpec, RewardSuite, describe, import_plugins
from lambda_grpo_pl.rewards.math.extraction import FINAL_ANSWER

SMALL_POOL = PoolConfig(num_workers=1, timeout_s=30)


def score(rewards, texts, examples, lengths=None, **kwargs):
    suite = RewardSuite(rewards, SMALL_POOL)
    try:
        return suite.score(texts, examples, lengths or [1] * len(texts), [False] * len(texts), **kwargs)
    finally:
        suite.close()


def own(name, **kwargs):
    return RewardSpec(name=f"own_rewards.{name}", **kwargs)


@pytest.mark.parametrize("isolated", [False, True])
def test_numbers_of_every_kind_count_alike_inline_and_isolated(isolated):
    values = [True, False, 0.5, -2, "numpy", "one element", {"score": 3}]
    scores = score([own("returns", isolated=isolated)], [""] * 7, [{"value": value} for value in values])
    assert scores.totals == [1.0, 0.0, 0.5, -2.0, 0.75, 0.75, 3.0]
    assert scores.num_failed == 0


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("value", [None, "1.0", [1.0], "huge", float("nan"), float("inf"), 1e39, 1j, {"value": 1}])
def test_a_wrong_return_names_the_reward_and_what_it_returned(value, isolated):
    shown = "an integer of" if value == "huge" else repr(value)
    with pytest.raises(UserError, match=r"own_rewards\.returns") as error:
        score([own("returns", isolated=isolated)], [""], [{"value": value}])
    assert shown in str(error.value)


def test_trls_signature_is_told_by_its_parameters():
    examples = [{"prompt": "ab", "answer": "x"}, {"prompt": "abc", "answer": "y"}]
    assert score([own("trl_style")], ["x", "x"], examples).totals == [3.0, 3.0]
    with pytest.raises(UserError, match="missing_column"):
        score([own("trl_needs")], ["x"], [{"answer": "x"}])


@pytest.mark.parametrize("isolated", [False, True])
def test_batchwise_rewards_see_the_batch_and_groupwise_ones_a_group(isolated):
    first, second = {"answer": "1"}, {"answer": "2"}
    examples, lengths = [first, first, first, second, second], [3, 1, 2, 9, 8]
    rewards = [own("batchwise", isolated=isolated), own("shortest", weight=100, isolated=isolated)]
    assert score(rewards, ["t"] * 5, examples, lengths).totals == [5, 105, 5, 5, 105]


def test_a_group_size_tells_neighboring_groups_of_one_example_apart():
    scores = score([own("shortest")], ["t"] * 4, [{"a": 1}] * 4, [1, 2, 3, 4], group_size=2)
    assert scores.totals == [1, 0, 1, 0]
    same = {"a": 1}
    assert score([own("shortest")], ["t"] * 4, [same] * 4, [1, 2, 3, 4]).totals == [1, 0, 0, 0]


def test_a_list_of_the_wrong_length_names_the_reward():
    with pytest.raises(UserError, match=r"too_few.*1 values for 2 responses"):
        score([own("too_few")], ["a", "b"], [{}, {}], group_size=2)


@pytest.mark.parametrize("isolated", [False, True])
def test_coroutines_are_awaited(isolated):
    assert score([own("slow", isolated=isolated)], ["a", "bcd"], [{}, {}]).totals == [1.0, 3.0]


def test_coroutines_run_concurrently_also_inside_a_running_loop():
    async def notebook():
        start = time.monotonic()
        totals = score([own("slow")], ["a"] * 40, [{}] * 40).totals
        return totals, time.monotonic() - start

    totals, seconds = asyncio.run(notebook())
    assert totals == [1.0] * 40
    assert seconds < 4


def test_plain_functions_are_taken_beside_specs_and_extras_are_averaged():
    scores = score([own_rewards.with_extras, RewardSpec(name="exact")], ["a b", "a b c d"], [{"answer": "x"}] * 2)
    assert set(scores.parts) == {"with_extras", "exact"}
    assert scores.extras == {"with_extras/words": 3.0}
    assert score([lambda completion, example: 0.25], ["a"], [{}]).totals == [0.25]


def test_a_reward_that_raises_names_itself_and_the_example_and_keeps_its_traceback():
    with pytest.raises(RewardError, match=r"own_rewards.broken.*ValueError.*example q7") as error:
        score([own("broken")], ["x"], [{"id": "q7"}])
    assert isinstance(error.value.__cause__, ValueError)
    assert error.value.__cause__.__traceback__.tb_next.tb_frame.f_code.co_name == "broken"


def test_a_gold_that_is_not_a_number_names_the_example():
    with pytest.raises(UserError, match=r"'Paris'.*example q7"):
        score([RewardSpec(name="numeric")], ["#### 3"], [{"answer": "Paris", "id": "q7"}])


def test_no_rewards_weights_that_are_not_finite_and_what_cannot_be_called_are_refused():
    with pytest.raises(UserError, match=r"reward\.functions is empty"):
        RewardSuite([])
    for weight in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="weight of 'exact'"):
            RewardSpec(name="exact", weight=weight)
    with pytest.raises(UserError, match="not a reward"):
        RewardSuite([3])
    with pytest.raises(UserError, match=r"\(completion, example\)"):
        RewardSuite([lambda completion: 1.0])
    spec = RewardSpec.from_function(lambda completion, example: 1.0)
    spec.isolated = True
    with pytest.raises(UserError, match="top level"):
        RewardSuite([spec])


def test_length_ratio_divides_by_the_length_relative_to_the_groups_mean():
    examples, lengths = [{"answer": "1"}] * 3, [10, 20, 30]
    alone = [RewardSpec(name="length_ratio", params={"alpha": 0.5})]
    assert score(alone, ["t"] * 3, examples, lengths).totals == pytest.approx([1 / 1.25, 1 / 1.5, 1 / 1.75])
    spec = RewardSpec(name="length_ratio", params={"alpha": 1.0, "reward": "numeric"})
    scores = score([spec], ["#### 1", "#### 2", "#### 1"], examples, lengths)
    assert scores.totals == pytest.approx([1 / 1.5, 0.0, 1 / 2.5])
    assert [verdict.correct for verdict in scores.verdicts] == [True, False, True]
    with pytest.raises(UserError, match="alpha"):
        score([RewardSpec(name="length_ratio", params={"alpha": -1.0})], ["t"], [{}])


def test_modules_of_the_working_directory_are_found(tmp_path, monkeypatch):
    (tmp_path / "my_cwd_rewards.py").write_text(
        "from lambda_grpo_pl.rewards import register\n@register('mine_from_cwd', reads='the first word')\n"
        "def mine(completion, example):\n    return 0.5\n"
    )
    (tmp_path / "my_broken_import.py").write_text("import a_module_that_is_missing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path not in ("", os.getcwd())])
    assert score([RewardSpec(name="my_cwd_rewards.mine")], ["a"], [{}]).totals == [0.5]
    import_plugins(["my_cwd_rewards"])
    assert score([RewardSpec(name="mine_from_cwd")], ["a"], [{}]).totals == [0.5]
    assert describe("mine_from_cwd") == "the first word"
    with pytest.raises(UserError, match="no module 'nowhere_at_all'"):
        import_plugins(["nowhere_at_all"])
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        import_plugins(["my_broken_import"])


def test_rewards_say_what_they_read():
    assert describe("math") == FINAL_ANSWER
    assert describe("math_lenient").endswith("else the last number")
    assert describe("own_rewards.slow") == describe("rouge") == "the whole response"


def test_an_infinite_total_names_the_weights():
    suite = RewardSuite([RewardSpec.from_function(lambda completion, example: 1e38, weight=10.0)])
    with pytest.raises(UserError, match=r"10 ×.*lower the weights"):
        suite.score(["a"], [{"answer": "a"}], [1], [False])
