"""Every documented stack has lengths that fit model and engine, and every recipe fits the GPUs that it names."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lambda_grpo_pl.cli.checks import check_lengths
from lambda_grpo_pl.cli.plan import PlanCLI, make_plan
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning.model_config import model_positions
from lambda_grpo_pl.planning.report import Report, describe_parts, describe_verdict
from tests.test_configs import BASE, ROOT, STACKS, parse

RECIPES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("configs/recipe/*.yaml"))
HARDWARE = re.compile(r"Hardware: (\d+) × (\S+?)\.?\n")
GPU_STACKS = {where: words for where, words in STACKS.items() if "strategy/" in where and "cpu_ddp" not in where}


def instantiate(parser: Any, arguments: list[str]) -> Any:
    """The parts of a stack, as `plan` builds them; no weights are read."""
    config = parse(parser, arguments)
    config.trainer.logger, config.trainer.callbacks, config.trainer.strategy = False, None, "auto"
    whole = type(config)(fit=config, subcommand="fit")
    return parser.instantiate_classes(whole).fit


def stack_of(recipe: str) -> list[str]:
    """Arguments of the command in a recipe's first lines, without `fit`."""
    (words,) = [words for where, words in STACKS.items() if where.startswith(f"{recipe}:")]
    return words[1:]


@pytest.mark.parametrize("where", [where for where, words in STACKS.items() if words[0] == "fit"])
def test_the_lengths_of_a_documented_stack_fit(parser: Any, where: str) -> None:
    parts = instantiate(parser, STACKS[where])
    check_lengths(parts, model_positions(parts.model.policy_config))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--model.policy.path", "Qwen/Qwen2.5-Math-1.5B", "--rollout.sampling.max_tokens", "3500"],
            r"data.rules.max_prompt_tokens \(1024\) plus rollout.sampling.max_tokens \(3500\) is 4524 tokens, but the "
            "model has 4096 positions",
        ),
        (
            ["--rollout.sampler", "vllm", "--rollout.engine.max_model_len", "512"],
            r"but rollout.engine.max_model_len is 512: raise it to 1120",
        ),
        (
            ["--config", "configs/evaluation/math8.yaml", "--model.policy.path", "Qwen/Qwen2.5-Math-1.5B"],
            r"evaluation.benchmarks.math500.max_tokens \(3072\) is 5120 tokens",
        ),
    ],
)
def test_lengths_that_do_not_fit_are_refused(parser: Any, arguments: list[str], sentence: str) -> None:
    parts = instantiate(parser, ["fit", *BASE, *arguments])
    with pytest.raises(UserError, match=sentence):
        check_lengths(parts, model_positions(parts.model.policy_config))


def planned(monkeypatch: pytest.MonkeyPatch, arguments: list[str], gpu: str, num_gpus: int) -> Report:
    monkeypatch.setattr(sys, "argv", ["lambda-grpo"])
    return make_plan(arguments, gpu, num_gpus)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_fits_the_gpus_that_it_names(recipe: str, in_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = HARDWARE.search(Path(recipe).read_text(encoding="utf-8"))
    assert hardware is not None, "the first lines do not say on which hardware it runs"
    report = planned(monkeypatch, stack_of(recipe), hardware[2], int(hardware[1]))
    assert report.run.placement.world_size == int(hardware[1])
    assert report.fits, "\n".join([*describe_parts(report.plan), *describe_verdict(report)])


@pytest.mark.slow
@pytest.mark.parametrize("where", GPU_STACKS)
def test_a_documented_stack_fits_eighty_gigabytes(where: str, in_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    report = planned(monkeypatch, GPU_STACKS[where][1:], "h100", 8)
    assert report.fits, "\n".join([*describe_parts(report.plan), *describe_verdict(report)])


def test_a_plan_builds_no_trainer_and_makes_no_model(in_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in model's shape is known without the minute that making it takes."""
    made: list[str] = []
    monkeypatch.setattr("lambda_grpo_pl.builtin.models.make_base_model", lambda *given: made.append("model"))
    monkeypatch.setattr(PlanCLI, "instantiate_trainer", lambda *given, **more: made.append("trainer"))
    report = planned(monkeypatch, [*BASE, "--trainer.accelerator", "gpu"], "h100", 1)
    assert report.plan.size.total == 250_368
    assert made == []
