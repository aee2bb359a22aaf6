"""Who answered: which weights, and the name of the method that trained them."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from lambda_grpo_pl.objective import PreferenceConfig
from lambda_grpo_pl.objective.preference import LEARNABLE


def weights_digest(policy: nn.Module) -> str:
    """Return 16 hexadecimal digits that one optimizer step changes: of each tensor's norm to ten digits, in float64.

    Records of an interrupted evaluation are kept only if the same weights go on. Every rank calls it, since sharded
    weights are summed over ranks; rounding absorbs the order of that sum.
    """
    norms = []
    for weight in policy.parameters():
        norm = torch.linalg.vector_norm(weight.detach(), dtype=torch.float64)
        norms.append((norm.full_tensor() if isinstance(norm, DTensor) else norm).cpu())
    text = " ".join(f"{norm:.9e}" for norm in torch.stack(norms).tolist())
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def method_name(preference: PreferenceConfig) -> str:
    """Return what tables call a method: `grpo`, `dapo`, `dr_grpo`, `lambda`, or its family and how λ differs."""
    if preference.family not in LEARNABLE:
        return "dapo" if preference.family == "uniform" else preference.family
    name = "lambda" if preference.family == "power_softmax" else preference.family
    rule = "" if preference.learn == "surrogate" else f"_{preference.learn}"
    return name + "_contextual" * preference.contextual + rule
