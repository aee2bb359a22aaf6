"""A suite adds weighted rewards, keeps order, verifies equal answers once, and tells failure from wrong."""

import faulty_rewards
import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards import REGISTRY, PoolConfig, RewardSpec, RewardSuite, Verdict, build, register
from lambda_grpo_pl.rewards.verdict import as_verdict


def score(suite, completions, answers, lengths=None, truncated=None):
    num = len(completions)
    examples = [{"answer": answer} for answer in answers]
    return suite.score(completions, examples, lengths or [1] * num, truncated or [False] * num)


def test_the_total_is_the_weighted_sum_of_the_parts_and_the_first_reward_decides_correctness():
    specs = [
        RewardSpec(name="numeric"),
        RewardSpec(name="format_boxed", weight=0.25),
        RewardSpec(name="overlong", weight=2.0, params={"max_length": 100, "buffer": 50}),
    ]
    scores = score(RewardSuite(specs), [r"\boxed{4}", "The answer is 5", r"\boxed{5}"], ["4"] * 3, lengths=[75, 1, 100])
    assert scores.parts == {"numeric": [1, 0, 0], "format_boxed": [1, 0, 1], "overlong": [-0.5, 0, -1]}
    assert scores.totals == [1 + 0.25 - 1.0, 0.0, 0.25 - 2.0]
    assert [verdict.correct for verdict in scores.verdicts] == [True, False, False]
    assert scores.active == [True] * 3


def test_equal_answers_to_equal_golds_are_judged_once():
    """16 completions, worded differently, of two prompts: two answers each that need algebra, so four calls."""
    suite = RewardSuite([RewardSpec(name="math")])
    judged = []
    run = suite._pool.run
    suite._pool.run = lambda calls: judged.extend(calls) or run(calls)
    completions = [
        f"Attempt {row}: " + r"\boxed{%s}" % (r"\sqrt{8}" if row % 2 else r"\sqrt{2}+\sqrt{2}") for row in range(32)
    ]
    scores = score(suite, completions, [r"2\sqrt{2}"] * 16 + [r"\sqrt{16}/\sqrt{2}"] * 16)
    suite.close()
    assert len(judged) == 4
    assert [verdict.correct for verdict in scores.verdicts] == [True] * 32


@pytest.mark.parametrize(("on_failure", "active"), [("zero", [True, True]), ("exclude", [False, True])])
def test_a_failed_verifier_scores_zero_and_is_excluded_on_demand(on_failure, active):
    spec = RewardSpec(name="faulty_rewards.by_text", isolated=True)
    suite = RewardSuite([spec], PoolConfig(num_workers=1), on_failure=on_failure)
    scores = score(suite, ["crash", "yes"], ["yes", "yes"])
    suite.close()
    assert (scores.totals, scores.active, scores.num_failed) == ([0.0, 1.0], active, 1)
    assert [verdict.status for verdict in scores.verdicts] == ["failed", "ok"]


def test_truncated_responses_leave_the_loss_on_demand():
    suite = RewardSuite([RewardSpec(name="exact")], exclude_truncated=True)
    assert score(suite, ["a", "b"], ["a", "b"], truncated=[True, False]).active == [False, True]


def test_one_line_registers_a_reward_and_parameters_reach_it():
    @register("test_longer_than")
    def longer_than(completion, example, limit):
        return len(completion) > limit

    suite = RewardSuite([RewardSpec(name="test_longer_than", params={"limit": 3})])
    assert score(suite, ["abcd", "abc"], ["", ""]).totals == [1.0, 0.0]
    with pytest.raises(ValueError, match="already registered"):
        register("test_longer_than")(lambda completion, example: 1.0)
    del REGISTRY["test_longer_than"]


def test_a_dotted_path_names_a_reward():
    assert build("faulty_rewards.by_text", {}) is faulty_rewards.by_text


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("maths", {}, r"reward.functions names 'maths'.*did you mean 'math'\?.*use one of"),
        ("no_such_package.reward", {}, "could not be imported"),
        ("faulty_rewards.missing", {}, "has no 'missing': correct the name"),
        ("own_rewards.returs", {}, r"has no 'returs' \(did you mean 'returns'\?\)"),
        ("overlong", {"limit": 3}, "do not fit.*limit.*it takes max_length, buffer, factor"),
        ("format_think", {"closed": True}, r"takes \(completion.*must take.*and closed \(its params\)"),
        ("overlong", {"max_length": 10, "buffer": 20}, "buffer must be"),
        ("regex", {"pattern": "("}, "not a regular expression"),
        ("rouge", {"kind": "rouge9"}, "kind must be"),
    ],
)
def test_a_mistake_in_the_configuration_is_told(name, params, message):
    with pytest.raises(UserError, match=message):
        RewardSuite([RewardSpec(name=name, params=params)])


def test_rows_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="2 completions, 1 examples"):
        RewardSuite([RewardSpec(name="exact")]).score(["a", "b"], [{"answer": "a"}], [1, 1], [False, False])


def test_labels_must_differ_and_can_be_set():
    twice = [RewardSpec(name="regex", params={"pattern": "a"}), RewardSpec(name="regex", params={"pattern": "b"})]
    with pytest.raises(ValueError, match="label"):
        RewardSuite(twice)
    twice[1] = RewardSpec(name="regex", params={"pattern": "b"}, label="second")
    assert list(score(RewardSuite(twice), ["b"], [""]).parts) == ["regex", "second"]


def test_what_a_reward_returns_is_read_as_a_verdict():
    assert as_verdict(True) == Verdict(1.0, True)
    assert as_verdict(0.25) == Verdict(0.25, False)
    assert as_verdict(Verdict(-1.0, True, "x")) == Verdict(-1.0, True, "x")


@pytest.mark.parametrize(
    ("spec", "response", "golds", "score"),
    [
        (RewardSpec(name="math"), r"\boxed{7}", ["5", "7"], 1.0),
        (RewardSpec(name="math"), r"\boxed{x(x+1)}", ["5", "x^2+x"], 1.0),
        (RewardSpec(name="math"), r"\boxed{6}", ["5", "7"], 0.0),
        (RewardSpec(name="math_lenient"), "seven is 7", ["5", "7"], 1.0),
        (RewardSpec(name="numeric"), "#### 7", ["5", "7"], 1.0),
        (RewardSpec(name="exact", params={"whole": True}), "Paris", ["Lyon", "Paris"], 1.0),
        (RewardSpec(name="multiple_choice"), "B", ["A", "B"], 1.0),
        (RewardSpec(name="chrf"), "a cat", ["the dog", "a cat"], 1.0),
        (RewardSpec(name="json", params={"match_answer": True}), "[2]", ["[1]", "[2]"], 1.0),
        (RewardSpec(name="regex", params={"pattern": "=(\\d)"}), "x=2", ["1", "2"], 1.0),
    ],
    ids=lambda value: value.name if isinstance(value, RewardSpec) else "",
)
def test_any_of_several_golds_is_right(spec, response, golds, score):
    """What `answer_list: any` promises, whichever reward judges; the first gold alone is in `answer`."""
    suite = RewardSuite([spec])
    rows = [{"answer": golds[0], "answers": golds}]
    assert suite.score([response], rows, [1], [False]).totals == [score]
    suite.close()
