"""Who answered: which weights, and the name of the method that trained them."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.distributed.tensor import DTensor

WITHOUT_LAMBDA = {"uniform": "dapo", "grpo": "grpo", "dr_grpo": "dr_grpo", "delta_l": "delta_l"}
"""Families of length weights that learn nothing, and what tables call them."""


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


def method_name(family: str, learn: str, contextual: bool) -> str:
    """Return what tables call a method: `grpo`, `dapo`, `dr_grpo`, `lambda`, or its family and how λ differs.

    Arguments are those of the preference. Runs of one name that differ in their seed are averaged by `compare`.
    """
    if family in WITHOUT_LAMBDA:
        return WITHOUT_LAMBDA[family]
    name = "lambda" if family == "power_softmax" else family
    rule = "" if learn == "surrogate" else f"_{learn}"
    return name + "_contextual" * contextual + rule
