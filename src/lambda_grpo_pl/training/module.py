"""λ-GRPO as a LightningModule: the policy, the frozen reference and λ. It handles tensors with gradients, not text.

One `training_step` learns from one rollout: advantages → log-probabilities that must be fixed beforehand (old only if
there are several updates, reference only if β > 0) → for each update the token count, f, the accumulated gradient, a
step of the policy, a step of λ → scalar statistics. Completions and rewards come with the batch, see `callbacks`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from typing_extensions import override

from lambda_grpo_pl.batch import Groups, RolloutBatch
from lambda_grpo_pl.objective import LengthPreference, LensConfig, PreferenceConfig
from lambda_grpo_pl.policy import Policy, PolicyConfig, Reference, check_checkpoint, load_policy, load_reference
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig, UpdateConfig, check_precision, name_method
from lambda_grpo_pl.training.offload import check_offload
from lambda_grpo_pl.training.optimization import ascend, clip_gradient, make_optimizer, make_scheduler
from lambda_grpo_pl.training.placebo import LambdaPath
from lambda_grpo_pl.training.rehearsal import rehearse_update
from lambda_grpo_pl.training.sharding import gathered_dtype, prepare_strategy, shard_policies, sync_gradients
from lambda_grpo_pl.training.token_metrics import UpdateStatistics, summarize_updates
from lambda_grpo_pl.training.update import Passes, Rollout, accumulate_gradient, prepare_rollout
from lambda_grpo_pl.training.virtual_step import Validation, alignments, prepare_validation
from lambda_grpo_pl.training.weighting import weigh_groups


class LambdaGRPO(L.LightningModule):
    """Trains a policy on scored rollouts with one objective, J = Σ_i f_i S_i / Z_i.

    S_i = Σ_t s_{i,t} is response i's clipped surrogate (PPO's, DAPO's asymmetric clip included), Z the token count,
    and f the length preference: GRPO, DAPO, Dr. GRPO and λ-GRPO are values of f (`model.preference.family`), never
    branches in the loss. f depends on lengths alone, so λ's gradient dJ/dλ = Σ_i f_i' S_i / Z_i follows exactly from
    the S_i that the policy's passes return anyway. θ and λ ascend together, each with its own optimizer.
    """

    def __init__(
        self,
        policy: PolicyConfig,
        preference: PreferenceConfig = PreferenceConfig(),
        objective: ObjectiveConfig = ObjectiveConfig(),
        optimizer: OptimizerConfig = OptimizerConfig(),
        updates: UpdateConfig = UpdateConfig(),
        lens: LensConfig = LensConfig(),
        temperature: float = 1.0,
        max_response_tokens: int | None = None,
    ) -> None:
        """Keep the settings; the model is loaded in `configure_model`.

        Args:
            policy: The language model.
            preference: How responses weigh by length, and how λ learns.
            objective: Advantages, surrogate and token count.
            optimizer: The policy's optimizer.
            updates: Optimizer updates per rollout.
            lens: Other length preferences to compare on the same responses.
            temperature: Log-probabilities are taken at this temperature. Linked to rollout.sampling.temperature.
            max_response_tokens: L_max of Dr. GRPO. Linked to rollout.sampling.max_tokens.
        """
        super().__init__()
        self.automatic_optimization = False
        self.policy_config = policy
        self.objective = objective
        self.optimizer_config = optimizer
        self.updates = updates
        self.lens = lens
        self.temperature = temperature
        self.preference = LengthPreference(replace(preference, max_length=preference.max_length or max_response_tokens))
        # `_step_preference` reduces λ's gradient, so DDP must not; torch has no public way to say so.
        self._ddp_params_and_buffers_to_ignore = [f"preference.{name}" for name in self.preference.state_dict()]
        self._path: LambdaPath | None = None
        self.policy: Policy
        self._reference: list[Reference] = []  # in a list, so that it is not a submodule and never in a checkpoint

    @property
    def method_name(self) -> str:
        """What tables call the method that trains: `grpo`, `dapo`, `lambda`, `lambda_validation`, …"""
        return name_method(self.preference.method_name, self.objective)

    @override
    def setup(self, stage: str) -> None:
        """Refuse what cannot be trained before any weight is loaded."""
        check_precision(self.trainer.precision)
        prepare_strategy(self.trainer)
        check_offload(self.policy_config.sharding, self.trainer.strategy)
        check_checkpoint(self.policy_config.path, self.policy_config)
        if stage == "fit" and self.preference.config.placebo is not None:
            self._path = LambdaPath(self.preference.config.placebo)
            self._path.check(self.trainer.max_steps)

    @override
    def configure_model(self) -> None:
        """Load the policy (sharded under FSDP2) and, if the objective has a KL term, the reference."""
        config = self.policy_config
        if hasattr(self, "policy"):
            return
        dtype = torch.bfloat16 if "bf16" in self.trainer.precision else torch.float32
        reads = self.device_mesh is None or self.global_rank == 0  # FSDP2's other ranks receive their shards
        place = reads, self.trainer.strategy.root_device
        self.policy = load_policy(config.path, config, self.temperature, dtype, *place)
        if self.objective.surrogate.kl_coef > 0 and config.lora is None:
            path = config.reference_path or config.path
            self._reference = [load_reference(path, config, self.temperature, dtype, self.policy.layouts, *place)]
        elif self.objective.surrogate.kl_coef > 0:
            self._reference = [self.policy.without_adapters()]
        if self.device_mesh is not None:
            gathered = gathered_dtype(self.trainer, self.preference.config.learn)
            shard_policies(self.policy, self._reference, self.device_mesh, config.sharding, gathered)

    @override
    def configure_optimizers(self) -> Any:
        """AdamW for the policy; plain SGD for λ (no momentum, no weight decay), if it learns."""
        policy = make_optimizer(self.policy.parameters(), self.optimizer_config)
        scheduler = make_scheduler(policy, self.trainer.max_steps, self.optimizer_config)
        optimizers: list[dict[str, Any]] = [{"optimizer": policy, "lr_scheduler": scheduler}]
        if self.preference.config.has_gradient:
            sgd = torch.optim.SGD(self.preference.parameters(), lr=self.preference.config.lr)
            optimizers.append({"optimizer": sgd})
        return optimizers

    def _optimizers(self) -> tuple[Any, torch.optim.Optimizer | None]:
        """The policy's, whose steps `global_step` counts, and λ's without Lightning's wrapper, so that its do not."""
        counted, bare = self.optimizers(), self.optimizers(use_pl_optimizer=False)
        return (counted[0], bare[1]) if isinstance(counted, list) and isinstance(bare, list) else (counted, None)

    @override
    def on_fit_start(self) -> None:
        """Move the reference to the policy's device: Lightning does not know it."""
        for reference in self._reference:
            reference.to(self.device)

    @override
    def training_step(self, batch: RolloutBatch, batch_idx: int) -> dict[str, Any]:
        """Make all updates of a rollout; returns the last f as `weights` of `rows`, `metrics`, `Rollout.describe`."""
        self.updates.check(batch.num_prompts)
        passes, advantage = self._passes(), self.objective.advantage
        rollout = prepare_rollout(self.policy, self._reference, batch, advantage, passes, self.updates.per_rollout > 1)
        validation = None
        if batch.heldout is not None:
            validation = prepare_validation(self.policy, self._reference, rollout, batch.heldout, advantage, passes)
        size = batch.num_prompts // self.updates.num_minibatches
        output, statistics = dict[str, Any](rollout.describe()), list[UpdateStatistics]()
        for number in range(self.updates.per_rollout):
            start = (number % self.updates.num_minibatches) * size
            groups = Groups.of(batch, slice(start, start + size))
            weights, surrogates, update = self._update(rollout, groups, validation)
            if self.preference.config.learn != "validation":
                validation = None  # the lens looks at the first update alone
            output |= {"rows": groups.rows, "weights": weights}
            output["f"][groups.rows] = weights
            output["surrogates"][groups.rows] = surrogates[groups.rows]
            statistics.append(update)
        summary = summarize_updates(statistics, self.device, self._reduce)
        values = torch.stack([value.to(self.device, torch.float32) for value in summary.values()]).tolist()
        output["metrics"] = dict(zip(summary, values, strict=True))
        self.log_dict(output["metrics"])
        return output

    @override
    def validation_step(self, batch: RolloutBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return the scored batch to the evaluation. Raises `UserError` naming the callback that is missing."""
        return {"completions": batch.sampled(), "rewards": batch.scored()}

    test_step = validation_step

    @override
    def predict_step(self, batch: RolloutBatch, batch_idx: int, dataloader_idx: int = 0) -> RolloutBatch:
        """Return the sampled batch. Raises `UserError` naming the callback that is missing."""
        batch.sampled()
        return batch

    def rehearse(self, batch: RolloutBatch) -> None:
        """Pass a scored batch forward and backward as an update does, with no step, and leave nothing behind."""
        passes = self._passes()._replace(sync=lambda last: sync_gradients(self.trainer.strategy, last=False))
        rehearse_update(self.policy, self._reference, batch, self.objective, passes, self.updates.per_rollout > 1)

    def _update(
        self, rollout: Rollout, groups: Groups, validation: Validation | None
    ) -> tuple[Tensor, Tensor, UpdateStatistics]:
        """One step of the policy and one of λ on a mini-batch; returns f [B, G], S [N] and what to log."""
        if self._path is not None:
            self.preference.set_(self._path.at(self.trainer.global_step + 1))
        scope, surrogate, passes = self.objective.token_count, self.objective.surrogate, self._passes()
        weighting = weigh_groups(self.preference, groups, rollout.advantages, scope, self._sum)
        weights = torch.zeros_like(rollout.advantages)
        weights[groups.rows] = weighting.weights.to(weights.dtype)
        teaches = weighting.advantages != 0  # no inactive row does
        needed = teaches if self.objective.skip_zero_advantage and not self._reference else groups.active
        rows = groups.rows[needed]
        aligned = None if validation is None else alignments(self.policy, validation, rows, surrogate, passes)
        gradient = accumulate_gradient(self.policy, rollout, rows, weights, surrogate, passes)
        weighted = weighting.statistics(self.preference)
        step = weighting.look(self.lens, aligned) | self._step_policy()
        step["policy/loss"] = -self._sum((weights * gradient.surrogates).sum())
        gains = {"surrogate": gradient.surrogates, "validation": aligned}.get(self.preference.config.learn)
        if gains is not None:
            step |= self._step_preference(weighting.objective(self.preference, gains))
        return weighting.f, gradient.surrogates, UpdateStatistics(gradient.totals, weighted, step)

    def _step_policy(self) -> dict[str, Tensor]:
        """Clip the accumulated gradient and step the policy; `global_step` counts exactly these steps."""
        optimizer, _ = self._optimizers()
        norm = clip_gradient(self.policy.parameters(), self.optimizer_config.max_grad_norm)
        rate = torch.tensor(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        cast(Any, self.lr_schedulers()).step()
        return {"policy/gradient_norm": norm, "policy/learning_rate": rate}

    def _step_preference(self, objective: Tensor) -> dict[str, Tensor]:
        """One step of λ up its objective Σ_i f_i(λ) S_i / Z_i, whose parts on the ranks add up."""
        _, optimizer = self._optimizers()
        assert optimizer is not None
        parameters = list(self.preference.parameters())
        slopes = [self._sum(slope) for slope in torch.autograd.grad(objective, parameters)]
        ascend(parameters, slopes)
        optimizer.step()
        if self.preference.clamp_():
            rank_zero_warn(
                f"λ has reached its bound of {self.preference.config.bound}; f cannot become more uneven. Lower "
                "model.preference.lr, raise model.preference.bound, or set model.preference.min_ess."
            )
        return {"preference/slope": slopes[0]}

    @property
    def token_budget(self) -> int:
        """Tokens per micro-batch; depends on the device if the configuration does not set it."""
        return self.policy_config.tokens_per_micro_batch or (2048 if self.device.type == "cpu" else 16384)

    def _passes(self) -> Passes:
        return Passes(
            budget=self.token_budget,
            agree=lambda number: int(self._reduce(torch.tensor(number, device=self.device), "max")),
            backward=self.manual_backward,
            sync=lambda last: sync_gradients(self.trainer.strategy, last),
            total=self._sum,
            world_size=self.trainer.world_size,
        )

    def _reduce(self, values: Tensor, how: str) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op=how))

    def _sum(self, values: Tensor) -> Tensor:
        return self._reduce(values, "sum")
