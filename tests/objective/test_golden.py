"""Agreement with the peers' own functions and with closed forms: float64 to 1e-10, float32 to 1e-5 relative.

Covered: every record of TRL, verl, composer and the closed forms whose configuration ours can express. Not covered:

* TRL's `bnpo` in micro-batches: it averages the token-means of the micro-batches, so it depends on how a batch is
  split, which our count, passed in, rules out by construction. Unsplit it is `dapo` and is covered.

verl drops a response without tokens from its `seq-mean` modes, TRL counts it. Ours counts it unless it is inactive, so
those records are met with `active = lengths > 0`. verl divides by ℓ + 1e-8 there: 1e-8. TRL's advantages agree to
1e-7: its std carries a factor in float32. composer's f is float32, hence its tolerances.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lambda_grpo_pl.objective import (
    AdvantageConfig,
    LengthPreference,
    LossOutput,
    PreferenceConfig,
    SurrogateConfig,
    TokenCount,
    TokenLogprobs,
    compute_advantages,
    count_tokens,
    kl_penalty,
    policy_loss,
    preference_objective,
)

from .golden import CASES, DATA, Case, load, preference

pytestmark = pytest.mark.parametrize("name", CASES)
TRL_FAMILY = {"grpo": "grpo", "bnpo": "uniform", "dapo": "uniform", "dr_grpo": "dr_grpo"}


def fixed(family: str, max_length: int | None = None) -> LengthPreference:
    return LengthPreference(PreferenceConfig(family=family, learn="fixed", max_length=max_length))


def run(
    case: Case,
    length_preference: LengthPreference,
    surrogate: SurrogateConfig,
    *,
    advantages: str = "group",
    old: bool = True,
    active: Tensor | None = None,
    count: TokenCount | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[LossOutput, Tensor]:
    """Loss and d loss / d log-probabilities of a case's inputs."""
    inputs = {key: value.to(dtype) for key, value in case.inputs.items() if key in ("new", "old", "ref")}
    policy = inputs["new"].requires_grad_()
    lengths = case.grouped("lengths")
    count = count or count_tokens(lengths, active)
    weights = (length_preference(lengths, count.mean_length, active) / count.denominator).flatten()
    logprobs = TokenLogprobs(policy, inputs["old"] if old else None, inputs["ref"])
    output = policy_loss(logprobs, case.inputs["mask"], case.inputs[f"adv_{advantages}"], weights, surrogate)
    return output, torch.autograd.grad(output.loss, policy)[0]


def tolerance(record: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, float]:
    """1e-10, but 1e-8 where verl divides by ℓ + 1e-8, and 1e-5 relative in float32."""
    if dtype == torch.float32:
        return {"rtol": 1e-5, "atol": 1e-6}
    shifted = record["source"] == "verl" and record["params"]["loss_agg_mode"] == "seq-mean-token-mean"
    return {"rtol": 1e-8 if shifted else 1e-10, "atol": 1e-8 if shifted else 1e-10}


def assert_equals(case: Case, record: dict[str, Any], output: LossOutput, grad: Tensor, factor: float = 1.0) -> None:
    """`factor` turns our loss into the record's where the two differ by a constant."""
    golden = torch.tensor(record["scalars"]["loss"], dtype=output.loss.dtype)
    close = tolerance(record, output.loss.dtype)
    torch.testing.assert_close(output.loss.detach() * factor, golden, **close)
    torch.testing.assert_close(grad * factor, case.output(record, "grad_new").to(grad.dtype), **close)


