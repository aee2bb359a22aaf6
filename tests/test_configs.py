"""Every configuration and every documented stack of overlays parses, fits its classes, and says something."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from lambda_grpo_pl.cli.checks import check_plan
from lambda_grpo_pl.cli.plugins import spell_out_imports
from lambda_grpo_pl.cli.presets import resolve_presets

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("configs/**/*.yaml"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("configs/**/*.yaml"), ROOT / "Makefile"])
BASE = ["--config", "configs/base.yaml"]
COMMAND = re.compile(r"lambda-grpo (?:fit|validate|test|predict)\s(?:[^`\n]|\\\n)*--config(?:[^`\n\\]|\\\n)*")


def documented_stacks() -> Iterator[tuple[str, list[str]]]:
    """(where, arguments) of each `lambda-grpo` command in Markdown, comments and the Makefile."""
    for document in DOCUMENTS:
        for command in COMMAND.findall(document.read_text(encoding="utf-8")):
            words = shlex.split(re.sub(r"\\\n\s*#?", " ", command))
            yield f"{document.relative_to(ROOT)}: {' '.join(words[1:])}", spell_out_imports(resolve_presets(words[1:]))


STACKS = dict(documented_stacks())


def parse(parser: Any, arguments: list[str]) -> Any:
    """The checked configuration of a subcommand."""
    whole = parser.parse_args(arguments)
    config = whole[whole.subcommand]
    if config.trainer.accelerator == "gpu":
        config.trainer.accelerator = "cpu"  # the check of a GPU is not this test's
    check_plan(config)
    return config


@pytest.fixture(scope="module")
def base(parser: Any) -> Any:
    return parse(parser, ["fit", *BASE])


@pytest.mark.parametrize("path", CONFIGS)
def test_a_configuration_fits_its_classes_and_changes_something(parser: Any, base: Any, path: str) -> None:
    config = parse(parser, ["fit", *BASE, "--config", path])
    objects = parser.instantiate(Namespace(fit=config, subcommand="fit")).fit
    assert objects.data.batch_size == config.data.batch_size
    assert objects.model.preference.config.family == config.model.preference.family
    assert config != base or path in ("configs/base.yaml", "configs/preference/lambda.yaml")


@pytest.mark.parametrize("path", CONFIGS)
def test_a_configuration_says_what_it_is_for(path: str) -> None:
    assert Path(path).read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", [path for path in CONFIGS if "/preference/" in path])
def test_a_method_is_told_in_few_lines_and_in_its_own_sections(path: str) -> None:
    text = Path(path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 7
    assert set(yaml.safe_load(text)) <= {"model", "dynamic_sampling", "heldout", "reward", "data"}
    assert set(yaml.safe_load(text)["model"]) <= {"preference", "objective"}


@pytest.mark.parametrize("where", STACKS)
def test_a_documented_command_parses(parser: Any, where: str) -> None:
    parse(parser, STACKS[where])


def test_the_documents_hold_commands() -> None:
    """Else the extraction is broken, and the test above checks nothing."""
    files = {where.split(":")[0] for where in STACKS}
    assert {"Makefile", "README.md", "configs/base.yaml", "configs/recipe/dapo.yaml"} <= files


def test_paths_follow_the_root_folder_after_overlays_and_the_command_line(parser: Any) -> None:
    config = parse(parser, ["fit", *BASE, "--trainer.default_root_dir", "elsewhere"])
    assert [logger.init_args.save_dir for logger in config.trainer.logger] == ["elsewhere", "elsewhere"]


def test_full_dapo_is_full(parser: Any) -> None:
    """Token mean, clip-higher and dynamic sampling, with the overlong filter or, in the recipe, the soft penalty."""
    overlay = ["fit", *BASE, "--config", "configs/preference/dapo_full.yaml"]
    method, recipe = (parse(parser, [*overlay, *more]) for more in ([], ["--config", "configs/recipe/dapo.yaml"]))
    for config in (method, recipe):
        assert (config.model.preference.family, config.model.objective.token_count) == ("uniform", "global")
        assert config.model.objective.surrogate.clip_high > config.model.objective.surrogate.clip_low
        assert config.dynamic_sampling.max_rounds > 0
        assert config.model.objective.surrogate.kl_coef == 0
    assert method.reward.overlong_filter
    penalty = recipe.reward.functions[1]
    assert (penalty.name, penalty.params["max_length"]) == ("overlong", recipe.rollout.sampling.max_tokens)
    assert not recipe.reward.overlong_filter


def test_the_example_of_the_readme_moves_lambda() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert names["logprobs"].grad.abs().sum() > 0
    assert names["preference"].lam.item() != 0.0


def test_overlays_merge_within_a_prompt_source(parser: Any) -> None:
    """A recipe changes the template and an argument the file; the columns of the data overlay stay."""
    data = ["fit", *BASE, "--config", "configs/data/math.yaml"]
    more = ["--config", "configs/recipe/dr_grpo.yaml", "--data.train.path", "local.jsonl"]
    train = parse(parser, [*data, *more]).data.train
    assert (train.path, train.template, train.answer_format) == ("local.jsonl", "qwen_boxed", "boxed")


def test_the_sharded_strategy_spans_the_devices(parser: Any) -> None:
    config = parse(parser, ["fit", *BASE, "--config", "configs/strategy/fsdp2.yaml", "--trainer.devices", "4"])
    assert config.trainer.strategy.init_args.data_parallel_size == 4
