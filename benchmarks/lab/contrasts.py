"""The comparisons that the lab makes, written down before the runs. Nothing outside this list is called a finding.

Within a regime all contrasts of an experiment are adjusted together (Holm).
"""

from __future__ import annotations

from typing import NamedTuple


class Contrast(NamedTuple):
    """One comparison: is `arm` better or worse than `baseline`, or equal to it?"""

    arm: str
    baseline: str
    why: str
    """The question, in words."""


MARGIN = 0.01
"""Two methods are equivalent if their accuracies differ by less than one point (TOST)."""
ALPHA = 0.05

SIMULATE: tuple[Contrast, ...] = (
    Contrast("grpo", "dapo", "Do short or long responses deserve the weight?"),
    Contrast("dr_grpo", "dapo", "Does Dr. GRPO differ from the token mean once both are tuned?"),
    Contrast("balanced", "grpo", "Does balancing the signs add to GRPO?"),
    Contrast("delta_l_1", "grpo", "Does ΔL differ from GRPO?"),
    Contrast("lambda", "dapo", "Does the paper's λ, at its rate of 0.1, leave DAPO?"),
    Contrast("lambda", "grpo", "Is the paper's λ better than GRPO?"),
    Contrast("lambda_lr10", "dapo", "Does a faster λ help?"),
    Contrast("relative_power", "dapo", "Does the surrogate rule help on relative power?"),
    Contrast("validation", "dapo", "Does held-out data teach λ something?"),
    Contrast("correlation", "dapo", "Is the correlation rule better than DAPO?"),
    Contrast("correlation", "grpo", "Is the correlation rule better than GRPO?"),
    Contrast("correlation", "dr_grpo", "Is the correlation rule better than Dr. GRPO?"),
    Contrast("correlation", "lambda", "Is the correlation rule better than the paper's?"),
    Contrast("balanced_correlation", "dapo", "Is the balanced correlation rule better than DAPO?"),
    Contrast("balanced_correlation", "grpo", "Is it better than GRPO?"),
    Contrast("balanced_correlation", "dr_grpo", "Is it better than Dr. GRPO?"),
    Contrast("balanced_correlation", "balanced", "Is it better than Balanced Aggregation?"),
    Contrast("balanced_correlation", "correlation", "Do the signs add to the correlation rule?"),
    Contrast("placebo", "correlation", "Does λ's path hold anything about its own run?"),
    Contrast("dapo_again", "dapo", "Tuning noise: the same method, tuned on other seeds."),
)
"""Accuracy after equally many updates; the same list again at equal sampled tokens."""

CONFIRM: tuple[Contrast, ...] = (
    *(
        Contrast(arm, baseline, why)
        for arm in ("balanced_correlation_075", "balanced_correlation")
        for baseline, why in (
            ("dapo", "Is the balanced rule better than DAPO on seeds that nobody has looked at?"),
            ("grpo", "Than GRPO?"),
            ("dr_grpo", "Than Dr. GRPO?"),
            ("delta_l_075", "Than a fixed exponent of the same size?"),
        )
    ),
    Contrast("balanced_correlation_075", "balanced_correlation", "Does a smaller bound, −0.75, add to it?"),
    Contrast("dr_grpo_std", "dapo", "What does a constant in place of Z do, all else being the token mean?"),
    Contrast("dr_grpo", "dr_grpo_std", "What do advantages without the std do?"),
)
"""On fresh seeds. The bound of −0.75 and the constant were thought of after the seeds of `SIMULATE` had been seen, and
tried on seeds from 3,000,000 on."""
CONFIRM_ARMS: tuple[str, ...] = (
    "dapo", "grpo", "dr_grpo", "balanced_correlation", "balanced_correlation_075", "delta_l_075", "dr_grpo_std",
)  # fmt: skip
CONFIRM_FIRST_SEED = 10_000

MODEL_ARMS: tuple[str, ...] = ("dapo", "grpo", "dr_grpo", "lambda", "correlation", "balanced_correlation")
"""What `model` trains in every regime."""
MODEL_OTHER_ARMS: tuple[str, ...] = (
    "prompt_mean", "delta_l", "balanced", "gspo", "luspo", "dapo_full", "power_-1.5", "power_-1", "power_-0.5",
    "power_+0.5", "linear", "relative_power", "lambda_contextual", "lambda_validation", "placebo",
)  # fmt: skip
"""What `model --others` adds. `power_X` has a fixed λ of X; together they are an oracle's grid."""

MODEL: tuple[Contrast, ...] = (
    Contrast("grpo", "dapo", "Above DAPO where wrong answers are long, below it where they are short?"),
    Contrast("lambda", "dapo", "Is the paper's rule at a rate of 0.1 equal to DAPO?"),
    Contrast("correlation", "dapo", "Is the correlation rule ever below the better of the two?"),
    Contrast("correlation", "grpo", "Is the correlation rule ever below the better of the two?"),
    Contrast("balanced_correlation", "dapo", "Is the balanced correlation rule better than DAPO?"),
    Contrast("balanced_correlation", "grpo", "Is it better than GRPO?"),
    Contrast("balanced_correlation", "dr_grpo", "Is it better than Dr. GRPO?"),
)
"""The language model's contrasts, in every regime."""

