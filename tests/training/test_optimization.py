"""The learning-rate schedule, and where the optimizer's states lie."""

import math

import pytest
import torch

from lambda_grpo_pl.training.config import OptimizerConfig
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
    monkeypatch.setitem(__import__("sys").modules, "torchao.optim", None)
    with pytest.raises(ValueError, match=r"lambda-grpo-pl\[low-memory\]"):
        make_optimizer([torch.nn.Parameter(torch.zeros(2))], OptimizerConfig(states="8bit"))


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
