"""Rewards: pure text → number, by name, weighted; verifiers that may hang run in a killable process pool.

    suite.py        RewardSuite: what the callbacks use; ahead.py judges while later responses are sampled
    spec.py         RewardSpec, one item of `reward.functions`, and PoolConfig, `reward.pool`
    registry.py     names, `@register("mine")`, dotted paths, plugins
    calls.py        how a function is called: per response, per group, per batch; TRL's signature; async
    verdict.py      Verdict, and what counts as a score
    math/           math, numeric, exact, multiple_choice, math_lenient (its own page: `math/__init__.py`)
    formats.py      format_think, format_boxed, json, regex
    lengths.py      overlong, length, length_ratio
    overlap.py      rouge, chrf, bleu
    pool.py         the killable pool; worker.py is its other end

No torch here, and math-verify is imported by workers only.
"""

from lambda_grpo_pl.rewards import formats, lengths, overlap  # noqa: F401 - registers the built-in rewards
from lambda_grpo_pl.rewards.ahead import JudgingAhead
from lambda_grpo_pl.rewards.calls import RewardError, groupwise
from lambda_grpo_pl.rewards.math import answers, lenient  # noqa: F401 - likewise
from lambda_grpo_pl.rewards.registry import REGISTRY, build, describe, import_plugins, is_graded, register
from lambda_grpo_pl.rewards.spec import PoolConfig, RewardSpec
from lambda_grpo_pl.rewards.suite import RewardSuite, SuiteScores, grade
from lambda_grpo_pl.rewards.verdict import Query, Reward, Status, Verdict, Verifier

__all__ = [
    "REGISTRY",
    "JudgingAhead",
    "PoolConfig",
    "Query",
    "Reward",
    "RewardError",
    "RewardSpec",
    "RewardSuite",
    "Status",
    "SuiteScores",
    "Verdict",
    "Verifier",
    "build",
    "describe",
    "grade",
    "groupwise",
    "import_plugins",
    "is_graded",
    "register",
]
