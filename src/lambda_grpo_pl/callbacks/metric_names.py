"""Every metric of a training run in one place: the dashboard, the progress bar, the picture and the table read it.

To add a metric to the dashboard, log it and add a line here. `*` stands for names that a configuration decides: of
reward functions and of validation sets.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Literal, NamedTuple

Section = Literal["1 learning", "2 length preference", "3 soundness", "4 speed", "5 evaluation", "6 lens"]
"""In the order of the questions a reader asks: does it learn, what does λ do, is it sound, is it fast, does it help,
what would other length preferences do?
"""
LENS: Section = "6 lens"


class Metric(NamedTuple):
    """What a metric means and where it is shown."""

    section: Section
    meaning: str
    """What to read from it, with the unit."""
    label: str = ""
    """Short name in the progress bar; empty: not shown there."""
    title: str = ""
    """Title in the picture of a run; empty: not drawn."""


METRICS: dict[str, Metric] = {
    "reward/mean": Metric("1 learning", "mean total reward; rises if the run learns", "reward", "reward"),
    "reward/accuracy": Metric("1 learning", "share of correct responses", "accuracy", "accuracy of training responses"),
    "reward/std": Metric("1 learning", "standard deviation of the total reward"),
    "reward/zero_variance_groups": Metric("1 learning", "share of groups without a signal: all rewards equal"),
    "reward/inactive": Metric("1 learning", "share of responses left out of the loss"),
    "reward/*": Metric("1 learning", "mean of one reward function, unweighted"),
    "response/length": Metric("1 learning", "mean length in tokens", "length", "response length (tokens)"),
    "response/length_std": Metric("1 learning", "standard deviation of the length in tokens"),
    "response/length_min": Metric("1 learning", "shortest response in tokens"),
    "response/length_max": Metric("1 learning", "longest response in tokens"),
    "response/truncated": Metric("1 learning", "share of truncated responses; keep it near 0"),
    "dynamic_sampling/rounds": Metric("1 learning", "rounds of replacement prompts in this rollout"),
    "dynamic_sampling/still_flat": Metric("1 learning", "share of groups without a signal after the last round"),
    "preference/lambda": Metric(
        "2 length preference", "0: all tokens weigh alike (DAPO); below 0: short responses weigh more", "λ", "λ"
    ),
    "preference/grpo_lambda": Metric("2 length preference", "λ at which f equals GRPO's to first order on this batch"),
    "preference/slope": Metric("2 length preference", "dJ/dλ: the direction in which λ moves"),
    "preference/correlation": Metric("2 length preference", "moving average from which the correlation rule takes λ"),
    "preference/at_bound": Metric("2 length preference", "1 if λ has reached its bound"),
    "preference/length_advantage_corr": Metric("2 length preference", "correlation that drives the slope on-policy"),
    "preference/f_min": Metric("2 length preference", "smallest f of a group, averaged"),
    "preference/f_max": Metric("2 length preference", "largest f of a group, averaged"),
    "preference/ess": Metric("2 length preference", "effective share of a group's responses; low: few decide"),
    "preference/floored": Metric("2 length preference", "share of responses whose weight was lifted to the floor"),
    "preference/weight_short": Metric("2 length preference", "gradient share of the shortest third of responses"),
    "preference/weight_middle": Metric("2 length preference", "gradient share of the middle third of responses"),
    "preference/weight_long": Metric("2 length preference", "gradient share of the longest third of responses"),
    "preference/length_correct": Metric("2 length preference", "mean length of correct responses in tokens"),
    "preference/length_incorrect": Metric("2 length preference", "mean length of incorrect responses in tokens"),
    "lens/*/weight_short": Metric(LENS, "gradient share of the shortest third of responses under other preferences"),
    "lens/*/weight_long": Metric(LENS, "gradient share of the longest third of responses under other preferences"),
    "lens/*/prefix_bias": Metric(LENS, "net push on tokens that a group's responses share, from −1 to 1; 0: none"),
    "lens/*/sign_balance": Metric(LENS, "weight of the better against the worse responses, from −1 to 1; 0: equal"),
    "lens/*/gain": Metric(LENS, "slope of the held-out objective along a step of each preference at equal weight"),
    "lens/*/gain_low": Metric(LENS, "lower end of the gain's 95 % interval over prompts"),
    "lens/*/gain_high": Metric(LENS, "upper end of the gain's 95 % interval over prompts"),
    "policy/loss": Metric("3 soundness", "−Σ f S / Z; near 0 on-policy, where its gradient is what counts"),
    "policy/gradient_norm": Metric("3 soundness", "norm of the gradient before clipping"),
    "policy/learning_rate": Metric("3 soundness", "learning rate of the policy"),
    "policy/entropy": Metric("3 soundness", "nats per token; a collapse to 0 ends exploration"),
    "policy/clip_low": Metric("3 soundness", "share of tokens clipped below"),
    "policy/clip_high": Metric("3 soundness", "share of tokens clipped above"),
    "policy/clip_dual": Metric("3 soundness", "share of tokens clipped by the dual clip"),
    "policy/ratio_min": Metric("3 soundness", "smallest ratio of new to old probability of a token"),
    "policy/ratio_max": Metric("3 soundness", "largest ratio of new to old probability of a token"),
    "policy/shift_from_old": Metric("3 soundness", "nats per token between the policy and the one that sampled"),
    "policy/reference_kl": Metric("3 soundness", "nats per token between the policy and the reference"),
    "sampler/gap_mean": Metric("3 soundness", "mean |log π_trainer − log π_sampler| of a token"),
    "sampler/gap_max": Metric("3 soundness", "largest |log π_trainer − log π_sampler| of a token"),
    "sampler/sync_gap": Metric("3 soundness", "largest gap in the self-test after a weight sync"),
    "sampler/importance_weight": Metric("3 soundness", "mean importance weight π_trainer / π_sampler of a token"),
    "sampler/staleness": Metric("3 soundness", "updates since the weights that sampled"),
    "sampler/restarts": Metric(
        "3 soundness", "restarts of failed samplers on all ranks, since the run started or resumed"
    ),
    "reward/verifier_failed": Metric("3 soundness", "share of responses that the verifier could not judge"),
    "reward/no_answer": Metric("3 soundness", "share of responses without an answer to judge"),
    "train/tokens_per_second": Metric("4 speed", "response tokens per second, all phases", "tokens/s"),
    "train/model_tokens": Metric("4 speed", "tokens that went through the model in training"),
    "policy/trained_tokens": Metric("4 speed", "response tokens that the gradient was taken from"),
    "time/step": Metric("4 speed", "seconds of the whole step"),
    "time/sync": Metric("4 speed", "seconds until the sampler had the weights"),
    "time/sample": Metric("4 speed", "seconds until the last response was there and read"),
    "time/score": Metric("4 speed", "seconds until the last verdict, counted from the last response"),
    "time/train": Metric("4 speed", "seconds of the updates"),
    "val/average": Metric("5 evaluation", "mean of the validation sets' main measures"),
    "val/*": Metric("5 evaluation", "measures of one validation set"),
}
"""Metric → what it means and where it is shown, in the order of the dashboard."""

LAMBDA, GRPO_LAMBDA = "preference/lambda", "preference/grpo_lambda"
"""λ, and the λ that equals GRPO; methods without λ do not log the second."""
CORRELATION = "preference/length_advantage_corr"
"""Correlation of length and advantage within groups: what decides which preference helps (docs/which-preference.md)."""
AXIS = "update"
"""The x axis of every chart: policy updates."""


def find_metric(name: str) -> Metric | None:
    """Return the entry of a logged metric, one with `*` where no exact name fits, or None."""
    if name in METRICS:
        return METRICS[name]
    return next((metric for pattern, metric in METRICS.items() if fnmatchcase(name, pattern)), None)


def sections() -> dict[Section, list[str]]:
    """Return section → names, in the order of the dashboard."""
    grouped: dict[Section, list[str]] = {}
    for name, metric in METRICS.items():
        grouped.setdefault(metric.section, []).append(name)
    return dict(sorted(grouped.items()))


def titles() -> dict[str, str]:
    """Return metric → title of what the picture of a run draws."""
    return {name: metric.title for name, metric in METRICS.items() if metric.title}


def labels() -> dict[str, str]:
    """Return metric → short name of what the progress bar shows."""
    return {name: metric.label for name, metric in METRICS.items() if metric.label}
