"""The lens against full runs, in numbers: `contrasts.LENS_QUESTIONS`, regime by regime and together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.lab.contrasts import LENS_ARMS, LENS_SCORES, LENS_WINDOWS
from benchmarks.lab.rankings import (
    Estimate,
    Resampled,
    average,
    choose_largest,
    compare_orders,
    find_clear_pairs,
    find_regret,
    make_shares,
    resample,
)
from benchmarks.lab.results import Floats, Result
from lambda_grpo_pl.callbacks.gains import judge_gains

TOKEN_MEAN, GRPO = LENS_ARMS.index("dapo"), LENS_ARMS.index("grpo")
DECLARED_SCORE, DECLARED_WINDOW = next(iter(LENS_SCORES)), next(iter(LENS_WINDOWS))
RULES = ("dapo", "grpo", "random", "correlation")
"""What else one could do: always the token mean, always GRPO, any method, or what the sign of corr(ℓ, A) says."""
DEFAULT_ARMS = ("grpo", "delta_l_075", "balanced", "power_+0.5")
"""What the package's lens compares a token mean with unless it is told otherwise."""
NAMED = re.compile(r"On held-out prompts (\S+) would have gained more")
Tables = dict[str, dict[str, dict[str, Estimate]]]
"""Score → window → measure → estimate."""


class Regime(NamedTuple):
    """One regime's looks and full runs."""

    gain: Resampled
    """[M] of the declared window."""
    step: Floats
    """[M] mean norm of the step in the declared window."""
    accuracy: Resampled
    """[M] of the full runs."""
    clear: NDArray[np.bool_]
    """Which pairs of methods differ in the full runs."""
    tables: Tables
    choices: dict[str, dict[str, int]]
    """Score → window → the method that it ranks first."""
    rules: dict[str, Estimate]
    """Rule → regret."""
    correlation: Estimate
    named: dict[str, list[int | None]]
    """`all` or `default` methods → run → the one that the package's sentence says would have gained more, if any."""


def summarize(results: Sequence[Result], full_runs: Mapping[str, Floats]) -> dict[str, Any]:
    """Return every number of the report."""
    regimes = {
        each.cell.regime: _look_at(each, full_runs[each.cell.regime], number) for number, each in enumerate(results)
    }
    if not regimes:
        return {"regimes": {}}
    record = results[0].record
    return {
        "num_seeds": record["num_seeds"], "arms": list(LENS_ARMS), "updates": record["updates"],
        "heldout_responses": record["heldout_responses"],
        "regimes": {name: _describe(each) for name, each in regimes.items()},
        "all": _put_together(list(regimes.values())),
    }  # fmt: skip


def _look_at(result: Result, accuracies: Floats, number: int) -> Regime:
    gain, *sizes = (np.array(result.rows[name]) for name in ("gain", "step", "noise", "estimated_step"))
    parts = (np.ones_like(gain), *sizes)
    scores = {
        name: np.divide(gain, part, out=np.zeros_like(gain), where=part > 0)
        for name, part in zip(LENS_SCORES, parts, strict=True)
    }
    shares = make_shares(len(gain), 2 * number)
    accuracy = resample(accuracies, make_shares(len(accuracies), 2 * number + 1))
    clear = find_clear_pairs(accuracies)
    windows = {name: _count_looks(result, share) for name, share in LENS_WINDOWS.items()}
    tables: Tables = {}
    choices: dict[str, dict[str, int]] = {}
    for name, values in scores.items():
        for window, count in windows.items():
            of_seeds = values[:, :count].mean(1)
            tables.setdefault(name, {})[window] = _compare(of_seeds, shares, accuracy, clear)
            choices.setdefault(name, {})[window] = int(of_seeds.mean(0).argmax())
    count = windows[DECLARED_WINDOW]
    correlation = resample(np.array(result.rows["correlation"])[:, :count].mean(1), shares)
    rules = _follow_rules(correlation, accuracy)
    compared = {"all": LENS_ARMS, "default": DEFAULT_ARMS}
    named = {name: [_read_sentence(each, arms) for each in gain] for name, arms in compared.items()}
    return Regime(
        resample(gain[:, :count].mean(1), shares), sizes[0][:, :count].mean((0, 1)), accuracy, clear, tables, choices,
        rules, Estimate(float(correlation.mean), correlation.draws), named,
    )  # fmt: skip


def _count_looks(result: Result, share: float) -> int:
    """Return how many looks a window has; the first update is in every window."""
    last = share * result.cell.schedule.num_updates
    return max(1, sum(update < last for update in result.record["updates"]))


def _compare(
    of_seeds: Floats, shares: Floats, accuracy: Resampled, clear: NDArray[np.bool_]
) -> dict[str, Estimate]:  # fmt: skip
    """Return what a score [seeds, M] says, over all seeds and (`single run`) to each seed alone."""
    found = compare_orders(resample(of_seeds, shares), accuracy, clear)
    alone = resample(choose_largest(of_seeds), shares)
    regret = Estimate(float(find_regret(alone.mean, accuracy.mean)), find_regret(alone.draws, accuracy.draws))
    return found | {"single run": regret}


