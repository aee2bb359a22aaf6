"""The policy and its passes: loading, packing, log-probabilities in chunks. Knows tensors and batches, no objective."""

from lambda_grpo_pl.policy.config import LoraSettings, PolicyConfig, ShardingSettings
from lambda_grpo_pl.policy.head import TokenLoss, TokenScores
from lambda_grpo_pl.policy.loading import check_checkpoint, load_policy, load_reference
from lambda_grpo_pl.policy.model import Policy, Reference
from lambda_grpo_pl.policy.packing import Layout, MicroBatch, lay_out, plan_micro_batches

__all__ = [
    "Layout",
    "LoraSettings",
    "MicroBatch",
    "Policy",
    "PolicyConfig",
    "Reference",
    "ShardingSettings",
    "TokenLoss",
    "TokenScores",
    "check_checkpoint",
    "lay_out",
    "load_policy",
    "load_reference",
    "plan_micro_batches",
]
