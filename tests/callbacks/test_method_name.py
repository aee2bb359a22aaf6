"""Weights are told apart by one step of training, and methods by what was trained."""

import pytest
import torch
from torch import nn

from lambda_grpo_pl.evaluation.identity import WITHOUT_LAMBDA, method_name, weights_digest
from lambda_grpo_pl.objective import PreferenceConfig
from lambda_grpo_pl.objective.families import FAMILIES


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))


def test_equal_weights_have_one_digest_and_one_small_step_another():
    trained = model()
    assert weights_digest(trained) == weights_digest(model())
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-6, weight_decay=0.0)
    trained(torch.randn(4, 256)).sum().backward()
    optimizer.step()
    assert weights_digest(trained) != weights_digest(model())


def test_swapped_tensors_differ():
    swapped = model()
    swapped[0], swapped[1] = swapped[1], swapped[0]
    assert weights_digest(swapped) != weights_digest(model())


@pytest.mark.parametrize(
    ("preference", "name"),
    [
        (PreferenceConfig(), "lambda"),
        (PreferenceConfig(learn="validation"), "lambda_validation"),
        (PreferenceConfig(contextual=True), "lambda_contextual"),
        (PreferenceConfig(learn="fixed", init=1.0), "lambda_fixed"),
        (PreferenceConfig(family="relative_power"), "relative_power"),
        (PreferenceConfig(family="uniform", learn="fixed"), "dapo"),
        (PreferenceConfig(family="dr_grpo", learn="fixed"), "dr_grpo"),
    ],
)
def test_tables_call_a_method_by_its_name(preference, name):
    assert method_name(preference.family, preference.learn, preference.contextual) == name


def test_every_family_without_a_lambda_is_known():
    assert {name for name, family in FAMILIES.items() if family.derivative is None} == set(WITHOUT_LAMBDA)
