"""λ-GRPO as a LightningModule: the policy, the frozen reference and λ. What has a gradient lives here, text does not.

One `training_step` serves one rollout: advantages → log-probabilities that must be fixed beforehand (old only if
there are several updates, reference only if β > 0) → for each update the token count, f, the accumulated gradient, a
step of the policy, a step of λ → scalar statistics. Completions and rewards come in the batch, see `callbacks`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lambda_grpo_pl.batch import Groups, RolloutBatch
from lambda_grpo_pl.objective import (
    LengthPreference,
    PreferenceConfig,
    compute_advantages,
    context_features,
    count_tokens,
    preference_objective,
    preference_statistics,
    reward_moments,
)
from lambda_grpo_pl.policy import Policy, PolicyConfig, Reference, check_checkpoint, load_policy, load_reference
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig, UpdateConfig, check_precision
from lambda_grpo_pl.training.optimization import clip_gradient, make_optimizer, make_scheduler
from lambda_grpo_pl.training.sharding import shard_policy, sync_gradients
from lambda_grpo_pl.training.token_metrics import mean_over_ranks, summarise_tokens
from lambda_grpo_pl.training.update import Passes, Rollout, accumulate_gradient, score_rows
from lambda_grpo_pl.training.virtual_step import alignments


class LambdaGRPO(L.LightningModule):
    """Trains a policy on scored rollouts with one objective, J = Σ_i f_i S_i / Z_i.

    S_i = Σ_t s_{i,t} is response i's clipped surrogate (PPO's, DAPO's asymmetric clip included), Z the token count,
    and f the length preference: GRPO, DAPO, Dr. GRPO and λ-GRPO are values of f (`preference.family`), never branches
    in the loss. f depends on lengths alone, so λ's gradient dJ/dλ = Σ_i f_i' S_i / Z_i is exact from the S_i that the
    policy's passes return anyway; λ takes part in no policy pass and costs nothing. θ and λ ascend together, each
    with its own optimizer.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        preference: PreferenceConfig = PreferenceConfig(),
        objective: ObjectiveConfig = ObjectiveConfig(),
        optimizer: OptimizerConfig = OptimizerConfig(),
        updates: UpdateConfig = UpdateConfig(),
        temperature: float = 1.0,
        max_response_tokens: int = 1024,
    ) -> None:
        """Keep the settings; the model is loaded in `configure_model`.

        Args:
            policy: The language model.
            preference: How responses weigh by length, and how λ learns.
            objective: Advantages, surrogate and token count.
            optimizer: The policy's optimizer.
            updates: Optimizer updates a rollout.
            temperature: Log-probabilities are taken at it. Linked to rollout.sampling.temperature.
            max_response_tokens: L_max of Dr. GRPO. Linked to rollout.sampling.max_tokens.
        """
        super().__init__()
        self.automatic_optimization = False
        self.policy_config = policy
        self.objective = objective
        self.optimizer_config = optimizer
        self.updates = updates
        self.temperature = temperature
        self.preference = LengthPreference(replace(preference, max_length=preference.max_length or max_response_tokens))
        # λ's gradient is exact and reduced by `_step_preference`; DDP must neither expect nor average it.
        self._ddp_params_and_buffers_to_ignore = [f"preference.{name}" for name in self.preference.state_dict()]
        self.policy: Policy
        self._reference: list[Reference] = []  # in a list: outside the module registry, so never in a checkpoint

    def setup(self, stage: str) -> None:
        """Refuse what cannot be trained before any weight is loaded."""
        check_precision(self.trainer.precision)
        check_checkpoint(self.policy_config.path, self.policy_config)

    def configure_model(self) -> None:
        """Load the policy (sharded under FSDP2) and, if the objective has a KL term, the reference."""
        if hasattr(self, "policy"):
            return
        config = self.policy_config
        dtype = torch.bfloat16 if "bf16" in self.trainer.precision else torch.float32
        self.policy = load_policy(config.path, config, self.temperature, dtype)
        if self.objective.surrogate.kl_coef > 0 and config.lora is None:
            path = config.reference_path or config.path
            self._reference = [load_reference(path, config, self.temperature, dtype, self.policy.layouts)]
        elif self.objective.surrogate.kl_coef > 0:
            self._reference = [self.policy.without_adapters()]
        if self.device_mesh is not None:
            shard_policy(self.policy, self.device_mesh, torch.bfloat16 if "bf16" in self.trainer.precision else None)

    def configure_optimizers(self) -> Any:
        """AdamW for the policy; plain SGD for λ (no momentum, no weight decay), if it learns."""
        policy = make_optimizer(self.policy.parameters(), self.optimizer_config)
        scheduler = make_scheduler(policy, self.trainer.max_steps, self.optimizer_config)
        optimizers: list[dict[str, Any]] = [{"optimizer": policy, "lr_scheduler": scheduler}]
        if self.preference.config.learn != "fixed":
            optimizers.append(
                {"optimizer": torch.optim.SGD(self.preference.parameters(), lr=self.preference.config.lr)}
            )
        return optimizers

    def on_fit_start(self) -> None:
        """Bring the reference to the policy's device: Lightning does not know it."""
        for reference in self._reference:
            reference.to(self.device)

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> dict[str, Tensor]:
        """Take the updates that one rollout serves; returns f as `weights` for the `rows` of the last update."""
        self.updates.check(batch.num_prompts)
        rollout = self._fix(batch, needs_old=self.updates.per_rollout > 1 or batch.heldout is not None)
        size = batch.num_prompts // self.updates.num_minibatches
        output: dict[str, Tensor] = {}
        for number in range(self.updates.per_rollout):
            start = (number % self.updates.num_minibatches) * size
            output = self._update(rollout, Groups.of(batch, slice(start, start + size)), batch.heldout)
        return output

    def validation_step(self, batch: RolloutBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Hand the scored batch to the evaluation, or say which callback is missing."""
        return {"completions": batch.sampled(), "rewards": batch.scored()}

    test_step = validation_step

    def predict_step(self, batch: RolloutBatch, batch_idx: int, dataloader_idx: int = 0) -> RolloutBatch:
        """Hand the sampled batch to whoever writes it down, or say which callback is missing."""
        batch.sampled()
        return batch

    def _fix(self, batch: RolloutBatch, needs_old: bool) -> Rollout:
        """Everything about a rollout that must not change while it is learned from."""
        completions = batch.sampled()
        groups = Groups.of(batch)
        moments = self._sum(reward_moments(groups.rewards, groups.active))
        advantages = compute_advantages(groups.rewards, self.objective.advantage, groups.active, moments)
        layout = self.policy.layout_for(batch.prompts.lengths.cpu(), completions.lengths.cpu())
        rollout = Rollout(batch.prompts, completions, advantages.flatten().float(), None, None, layout)
        scorers = [self.policy] * needs_old + self._reference
        if not scorers:
            return rollout
        scores = score_rows(scorers, rollout, groups.rows[groups.active], self._passes())
        return rollout._replace(old=scores[0] if needs_old else None, reference=scores[-1] if self._reference else None)

    def _update(self, rollout: Rollout, groups: Groups, heldout: RolloutBatch | None) -> dict[str, Tensor]:
        """One step of the policy and one of λ on a mini-batch."""
        count = count_tokens(groups.lengths, groups.active, self.objective.token_count, self._sum)
        features = context_features(groups.rewards, groups.lengths, groups.prompt_lengths, groups.active)
        self.preference.update_moments(features, self._sum, groups.active)
        with torch.no_grad():
            f = self.preference(groups.lengths, count.mean_length, groups.active, features)
        weights = torch.zeros_like(rollout.advantages)
        weights[groups.rows] = (f / count.denominator).to(weights.dtype)
        advantages = rollout.advantages[groups.rows]
        needed = groups.active
        if self.objective.skip_zero_advantage and not self._reference:
            needed = needed & (advantages != 0)
        gains = None if heldout is None else self._alignments(rollout, groups.rows[needed], heldout)

        surrogate, passes = self.objective.surrogate, self._passes()
        gradient = accumulate_gradient(self.policy, rollout, groups.rows[needed], weights, surrogate, passes)
        statistics = summarise_tokens(gradient.totals, self.device, self._reduce)
        weighted = preference_statistics(
            self.preference, f, groups.lengths, advantages, groups.correct, count, groups.active, features
        )
        statistics |= mean_over_ranks(weighted, "preference", self._reduce)
        statistics |= self._step_policy()
        if self.preference.config.learn == "surrogate":
            gains = gradient.surrogates
        if gains is not None:
            objective = preference_objective(
                self.preference, gains[groups.rows], groups.lengths, count, groups.active, features
            )
            statistics |= self._step_preference(objective)
        statistics["train/model_tokens"] = torch.tensor(gradient.num_tokens)
        values = torch.stack([value.to(self.device, torch.float32) for value in statistics.values()]).tolist()
        self.log_dict(dict(zip(statistics, values, strict=True)))
        return {"rows": groups.rows, "weights": f}

    def _step_policy(self) -> dict[str, Tensor]:
        """Clip the accumulated gradient and step the policy; `global_step` counts exactly these steps."""
        optimizers = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        norm = clip_gradient(self.policy.parameters(), self.optimizer_config.max_grad_norm)
        rate = torch.tensor(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        cast(Any, self.lr_schedulers()).step()
        return {"policy/gradient_norm": norm, "policy/learning_rate": rate}

    def _step_preference(self, objective: Tensor) -> dict[str, Tensor]:
        """One step of λ up its objective Σ_i f_i(λ) S_i / Z_i, whose parts on the ranks add up.

        λ's SGD is stepped beneath Lightning's wrapper, so that `global_step` counts policy updates only.
        """
        parameters = list(self.preference.parameters())
        for parameter, slope in zip(parameters, torch.autograd.grad(objective, parameters), strict=True):
            parameter.grad = -self._sum(slope)
        slope = -cast(Tensor, self.preference.lam.grad)
        cast(Any, self.optimizers())[1].optimizer.step()
        if self.preference.clamp_():
            rank_zero_warn(
                f"λ stands at its bound {self.preference.config.bound}: f is as uneven as it may get. Lower "
                "preference.lr, raise preference.bound, or set preference.min_ess."
            )
        return {"preference/slope": slope}

    def _alignments(self, rollout: Rollout, rows: Tensor, batch: RolloutBatch) -> Tensor:
        """⟨∇J_val, ∇S_i⟩ [N] for the `validation` rule; J_val weighs all held-out tokens alike."""
        heldout, groups = self._fix(batch, needs_old=False), Groups.of(batch)
        count = count_tokens(groups.lengths, groups.active, "global", self._sum)
        weights = groups.active.flatten() / count.denominator.float()
        surrogate, passes = self.objective.surrogate, self._passes()
        return alignments(self.policy, rollout, rows, heldout, groups.rows[groups.active], weights, surrogate, passes)

    @property
    def token_budget(self) -> int:
        """Tokens of a micro-batch, by device where the configuration leaves it open."""
        return self.policy_config.tokens_per_micro_batch or (2048 if self.device.type == "cpu" else 16384)

    def _passes(self) -> Passes:
        return Passes(
            budget=self.token_budget,
            agree=lambda number: int(self._reduce(torch.tensor(float(number), device=self.device), "max")),
            backward=self.manual_backward,
            sync=lambda last: sync_gradients(self.trainer.strategy, self.policy, last),
            world_size=self.trainer.world_size,
        )

    def _reduce(self, values: Tensor, how: str) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op=how))

    def _sum(self, values: Tensor) -> Tensor:
        return self._reduce(values, "sum")
