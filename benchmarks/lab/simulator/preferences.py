"""The package's length preference for many runs at once: `torch.vmap` over its own functions, one λ per run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad, vmap

from benchmarks.lab.simulator.arms import Arm
from lambda_grpo_pl.objective import (
    LengthPreference,
    compute_advantages,
    context_features,
    correlation_sums,
    count_tokens,
    lambda_from_correlation,
    pooled_correlation,
    preference_objective,
)
from lambda_grpo_pl.objective.token_count import TokenCount

Floats = NDArray[np.float64]


class Preferences:
    """f of S runs and their λ. Every tensor is [S, B, G]; arrays go in and come out as numpy."""

    def __init__(self, arm: Arm, num_runs: int, limit: int) -> None:
        self.arm = arm
        config = replace(arm.preference, max_length=limit)
        self.module = LengthPreference(config)
        self.lam = torch.full((num_runs,), config.init, dtype=torch.float64)
        self.slope = torch.zeros(num_runs, dtype=torch.float64)
        """dJ/dλ at the last step of a learning rule."""
        self.sums = torch.zeros(2, num_runs, dtype=torch.float64)
        """The correlation's moving average: weighted sum and weight."""
        self.contextual = [LengthPreference(config) for _ in range(num_runs if config.contextual else 0)]
        self.features: Tensor | None = None

    def compute_advantages(self, rewards: Floats | NDArray[np.bool_]) -> Floats:
        """Return A [S, B, G] from rewards of that shape."""
        of_runs = torch.from_numpy(rewards.astype(np.float64))
        found: Tensor = vmap(lambda each: compute_advantages(each, self.arm.advantage))(of_runs)
        return found.numpy()

    def observe(self, lengths: NDArray[np.int64], advantages: Floats, rewards: NDArray[np.bool_]) -> None:
        """Take in a rollout before it is weighed: the correlation, and the features of a contextual λ."""
        if self.arm.rule == "correlation":
            config = self.arm.correlation
            found = pooled_correlation(correlation_sums(torch.from_numpy(lengths), torch.from_numpy(advantages)))
            says_something = ~found.isnan()
            update = config.memory * self.sums + torch.stack([found.nan_to_num(), torch.ones_like(found)])
            self.sums = torch.where(says_something, update, self.sums)
            self.lam = lambda_from_correlation(self.sums[0] / self.sums[1].clamp(min=1), config)
        if self.contextual:
            seen = (torch.from_numpy(rewards.astype(np.float64)), torch.from_numpy(lengths))
            self.features = vmap(lambda reward, length: context_features(reward, length, length[:, 0] * 0.0))(*seen)
            for module, features in zip(self.contextual, self.features, strict=True):
                module.update_moments(features)

    def weigh(self, lengths: NDArray[np.int64], advantages: Floats) -> Floats:
        """Return f/Z [S, B, G]: what each response's gradient is multiplied by, beside its advantage."""

        def weights(lam: Tensor, lengths: Tensor, advantages: Tensor) -> Tensor:
            count = self._count(lengths)
            arguments = (lengths, count.mean_length, None, None, advantages)
            f: Tensor = functional_call(self.module, {"lam": lam}, arguments)
            return f / count.denominator

        seen = torch.from_numpy(lengths)
        if self.contextual:
            assert self.features is not None
            rows = zip(self.contextual, seen, self.features, strict=True)
            return torch.stack([self._weigh_contextual(*row) for row in rows]).numpy()
        found: Tensor = vmap(weights)(self.lam, seen, torch.from_numpy(advantages))
        return found.numpy()

    def learn(self, lengths: NDArray[np.int64], surrogates: Floats) -> None:
        """Take one step of λ's own SGD up J, or up the held-out objective if `surrogates` are its inner products."""

        def objective(lam: Tensor, lengths: Tensor, surrogates: Tensor) -> Tensor:
            def preference(*arguments: Tensor | None) -> Tensor:
                found: Tensor = functional_call(self.module, {"lam": lam}, arguments)
                return found

            return preference_objective(preference, surrogates, lengths, self._count(lengths))  # type: ignore[arg-type]

        seen = torch.from_numpy(lengths), torch.from_numpy(surrogates)
        config = self.arm.preference
        if self.contextual:
            assert self.features is not None
            rows = zip(self.contextual, *seen, self.features, strict=True)
            self.slope = torch.stack([self._learn_contextual(*row) for row in rows])
            self.lam = torch.stack([module.lam.detach().double() for module in self.contextual])
            return
        self.slope = vmap(grad(objective))(self.lam, *seen)
        self.lam = (self.lam + config.lr * self.slope).clamp(-config.bound, config.bound)

    def _count(self, lengths: Tensor) -> TokenCount:
        return count_tokens(lengths, scope=self.arm.token_count)

    @torch.no_grad()
    def _weigh_contextual(self, module: LengthPreference, lengths: Tensor, features: Tensor) -> Tensor:
        count = self._count(lengths)
        found: Tensor = module(lengths, count.mean_length, None, features)
        return found / count.denominator

    def _learn_contextual(
        self, module: LengthPreference, lengths: Tensor, surrogates: Tensor, features: Tensor
    ) -> Tensor:
        module.zero_grad()
        count = self._count(lengths)
        (-preference_objective(module, surrogates, lengths, count, None, features)).backward()
        with torch.no_grad():
            for parameter in (module.lam, module.w):
                assert parameter.grad is not None
                parameter.sub_(module.config.lr * parameter.grad)
        module.clamp_()
        assert module.lam.grad is not None
        return -module.lam.grad.double()
