"""The objective J = Σ_i f_i S_i / Z_i in pure torch: advantages, surrogate, length preference, count, loss.

It takes tensors and does not depend on this package's batches, so it can be used without the rest:

    count = count_tokens(lengths)                                            # Z and ℓ̄, once per optimizer step
    f = preference(lengths, count.mean_length)                               # [B, G]
    weights = (f / count.denominator).flatten()                              # [N]
    out = policy_loss(logprobs, mask, advantages.flatten(), weights, surrogate_config)
    out.loss.backward()                                                      # the policy
    (-preference_objective(preference, out.surrogates.view_as(f), lengths, count)).backward()  # λ
"""

from lambda_grpo_pl.objective.advantages import AdvantageConfig, compute_advantages, reward_moments
from lambda_grpo_pl.objective.context import FEATURES, context_features
from lambda_grpo_pl.objective.correlation import (
    CorrelationConfig,
    LengthCorrelation,
    correlation_sums,
    lambda_from_correlation,
    pooled_correlation,
)
from lambda_grpo_pl.objective.diagnostics import preference_statistics
from lambda_grpo_pl.objective.families import FAMILIES, Family, FamilyConfig
from lambda_grpo_pl.objective.group_lengths import GroupLengths
from lambda_grpo_pl.objective.lens import LensConfig, lens_sums, lens_values, lens_weights
from lambda_grpo_pl.objective.loss import LossOutput, TokenLogprobs, TokenTerms, policy_loss, token_terms
from lambda_grpo_pl.objective.preference import (
    LengthPreference,
    effective_sample_size,
    preference_objective,
)
from lambda_grpo_pl.objective.preference_config import LEARNABLE, PreferenceConfig
from lambda_grpo_pl.objective.surrogate import (
    ClipFlags,
    SurrogateConfig,
    TokenSurrogate,
    clipped_surrogate,
    importance_weights,
    kl_penalty,
    sequence_log_ratio,
    token_surrogate,
)
from lambda_grpo_pl.objective.token_count import TokenCount, count_tokens

__all__ = [
    "FAMILIES",
    "FEATURES",
    "LEARNABLE",
    "AdvantageConfig",
    "ClipFlags",
    "CorrelationConfig",
    "Family",
    "FamilyConfig",
    "GroupLengths",
    "LengthCorrelation",
    "LengthPreference",
    "LensConfig",
    "LossOutput",
    "PreferenceConfig",
    "SurrogateConfig",
    "TokenCount",
    "TokenLogprobs",
    "TokenSurrogate",
    "TokenTerms",
    "clipped_surrogate",
    "compute_advantages",
    "context_features",
    "correlation_sums",
    "count_tokens",
    "effective_sample_size",
    "importance_weights",
    "kl_penalty",
    "lambda_from_correlation",
    "lens_sums",
    "lens_values",
    "lens_weights",
    "policy_loss",
    "pooled_correlation",
    "preference_objective",
    "preference_statistics",
    "reward_moments",
    "sequence_log_ratio",
    "token_surrogate",
    "token_terms",
]
