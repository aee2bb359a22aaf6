"""Run by torchrun-like launches of the tests: fit on fixed scored batches, save what came out on the first rank.

python -m tests.distributed.train_scored FOLDER OUT STRATEGY DEVICES PREFERENCE
"""

from __future__ import annotations

import sys

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.tensor import DTensor

from lambda_grpo_pl.objective import CorrelationConfig, PreferenceConfig, SurrogateConfig
from lambda_grpo_pl.policy import PolicyConfig, ShardingSettings
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig
from lambda_grpo_pl.training.module import LambdaGRPO
from tests.scored import ScoredData

UPDATES = 10
SHARDING = {"offload": ShardingSettings(cpu_offload=True), "hybrid": ShardingSettings(replicas=2)}
"""What differs from plain FSDP2."""


PREFERENCES = {
    "batch_power": PreferenceConfig(family="batch_power", lr=10.0, contextual=True),
    "lambda_kl": PreferenceConfig(lr=10.0, contextual=True),
    "correlation": PreferenceConfig(
        family="batch_power", learn="correlation", correlation=CorrelationConfig(gain=0.7, high=1.0)
    ),
}
"""Names for the command line; `lambda_kl` has a KL term."""


NAMES = (
    "policy/loss",
    "preference/lambda",
    "preference/slope",
    "policy/gradient_norm",
    "lens/grpo/prefix_bias",
    "lens/power_0.5/sign_balance",
    "lens/balanced/prefix_bias",
)


def make_strategy(name: str, num_ranks: int) -> Strategy | str:
    if name in ("auto", "ddp"):
        return DDPStrategy(process_group_backend="gloo") if name == "ddp" else name
    return ModelParallelStrategy(data_parallel_size=num_ranks, tensor_parallel_size=1, process_group_backend="gloo")


class History(L.Callback):
    """Keeps the policy's whole gradient of every update, and `NAMES` after it."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.series: dict[str, list[float]] = {}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        gradients = [whole(value.grad).flatten() for value in pl_module.policy.parameters() if value.grad is not None]
        self.gradients.append(torch.cat(gradients))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        for name in NAMES:
            if name in trainer.callback_metrics:
                self.series.setdefault(name, []).append(float(trainer.callback_metrics[name]))


def whole(value: torch.Tensor) -> torch.Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()


def main(folder: str, out: str, strategy: str, devices: str, preference: str) -> None:
    torch.set_num_threads(1)
    sharding = SHARDING.get(strategy, ShardingSettings())
    policy = PolicyConfig(path=folder, tokens_per_micro_batch=60, sharding=sharding)
    objective = ObjectiveConfig(surrogate=SurrogateConfig(kl_coef=0.2 if preference == "lambda_kl" else 0.0))
    module = LambdaGRPO(policy, PREFERENCES[preference], objective, OptimizerConfig(lr=1e-3))
    history = History()
    trainer = L.Trainer(
        max_steps=UPDATES,
        accelerator="cpu",
        devices=int(devices),
        strategy=make_strategy(strategy, int(devices)),
        logger=False,
        callbacks=[history],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=ScoredData(UPDATES))
    sharded = isinstance(trainer.strategy, ModelParallelStrategy)
    for model in (module.policy, *module._reference):
        assert all(isinstance(parameter, DTensor) is sharded for parameter in model.parameters())
    state = {name: whole(value) for name, value in module.named_parameters()}
    lams = trainer.strategy.all_gather(module.preference.lam.detach())
    assert bool((lams == lams.flatten()[0]).all()), "λ differs between ranks"
    if trainer.is_global_zero:
        torch.save({"state": state, "series": history.series, "gradients": history.gradients}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
