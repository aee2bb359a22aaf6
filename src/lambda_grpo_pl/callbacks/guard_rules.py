"""Signs that a run goes wrong, as rules over what it logs.

Pure functions of numbers: no trainer, no tensor. docs/guards.md lists the rules; a test holds the table to `RULES`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import NamedTuple

Metrics = Mapping[str, float]
"""What a run logs about one rollout, by name."""
WINDOW = 20
"""Rollouts that a rule looks back."""
START = 10
"""Rollouts at the start of a run that later ones are compared with."""
PATIENCE = 3
"""Rollouts in a row that a state has to last: a single one may be chance."""
SPIKE = 10.0
"""How many times the median of the window a spike is."""
MUST_BE_FINITE = ("policy/loss", "policy/gradient_norm", "preference/slope")
REPEATED = "guards/repeated_answer"
"""Share of the most frequent answer in a rollout, less the share of the most frequent gold answer."""


class Evaluated(NamedTuple):
    """One evaluation within a fit."""

    score: float
    """`val/average`."""
    reward: float
    """Mean training reward since the evaluation before."""


class History(NamedTuple):
    """What the rules look at, the newest last."""

    start: Sequence[Metrics]
    """The first `START` rollouts of the run."""
    recent: Sequence[Metrics]
    """At most `WINDOW` rollouts; empty before the first."""
    evaluations: Sequence[Evaluated] = ()

    def latest(self, name: str) -> float:
        """A metric of the newest rollout; NaN if it was not logged."""
        return self.recent[-1].get(name, math.nan)

    def before(self, name: str) -> list[float]:
        """A metric of the rollouts before the newest, where it was logged and finite."""
        return [value for each in self.recent[:-1] if math.isfinite(value := each.get(name, math.nan))]

    def lasts(self, holds: Callable[[Metrics], bool]) -> bool:
        """Whether something held in the last `PATIENCE` rollouts."""
        return len(self.recent) >= PATIENCE and all(holds(each) for each in self.recent[-PATIENCE:])

    def means(self, name: str) -> tuple[float, float]:
        """A metric's mean over the start of the run and over the last `START` rollouts; NaN as long as they overlap."""
        if len(self.start) < START or len(self.recent) < WINDOW:
            return math.nan, math.nan
        ends = self.start, self.recent[-START:]
        first, last = (fmean(each.get(name, math.nan) for each in rollouts) for rollouts in ends)
        return first, last


class Rule(NamedTuple):
    """One guard."""

    holds: Callable[[History], bool]
    """Whether the run shows the sign."""
    advice: str
    """The warning: what is seen, and what to do. `{name}` stands for a metric's newest value."""
    warned_by: str = ""
    """What warns already, if something does; the rule then only serves to end the run."""


def _spikes(history: History, name: str, least: float) -> bool:
    earlier = history.before(name)
    value = history.latest(name)
    return len(earlier) >= START and value > least and value > SPIKE * median(earlier)


def _collapses(history: History) -> bool:
    first, last = history.means("policy/entropy")
    return last < 0.1 * first


def _runs_away(history: History) -> bool:
    (short, long), (poor, rich) = history.means("response/length"), history.means("reward/mean")
    return long > 2 * short and rich <= poor


def _is_hacked(history: History) -> bool:
    last = history.evaluations[-3:]
    return len(last) == 3 and all(b.score < a.score and b.reward > a.reward for a, b in pairwise(last))