def test_advantages(name: str) -> None:
    """TRL's and verl's advantages from the rewards: group, batch and no scaling."""
    case = load(name)
    for record in case.select("trl", "generate_and_score"):
        config = AdvantageConfig(scale=record["params"]["scale_rewards"], eps=record["params"]["eps"])
        ours = compute_advantages(case.grouped("rewards"), config).flatten()
        torch.testing.assert_close(ours, case.output(record, "advantages"), rtol=1e-7, atol=1e-7)
    for record in case.select("verl", "outcome_advantage"):
        scale = "group" if record["params"]["norm_adv_by_std_in_grpo"] else "none"
        ours = compute_advantages(case.grouped("rewards"), AdvantageConfig(scale=scale, eps=1e-6)).flatten()
        theirs = case.output(record, "advantages")
        theirs = theirs[:, 0] if theirs.dim() == 2 else theirs
        torch.testing.assert_close(ours, theirs.double(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_trl_losses(name: str, dtype: torch.dtype) -> None:
    """GRPO, DAPO, BNPO and Dr. GRPO of TRL: values, gradients, KL and clip fractions."""
    case = load(name)
    records = case.select("trl", "_compute_loss")
    assert len(records) == 28
    for record in records:
        params = record["params"]
        if params["loss_type"] == "bnpo" and "micro_batches" in params:
            continue
        config = SurrogateConfig(
            clip_low=params["epsilon"],
            clip_high=params["epsilon_high"],
            dual_clip=params.get("delta"),
            ratio_level=params["importance_sampling_level"],
            kl_coef=params["beta"],
        )
        family = fixed(TRL_FAMILY[params["loss_type"]], params["max_completion_length"])
        output, grad = run(case, family, config, advantages=params["advantages"], old=params["old_logps"], dtype=dtype)
        assert_equals(case, record, output, grad)
        num_tokens = output.statistics["num_tokens"]
        if "kl" in record["scalars"]:
            torch.testing.assert_close(
                (output.statistics["kl"] / num_tokens).item(), record["scalars"]["kl"], rtol=1e-5, atol=1e-8
            )
        if params["importance_sampling_level"] == "token" and "clip_ratio/low_mean" in record["scalars"]:
            for side in ("low", "high"):
                ours = (output.statistics[f"clip_{side}"] / num_tokens).item()
                assert ours == pytest.approx(record["scalars"][f"clip_ratio/{side}_mean"], rel=1e-6)


def test_verl_policy_losses(name: str) -> None:
    """The vanilla loss of verl in its four aggregations, with dual clip, and GSPO."""
    case = load(name)
    num_rows, num_columns = case.inputs["new"].shape
    active = case.grouped("lengths") > 0
    for record in case.select("verl", "compute_policy_loss"):
        params = record["params"]
        level = "sequence" if "gspo" in record["call"] else "token"
        dual_clip = 3.0 if params.get("clip_ratio_c") == 3.0 else None
        config = SurrogateConfig(clip_low=0.2, clip_high=0.28, ratio_level=level, dual_clip=dual_clip)
        family, factor = verl_aggregation(params["loss_agg_mode"], num_rows, num_columns, int(active.sum()))
        output, grad = run(case, family, config, active=active)
        assert_equals(case, record, output, grad, factor)


def verl_aggregation(mode: str, num_rows: int, num_columns: int, num_active: int) -> tuple[LengthPreference, float]:
    """A verl aggregation as a family and a constant factor: its sums over tokens divide by other constants."""
    if mode == "token-mean":
        return fixed("uniform"), 1.0
    if mode == "seq-mean-token-mean":
        return fixed("grpo"), 1.0
    # Dr. GRPO with L_max = 1 is the mean over responses of their sums; verl's -norm divides by T and not by responses.
    return fixed("dr_grpo", 1), 1.0 if mode == "seq-mean-token-sum" else num_active / num_columns


def test_verl_aggregation_of_any_losses(name: str) -> None:
    """The aggregation in verl of arbitrary per-token losses is our weights on their sums."""
    case = load(name)
    num_rows, num_columns = case.inputs["new"].shape
    lengths = case.grouped("lengths")
    active = lengths > 0
    count = count_tokens(lengths, active)
    per_response = (case.inputs["loss_mat"] * case.inputs["mask"]).sum(-1)
    for record in case.select("verl", "agg_loss(in/loss_mat)"):
        divisor = record["params"]["loss_scale_factor"] or num_columns
        family, factor = verl_aggregation(record["params"]["loss_agg_mode"], num_rows, divisor, int(active.sum()))
        weights = factor * (family(lengths, count.mean_length, active) / count.denominator).flatten()
        golden = torch.tensor(record["scalars"]["loss"], dtype=torch.float64)
        torch.testing.assert_close((weights * per_response).sum(), golden, **tolerance(record))
        golden_grad = case.output(record, "grad_loss_mat")
        torch.testing.assert_close(weights[:, None] * case.inputs["mask"], golden_grad, **tolerance(record))


def test_verl_kl(name: str) -> None:
    """k3 under a token-mean."""
    case = load(name)
    (record,) = case.select("verl", "kl_penalty")
    policy = case.inputs["new"].clone().requires_grad_()
    mask = case.inputs["mask"]
    penalty = kl_penalty(policy, case.inputs["ref"], case.inputs["old"], SurrogateConfig(kl_estimator="k3"))
    loss = (penalty * mask).sum() / mask.sum()
    assert loss.item() == pytest.approx(record["scalars"]["loss"], rel=1e-10)
    (grad,) = torch.autograd.grad(loss, policy)
    torch.testing.assert_close(grad, case.output(record, "grad_new"), rtol=1e-10, atol=1e-10)


LAMBDA_SURROGATE = SurrogateConfig(clip_low=0.2, clip_high=0.28)


def test_lambda_closed_forms(name: str) -> None:
    """f, df/dλ, loss, its gradient and dloss/dλ, with both normalisers, for every λ and r."""
    case = load(name)
    lengths = case.grouped("lengths")
    for record in case.select("closed_form", "lambda-GRPO"):
        params = record["params"]
        scope = "global" if params["normaliser"] == "batch tokens" else "group"
        model = preference(params["lam"], r=params["r"])
        count = count_tokens(lengths, scope=scope)
        output, grad = run(case, model, LAMBDA_SURROGATE, count=count)
        assert_equals(case, record, output, grad)
        objective = preference_objective(model, output.surrogates.view_as(lengths), lengths, count)
        (slope,) = torch.autograd.grad(-objective, model.lam)
        assert slope.item() == pytest.approx(record["scalars"]["dloss_dlam"], rel=1e-10, abs=1e-12)
        if scope == "global":
            exact = {"rtol": 1e-10, "atol": 1e-12}
            weights = model(lengths, count.mean_length).flatten()
            torch.testing.assert_close(weights, case.output(record, "f").flatten(), **exact)
            derivative = model.derivative(lengths, count.mean_length).flatten()
            torch.testing.assert_close(derivative, case.output(record, "df_dlam").flatten(), **exact)


def test_lambda_composer(name: str) -> None:
    """The one public implementation, where it is given the prompt ids that its own training path drops."""
    case = load(name)
    lengths = case.grouped("lengths")
    count = count_tokens(lengths)
    for record in case.select("composer"):
        model = preference(record["params"]["lam"], r=record["params"]["r"])
        output, grad = run(case, model, LAMBDA_SURROGATE)
        assert output.loss.item() == pytest.approx(record["scalars"]["loss"], abs=1e-7)
        torch.testing.assert_close(grad, case.output(record, "grad_new"), rtol=0, atol=1e-8)
        weights = model(lengths, count.mean_length).flatten()
        torch.testing.assert_close(weights, case.output(record, "f").double().flatten(), rtol=0, atol=2e-6)
        objective = preference_objective(model, output.surrogates.view_as(lengths), lengths, count)
        (slope,) = torch.autograd.grad(-objective, model.lam)
        assert slope.item() == pytest.approx(record["scalars"]["dloss_dlam"], abs=2e-7)


def test_every_record_is_looked_at(name: str) -> None:
    """A record that none of the selections above knows would pass unseen."""
    case = load(name)
    known = [
        *case.select("trl"),
        *case.select("verl", "compute_"),
        *case.select("verl", "agg_loss"),
        *case.select("closed_form"),
        *case.select("composer"),
    ]
    assert len(known) == len(case.records) == 76
    assert (DATA / f"{name}.npz").exists()
