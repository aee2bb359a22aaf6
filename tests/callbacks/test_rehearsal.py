"""The rehearsal passes the largest batch before the first step, changes nothing, and explains a lack of memory."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from lambda_grpo_pl.callbacks.rehearsal import Rehearsal, explain_memory, make_largest_batch
from lambda_grpo_pl.callbacks.reward import RewardCallback
from lambda_grpo_pl.callbacks.rollout import RolloutCallback
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.policy import Policy, PolicyConfig
from lambda_grpo_pl.sampling import SamplingSettings
from lambda_grpo_pl.training import module as module_file
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig, UpdateConfig
from lambda_grpo_pl.training.module import LambdaGRPO

ROWS = [{"question": "7" * length, "answer": "1"} for length in (3, 9, 5, 4)]


def reward(completion: str, example: Any) -> float:
    return float(len(completion) % 2)


class Seen(L.Callback):
    """Keeps the sizes of all passes, and every metric after each step."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []
        self.rng: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.metrics.append({k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("time/")})
        self.rng.append(torch.get_rng_state())


def fit(folder: Path, enabled: bool, num_epochs: int = 1) -> tuple[LambdaGRPO, L.Trainer, Seen]:
    module = LambdaGRPO(
        PolicyConfig(path=str(folder), tokens_per_micro_batch=64, gradient_checkpointing=True),
        objective=ObjectiveConfig(skip_zero_advantage=False),
        optimizer=OptimizerConfig(lr=1e-3),
        updates=UpdateConfig(num_epochs=num_epochs),
    )
    rollout = RolloutCallback("transformers", SamplingSettings(num_samples=4, max_tokens=12))
    seen = Seen()
    trainer = L.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        callbacks=[rollout, RewardCallback([reward]), Rehearsal(enabled), seen],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    L.seed_everything(3, verbose=False)
    trainer.fit(module, datamodule=PromptDataModule(str(folder), ROWS, [], batch_size=2))
    return module, trainer, seen


def test_a_rehearsed_run_is_the_same_run(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    rehearse = LambdaGRPO.rehearse
    monkeypatch.setattr(LambdaGRPO, "rehearse", lambda self, batch: (batches.append(batch), rehearse(self, batch)))
    (plain, plain_trainer, expected), (module, trainer, seen) = fit(policy, False), fit(policy, True)
    (batch,) = batches
    assert batch.prompts.lengths.tolist() == [25, 25]  # 9 tokens of the longest question, 16 of the template
    assert set(batch.sampled().lengths.tolist()) == {12}
    for name, value in plain.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    rate = "train/tokens_per_second"
    assert [{**each, rate: 0} for each in seen.metrics] == [{**each, rate: 0} for each in expected.metrics]
    assert all(map(torch.equal, seen.rng, expected.rng))
    states = [each.optimizers[0].state_dict()["state"] for each in (plain_trainer, trainer)]
    for first, second in zip(states[0].values(), states[1].values(), strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("num_epochs", "needs_old"), [(1, False), (2, True)])
def test_the_rehearsal_makes_the_passes_of_an_update_and_exchanges_no_gradient(
    policy: Path, monkeypatch: pytest.MonkeyPatch, num_epochs: int, needs_old: bool
) -> None:
    seen: list[bool] = []
    exchanged: list[bool] = []

    def rehearse_update(policy: Any, references: Any, batch: Any, objective: Any, passes: Any, needs_old: bool) -> None:
        seen.append(needs_old)
        with monkeypatch.context() as patch:
            patch.setattr(module_file, "sync_gradients", lambda strategy, last: exchanged.append(last))
            passes.sync(True)

    monkeypatch.setattr(module_file, "rehearse_update", rehearse_update)
    fit(policy, True, num_epochs)
    assert (seen, exchanged) == ([needs_old], [False])


def test_running_out_of_memory_says_what_to_change(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Policy, *_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")

    monkeypatch.setattr(LambdaGRPO, "rehearse", lambda self, batch: forward(self.policy))
    with pytest.raises(UserError, match=r"responses of 12 tokens: lower model.policy.tokens_per_micro_batch"):
        fit(policy, True)


def test_other_errors_keep_their_type() -> None:
    with pytest.raises(RuntimeError, match=r"^something else$"), explain_memory("training", "change it"):
        raise RuntimeError("something else")
    with pytest.raises(UserError, match="change it"), explain_memory("training", "change it"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


def test_no_more_prompts_pass_than_fill_two_micro_batches() -> None:
    class Engine:
        sampling = SamplingSettings(num_samples=4, max_tokens=10)
        run = type("Run", (), {"tokenizer": range(50)})

    batch = make_largest_batch(Engine, 100, longest=6, token_budget=70)  # type: ignore[arg-type]
    assert batch.num_prompts == 4  # 2 × 70 tokens / (4 × 10), rounded up
    assert make_largest_batch(Engine, 1, longest=6, token_budget=70).num_prompts == 1  # type: ignore[arg-type]