RULES: dict[str, Rule] = {
    "gradient_spike": Rule(
        lambda history: _spikes(history, "policy/gradient_norm", 0.0),
        "The gradient norm is {policy/gradient_norm:.3g}, more than 10 times the median of the last rollouts. Look at "
        "the rollout with `lambda-grpo replay`; if it happens again, lower model.optimizer.lr.",
    ),
    "kl_spike": Rule(
        lambda history: any(_spikes(history, f"policy/{name}", 0.05) for name in ("reference_kl", "shift_from_old")),
        "The policy moved {policy/shift_from_old:.3g} nats per token from the one that sampled and is "
        "{policy/reference_kl:.3g} from the reference, more than 10 times the median of the last rollouts: lower "
        "model.optimizer.lr or model.updates.num_epochs, or raise model.objective.surrogate.kl_coef.",
    ),
    "entropy_collapse": Rule(
        _collapses,
        "The policy's entropy fell to {policy/entropy:.3g} nats per token, below a tenth of what it was at the start: "
        "responses no longer differ. Lower model.optimizer.lr, or raise model.objective.surrogate.clip_high.",
    ),
    "lambda_at_bound": Rule(
        lambda history: history.latest("preference/at_bound") >= 1.0,
        "λ has reached its bound; f cannot become more uneven. Lower model.preference.lr, raise "
        "model.preference.bound, or set model.preference.min_ess.",
        warned_by="LambdaGRPO",
    ),
    "low_ess": Rule(
        lambda history: history.lasts(lambda each: each.get("preference/ess", 1.0) < 0.5),
        "The length preference lets {preference/ess:.0%} of a group's responses decide: lower model.preference.lr or "
        "bound, or set model.preference.min_ess.",
    ),
    "sampler_gap": Rule(
        lambda history: history.lasts(
            lambda each: each.get("sampler/gap_mean", 0.0) > 0.1 and each.get("sampler/staleness", 0.0) == 0.0
        ),
        "Sampler and trainer differ by {sampler/gap_mean:.3g} nats per token on the same weights: set "
        "rollout.engine.dtype to that of the trainer, or model.objective.surrogate.is_correction to truncate.",
    ),
    "verifier_failures": Rule(
        lambda history: history.lasts(lambda each: each.get("reward/verifier_failed", 0.0) > 0.1),
        "The verifier failed on {reward/verifier_failed:.0%} of the responses, in several rollouts in a row: see its "
        "messages above, raise reward.pool.timeout_s or memory_gb, or set reward.on_failure to exclude.",
    ),
    "truncation": Rule(
        lambda history: history.lasts(lambda each: each.get("response/truncated", 0.0) > 0.5),
        "{response/truncated:.0%} of the responses were truncated, in several rollouts in a row: raise "
        "rollout.sampling.max_tokens.",
        warned_by="RolloutCallback",
    ),
    "flat_groups": Rule(
        lambda history: history.lasts(lambda each: each.get("reward/zero_variance_groups", 0.0) == 1.0),
        "In several rollouts in a row, every group's responses earned equal rewards, so nothing is learned: change "
        "data.train or reward.functions.",
        warned_by="RewardCallback",
    ),
    "reward_hacking": Rule(
        _is_hacked,
        "The training reward rose while val/average fell, in two evaluations in a row: the policy may exploit the "
        "reward. Read the best responses (table.every), make reward.functions stricter, or go back to an earlier "
        "checkpoint.",
    ),
    "length_runaway": Rule(
        _runs_away,
        "Responses are twice as long as at the start ({response/length:.0f} tokens) and earn no more: set "
        "model.preference or reward.functions so that length does not pay, or lower rollout.sampling.max_tokens.",
    ),
    "repeated_answer": Rule(
        lambda history: history.lasts(lambda each: each.get(REPEATED, 0.0) > 0.5),
        "One answer is given to most prompts, whose gold answers differ: the policy may have collapsed or found a hole "
        "in the reward. Read the responses (table.every), and check reward.functions.",
    ),
}
"""Name, as in guards.fatal → rule."""


def find_broken(history: History) -> list[str]:
    """Return the names of the rules whose sign the run shows."""
    return [name for name, rule in RULES.items() if history.recent and rule.holds(history)]


def describe(name: str, metrics: Metrics) -> str:
    """Return a rule's warning about a rollout."""
    return RULES[name].advice.format_map(_OrNan(metrics))


def find_nonfinite(metrics: Metrics) -> list[str]:
    """Return the names of an update's metrics that are infinite or not a number."""
    return [name for name in MUST_BE_FINITE if not math.isfinite(metrics.get(name, 0.0))]


def repeated_share(extracted: Sequence[str | None], golds: Sequence[object]) -> float:
    """Return how much more frequent the most frequent answer is than the most frequent gold answer, as shares."""
    answers = [answer for answer in extracted if answer is not None]
    if not answers or not golds:
        return 0.0
    shares = [Counter(map(str, each)).most_common(1)[0][1] / len(each) for each in (answers, list(golds))]
    return shares[0] * len(answers) / len(extracted) - shares[1]


class _OrNan(dict[str, float]):
    def __missing__(self, key: str) -> float:
        return math.nan