MODEL_OTHERS: tuple[Contrast, ...] = (
    *(
        Contrast("balanced_correlation", other, "Is the balanced correlation rule better than it?")
        for other in MODEL_OTHER_ARMS
        if other != "placebo"
    ),
    Contrast("lambda_validation", "lambda", "Does held-out data teach λ something?"),
    Contrast("placebo", "correlation", "Does λ's path hold anything about its own run?"),
    Contrast("gspo", "grpo", "Does the ratio of a sequence differ from a token's, with one update per rollout?"),
)
"""The language model's other methods, adjusted together and apart from `MODEL`."""

REGIMES: tuple[str, ...] = (
    "stuck", "failfast", "hazard", "lost", "noise", "early", "cliff", "think", "mixture", "equal", "shuffled",
)  # fmt: skip

CORE: tuple[str, ...] = (
    "dapo", "grpo", "balanced_correlation", "correlation", "dr_grpo", "lambda", "balanced", "dapo_again", "delta_l_1",
    "lambda_lr10", "relative_power", "placebo", "validation",
)  # fmt: skip
"""The methods of the contrasts, in the order in which they run."""

EXTRA: tuple[str, ...] = (
    "signs_correlation", "power_-1.5", "power_-1", "power_-0.5", "power_+0.5", "prompt_mean", "delta_l_075",
    "lambda_lr1", "linear", "contextual",
)  # fmt: skip
"""Methods that are shown in the table, and fixed λ as an oracle; no contrast is declared for them."""

ADAM_REGIMES: tuple[str, ...] = ("stuck", "failfast", "noise", "lost")
ADAM_ARMS: tuple[str, ...] = ("dapo", "grpo", "balanced_correlation", "correlation", "lambda", "dr_grpo")
"""What is run again with Adam."""

LENS_REGIMES: tuple[str, ...] = tuple(regime for regime in REGIMES if regime not in ("equal", "shuffled"))
"""Where the lens is held against full runs. With equal lengths all weights are the same, and there is no order to find;
with shuffled lengths only two of the methods below have full runs."""
LENS_ARMS: tuple[str, ...] = (
    "dapo", "grpo", "balanced", "delta_l_1", "delta_l_075", "prompt_mean", "power_-1.5", "power_-1", "power_-0.5",
    "power_+0.5",
)  # fmt: skip
"""The fixed weights with full runs. Dr. GRPO has the token mean's weights up to a factor, so the lens cannot tell it
apart, and it is left out."""
LENS_FIRST_SEED = 20_000
"""The lens looks at other seeds than those of the full runs, so that it predicts runs that it has not seen."""
LENS_WINDOWS: dict[str, float] = {"first third": 1 / 3, "start": 0.0, "whole run": 1.0}
"""Which looks count: those up to this share of the training run. The first one is the declared comparison."""
LENS_SCORES: dict[str, str] = {
    "gain": "the package's `gain`, at equal total weight Σ w |A| ℓ",
    "per step": "exploration: the gain divided by the norm of the method's step",
    "per noise": "exploration: the gain divided by the norm of the step's noise",
    "per estimated step": "thought of after the others had been seen: the gain divided by √(Σ w² A² ℓ), the size of a "
    "sum of Σ ℓ independent tokens' gradients, which needs no pass through the model",
}
"""What ranks the methods. The first one is the declared comparison; the others ask why it is right or wrong."""
LENS_QUESTIONS: tuple[str, ...] = (
    "Spearman and Kendall rank correlation between the methods' mean gain over looks and seeds and their mean final "
    "accuracy (SGD, tuned), per regime and on average over regimes.",
    "Of the pairs of methods whose full runs differ (Holm over the regime's pairs), the share that the gain orders as "
    "they do; guessing gives a half. (Afterwards: GRPO and ℓ^−1 have the same weights up to a factor, and the pair "
    "counts half; it had been decided by rounding.)",
    "Whether the method with the largest gain is the best one, and the regret of taking it: the best method's accuracy "
    "minus its own. The same for always the token mean, always GRPO, a method at random, and the sign of corr(ℓ, A) "
    "(GRPO where it is negative, else the token mean).",
    "The same regret for a single run, which takes the method with the largest mean gain over its own looks.",
    "The sentence that the package prints after a run: how often it names a method that would have gained more than "
    "the token mean that trained, and how often and by how much that method's full runs are better.",
)
"""Written down before any gain was computed. Intervals resample the seeds of the lens and those of the full runs; the
regimes are fixed. The lens looks along the token mean's run at its tuned rate: at the first update and at the end of
each block."""
