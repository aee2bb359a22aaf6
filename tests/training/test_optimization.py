"""The optimizer's settings, its learning-rate schedule, and gradient clipping."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig, UpdateConfig
from lambda_grpo_pl.training.optimization import clip_gradient, learning_rate_factor, make_optimizer, make_scheduler


def test_warm_up_rises_linearly_and_ends_at_the_peak() -> None:
    config = OptimizerConfig(warmup_steps=4)
    assert [learning_rate_factor(step, 100, config) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5 * (1 + math.cos(math.pi / 2)))])
def test_decay_ends_at_zero(schedule: str, middle: float) -> None:
    config = OptimizerConfig(warmup_steps=10, schedule=schedule)
    assert learning_rate_factor(10, 110, config) == pytest.approx(1.0)
    assert learning_rate_factor(60, 110, config) == pytest.approx(middle)
    assert learning_rate_factor(110, 110, config) == pytest.approx(0.0, abs=1e-12)


def test_clipping_scales_the_gradient_and_reports_the_norm_before() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_gradient([parameter], 1.0).item() == pytest.approx(5.0)
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.8]), atol=1e-5, rtol=1e-5)


def test_frozen_parameters_have_no_state() -> None:
    frozen, free = torch.nn.Parameter(torch.zeros(2), requires_grad=False), torch.nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer([frozen, free], OptimizerConfig())
    assert optimizer.param_groups[0]["params"] == [free]


def test_states_that_need_torchao_name_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"model\.optimizer\.states is 8bit.*lambda-grpo-pl\[low-memory\]"):
        make_optimizer([torch.nn.Parameter(torch.zeros(2))], OptimizerConfig(states="8bit"))


def test_eight_bit_states_get_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW stands in for torchao's optimizer, which takes the same: importing torchao is slow."""
    monkeypatch.setitem(sys.modules, "torchao.optim", SimpleNamespace(AdamW8bit=torch.optim.AdamW))
    frozen, free = torch.nn.Parameter(torch.zeros(2), requires_grad=False), torch.nn.Parameter(torch.zeros(2))
    settings = {"lr": 0.5, "betas": (0.1, 0.2), "eps": 0.3, "weight_decay": 0.4}
    (group,) = make_optimizer([frozen, free], OptimizerConfig(states="8bit", **settings)).param_groups
    assert group["params"] == [free]
    assert {name: group[name] for name in settings} == settings
    assert not group["fused"]


@pytest.mark.slow
def test_eight_bit_states_follow_float32_states_and_the_schedule() -> None:
    """Compiles a kernel on first use, hence slow."""
    paths = []
    for states in ("float32", "8bit"):
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(64, 64))
        config = OptimizerConfig(lr=1e-2, states=states, warmup_steps=2)
        optimizer = make_optimizer([parameter], config)
        scheduler = make_scheduler(optimizer, 10, config)
        for _ in range(5):
            optimizer.zero_grad()
            parameter.square().sum().backward()
            optimizer.step()
            scheduler.step()
        paths.append(parameter.detach())
    torch.testing.assert_close(paths[0], paths[1], atol=5e-3, rtol=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, r"model\.optimizer\.lr is 0"),
        ({"max_grad_norm": 0.0}, r"model\.optimizer\.max_grad_norm is 0"),
        ({"warmup_steps": -1}, r"model\.optimizer\.warmup_steps is -1"),
        ({"states": "offload"}, r"model\.optimizer\.states is 'offload': choose float32 or 8bit.*gradient clipping"),
    ],
)
def test_refusals_say_what_to_change(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**settings)


@pytest.mark.parametrize("name", ["num_epochs", "num_minibatches"])
def test_updates_are_at_least_one(name: str) -> None:
    with pytest.raises(UserError, match=rf"model\.updates\.{name} is 0"):
        UpdateConfig(**{name: 0})


def test_defaults() -> None:
    """What the documentation and the recipes rely on."""
    optimizer, objective, updates = OptimizerConfig(), ObjectiveConfig(), UpdateConfig()
    assert (optimizer.lr, optimizer.betas, optimizer.eps, optimizer.weight_decay) == (1e-6, (0.9, 0.999), 1e-8, 0.0)
    assert (optimizer.warmup_steps, optimizer.schedule, optimizer.max_grad_norm) == (0, "constant", 1.0)
    assert (objective.token_count, objective.skip_zero_advantage) == ("global", True)
    assert (updates.num_epochs, updates.num_minibatches, updates.per_rollout) == (1, 1, 1)
    assert UpdateConfig(num_epochs=3, num_minibatches=4).per_rollout == 12


def test_the_optimizer_takes_its_settings() -> None:
    config = OptimizerConfig(lr=0.5, betas=(0.1, 0.2), eps=0.3, weight_decay=0.4)
    group = make_optimizer([torch.nn.Parameter(torch.zeros(2))], config).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (0.5, (0.1, 0.2), 0.3, 0.4)
    assert group["fused"], "one kernel for all parameters"


def test_the_schedule_reaches_the_optimizer() -> None:
    config = OptimizerConfig(lr=0.8, warmup_steps=2, schedule="linear")
    optimizer = make_optimizer([torch.nn.Parameter(torch.zeros(2))], config)
    scheduler = make_scheduler(optimizer, 6, config)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0])


@pytest.mark.parametrize("num_steps", [-1, 3])
def test_without_a_known_end_nothing_decays(num_steps: int) -> None:
    """max_steps −1 means endless, and a warm-up that fills the run leaves no step to decay in."""
    config = OptimizerConfig(warmup_steps=3, schedule="cosine")
    assert [learning_rate_factor(step, num_steps, config) for step in (3, 50)] == [1.0, 1.0]
    assert learning_rate_factor(500, 100, config) == pytest.approx(0.0, abs=1e-12), "stays at 0 past the end"
    constant = OptimizerConfig(warmup_steps=3)
    assert learning_rate_factor(90, 100, constant) == 1.0