def _follow_rules(correlation: Resampled, accuracy: Resampled) -> dict[str, Estimate]:
    every = np.eye(len(LENS_ARMS))

    def follow_sign(values: Floats) -> Floats:
        return np.where(np.asarray(values)[..., None] < 0, every[GRPO], every[TOKEN_MEAN])

    fixed = {"dapo": every[TOKEN_MEAN], "grpo": every[GRPO], "random": every.mean(0)}
    choices = {name: (choice, choice) for name, choice in fixed.items()}
    choices["correlation"] = (follow_sign(correlation.mean), follow_sign(correlation.draws))
    return {
        name: Estimate(float(find_regret(mean, accuracy.mean)), find_regret(draws, accuracy.draws))
        for name, (mean, draws) in choices.items()
    }


def _read_sentence(gain: Floats, arms: Sequence[str]) -> int | None:
    """Return which of `arms` the sentence after a run names as better, from gains [looks, M] of that run."""
    gains = {arm: gain[:, LENS_ARMS.index(arm)].tolist() for arm in arms if arm != LENS_ARMS[TOKEN_MEAN]}
    match = NAMED.match(judge_gains({"own": gain[:, TOKEN_MEAN].tolist(), **gains}))
    return LENS_ARMS.index(match[1]) if match else None


def _describe(regime: Regime) -> dict[str, Any]:
    """Return one regime as JSON values; gains and steps are ratios to the token mean's."""
    ratio = regime.gain.draws / regime.gain.draws[:, [TOKEN_MEAN]]
    of_mean = regime.gain.mean / regime.gain.mean[TOKEN_MEAN]
    return {
        "accuracy": {arm: round(float(value), 5) for arm, value in zip(LENS_ARMS, regime.accuracy.mean, strict=True)},
        "gain": {arm: Estimate(float(of_mean[n]), ratio[:, n]).as_json() for n, arm in enumerate(LENS_ARMS)},
        "step": {arm: round(float(regime.step[n] / regime.step[TOKEN_MEAN]), 5) for n, arm in enumerate(LENS_ARMS)},
        "best": LENS_ARMS[int(regime.accuracy.mean.argmax())],
        "clear_pairs": int(regime.clear.sum()), "pairs": len(regime.clear),
        "correlation": regime.correlation.as_json(),
        "scores": {
            score: {
                window: {"choice": LENS_ARMS[regime.choices[score][window]]}
                | {name: each.as_json() for name, each in found.items()}
                for window, found in windows.items()
            }
            for score, windows in regime.tables.items()
        },
        "rules": {name: each.as_json() for name, each in regime.rules.items()},
        "sentence": {name: _judge_sentences([regime], name) for name in regime.named},
    }  # fmt: skip


def _judge_sentences(regimes: Sequence[Regime], compared: str) -> dict[str, Any]:
    """Return how often the sentence names a method, and what that method's full runs gain over the token mean's."""
    found = [(regime.accuracy.mean, name) for regime in regimes for name in regime.named[compared] if name is not None]
    gained = [float(accuracy[name] - accuracy[TOKEN_MEAN]) for accuracy, name in found]
    names = Counter(LENS_ARMS[name] for _, name in found)
    return {
        "runs": sum(len(regime.named[compared]) for regime in regimes), "naming": len(gained),
        "better": sum(each > 0 for each in gained), "names": dict(names.most_common()),
        "points": round(float(np.mean(gained)), 5) if gained else None,
    }  # fmt: skip


def _put_together(regimes: Sequence[Regime]) -> dict[str, Any]:
    """Return means over regimes; pairs are pooled."""
    num_clear = sum(int(regime.clear.sum()) for regime in regimes)

    def average_table(score: str, window: str) -> dict[str, list[float]]:
        tables = [regime.tables[score][window] for regime in regimes]
        found = {name: average([table[name] for table in tables]) for name in tables[0]}
        right = found.pop("right")
        share = Estimate(right.value * len(regimes) / max(num_clear, 1), right.draws * len(regimes) / max(num_clear, 1))
        return {name: each.as_json() for name, each in found.items()} | {"right_share": share.as_json()}

    declared = average([regime.tables[DECLARED_SCORE][DECLARED_WINDOW]["regret"] for regime in regimes])
    rules = {rule: average([regime.rules[rule] for regime in regimes]) for rule in RULES}
    return {
        "clear_pairs": num_clear,
        "scores": {score: {window: average_table(score, window) for window in LENS_WINDOWS} for score in LENS_SCORES},
        "rules": {rule: each.as_json() for rule, each in rules.items()},
        "rules_minus_lens": {
            rule: Estimate(each.value - declared.value, each.draws - declared.draws).as_json()
            for rule, each in rules.items()
        },
        "sentence": {name: _judge_sentences(regimes, name) for name in regimes[0].named},
    }  # fmt: skip
