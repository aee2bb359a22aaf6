"""Tables call a method by what was trained."""

import pytest

from lambda_grpo_pl.callbacks.evaluation_settings import WITHOUT_LAMBDA, method_name
from lambda_grpo_pl.objective import PreferenceConfig
from lambda_grpo_pl.objective.families import FAMILIES


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
