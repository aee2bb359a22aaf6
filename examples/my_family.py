"""Your own length preference. From this folder:

    lambda-grpo fit --config preset:lambda --import my_family --model.preference.family log_power

f ∝ (1 + ln ℓ)^λ: milder than ℓ^λ. λ learns as in λ-GRPO, because the family gives its derivative.
"""

from torch import Tensor

from lambda_grpo_pl.objective import FAMILIES, Family, FamilyConfig, GroupLengths


def weigh(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """Return f [B, G], whose mean over a group is 1."""
    return group.softmax(lam * _log_base(group))


def differentiate(group: GroupLengths, lam: Tensor, config: FamilyConfig) -> Tensor:
    """Return df/dλ [B, G] = f · (b − mean(f b)), b = ln(1 + ln ℓ)."""
    weights = weigh(group, lam, config)
    return weights * group.centre(_log_base(group), weights)


def _log_base(group: GroupLengths) -> Tensor:
    return (1 + group.positive.log()).log()


FAMILIES["log_power"] = Family("log_power", weigh, differentiate)
