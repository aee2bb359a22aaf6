"""Rewards: pure text → number, by name, weighted; verifiers that may hang run in a killable process pool.

    suite.py        RewardSpec, RewardSuite: what the callbacks use; ahead.py judges while others still sample
    registry.py     names, `@register("mine")`, dotted paths
    verdict.py      Verdict, and the two shapes of a reward
    math/           math, numeric, exact, multiple_choice   (extraction → normalization → quantities → equivalence),
                    and math_lenient, scored as another harness does
    formats.py      format_think, format_boxed, json, regex
    lengths.py      overlong, length
    overlap.py      rouge, chrf, bleu
    pool.py         the killable pool; worker.py is its other end

No torch here, and math-verify is imported by workers only.
"""

from lambda_grpo_pl.rewards import formats, lengths, overlap  # noqa: F401 - registers the built-in rewards
from lambda_grpo_pl.rewards.ahead import JudgingAhead
from lambda_grpo_pl.rewards.math import answers, lenient  # noqa: F401 - likewise
from lambda_grpo_pl.rewards.pool import PoolConfig
from lambda_grpo_pl.rewards.registry import REGISTRY, build, register
from lambda_grpo_pl.rewards.suite import RewardSpec, RewardSuite, SuiteScores, grade
from lambda_grpo_pl.rewards.verdict import Query, Reward, Status, Verdict, Verifier

__all__ = [
    "REGISTRY",
    "JudgingAhead",
    "PoolConfig",
    "Query",
    "Reward",
    "RewardSpec",
    "RewardSuite",
    "Status",
    "SuiteScores",
    "Verdict",
    "Verifier",
    "build",
    "grade",
    "register",
]
