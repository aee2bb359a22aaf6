"""What the parser refuses is one sentence with key, place and remedy, never a dump of types."""

import re
from pathlib import Path
from typing import Any

import pytest

from lambda_grpo_pl.cli.explain import ParserError, explain, unwrap
from lambda_grpo_pl.cli.keys import Key
from lambda_grpo_pl.cli.main import _read_sources_again
from tests.cli.conftest import Explains
from tests.test_configs import BASE

MISTAKES: list[tuple[list[str], str]] = [
    (["--trainer.max_step=3"], r"--trainer.max_step is not an option: did you mean trainer.max_steps\?"),
    (["--model.prefrence.lr=1"], r"did you mean model.preference.lr\?"),
    (["--model.optimizer.learning_rate=1"], "model.optimizer has the keys lr, betas"),
    (["--modle.policy.path=x"], r"did you mean model.policy.path\?"),
    (["--model.policy.lora.ranks=8"], r"model.policy.lora.ranks .*did you mean model.policy.lora.rank\?"),
    (["--model.policy.lora=8"], "model.policy.lora .*is 8, but must be a mapping with the keys rank, alpha.*or null"),
    (["--model.policy.lora=true"], "model.policy.lora .*is true, but must be a mapping"),
    (["--data.batch_size=four"], r"data.batch_size \(on the command line\) is four, but must be an integer"),
    (["--data.batch_size=null"], r"data.batch_size \(on the command line\) is null, but must be an integer"),
    (["--trainer.precision=33"], "trainer.precision .*is 33, but must be one of 32-true, bf16-mixed"),
    (["--rollout.sampler=vlm"], "rollout.sampler .*must be one of auto, vllm, transformers"),
    (["--data.train.answer_format=hash"], "data.train.answer_format .*is hash, but must be one of bare, hashes"),
    (["--data.train.pth=x"], r"did you mean data.train.path\?"),
    (["--reward.functions=numeric"], r"reward.functions .*is numeric, .*such as \[\{name: …\}\]"),
    (["--reward.functions", "[{nam:", "numeric}]"], "put quotes around a value"),
    (["--trainer.callbacks+=nowhere.Thing"], "no class nowhere.Thing.*fix its class_path.*holds nowhere.py"),
    (["--trainer.logger=Wandb"], "trainer.logger .*is Wandb, but must be a class such as lightning.pytorch.loggers"),
    (["stray"], "Unexpected argument 'stray': options start with --"),
    (["mine.yaml"], "Unexpected argument 'mine.yaml': write --config mine.yaml"),
    (
        ["--data.train.template.stop", "\\n"],
        r"data.train.template.stop \(on the command line\) is \S+, but must be a list",
    ),
    (
        ["--data.train.template.stop", "\n"],
        r"data.train.template.stop \(on the command line\) is \S+, but must be a list",
    ),
    (
        ["--data.train.template", "{text: '{question}', stop: 5}"],
        r"data.train.template.stop \(.*\) is 5, but must be a l",
    ),
    (
        ["--data.train.template", "{text: '{question}', chat: 5}"],
        r"template.chat \(.*\) is 5, but must be true or false",
    ),
    (
        ["--data.train.template", "{text: '{question}', chta: 5}"],
        r"template.chta .*did you mean data.train.template.chat",
    ),
    (
        ["--reward.functions", "[{name: a, weight: x}]"],
        r"reward.functions\[0\].weight \(.*\) is x, but must be a number",
    ),
    (["--reward.functions", "[{name: a}, {name: b, weight: x}]"], r"reward.functions\[1\].weight \(.*\) is x, but"),
    (
        ["--reward.functions", "[{name: a}, {name: b, wieght: 1}]"],
        r"reward.functions\[1\].wieght .*is not a key: did you",
    ),
    (
        ["--data.benchmarks", "[{name: a, path: b, max_tokens: x}]"],
        r"data.benchmarks\[0\].max_tokens .*is x, but must be an",
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_a_mistake_is_explained(explains: Explains, arguments: list[str], sentence: str) -> None:
    said = explains(*arguments)
    assert re.search(sentence, said)
    assert "Union subtypes" not in said
    assert "<class" not in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trainer:\n  max_step: 3\n", r"trainer.max_step \(.*over.yaml:2\) is not a key: did you mean trainer.max_st"),
        ("model: {optimiser: {lr: 1.0e-3}}\n", r"over.yaml:1\) is not a key: did you mean model.optimizer.lr\?"),
        ("data:\n  batch_size: four\n", r"data.batch_size \(.*over.yaml:2\) is four, but must be an integer"),
        ("data:\n  train: {pth: x}\n", r"data.train.pth \(.*over.yaml:2\) is not a key: did you mean data.train.path"),
        ("trainer:\n  callbacks+:\n    - class_path: mine.Nope\n", r"over.yaml:2\).*no class mine.Nope.*holds mine.py"),
        ("reward:\n  functions:\n    - name: math\n      weigth: 2\n", r"reward.functions.*weigth.*over.yaml:4"),
        (
            "data:\n  val: {path: x, limit: y}\n",
            r"data.val.limit \(.*over.yaml:2\) is y, but must be an integer or null;",
        ),
        (
            "data:\n  val:\n    - {path: x, limit: y}\n",
            r"data.val\[0\].limit \(.*over.yaml:3\) is y, but must be an int",
        ),
        (
            "reward:\n  functions:\n    - {name: a, weight: 1}\n    - {name: b, weight: x}\n",
            r"reward.functions\[1\].weight \(.*over.yaml:4\) is x, but must be a number",
        ),
    ],
)
def test_a_mistake_in_a_file_names_its_line(explains: Explains, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "over.yaml"
    path.write_text(text, encoding="utf-8")
    assert re.search(sentence, explains("--config", str(path)))


def test_the_last_place_that_sets_a_key_is_named(explains: Explains, tmp_path: Path) -> None:
    path = tmp_path / "over.yaml"
    path.write_text("data: {batch_size: four}\n", encoding="utf-8")
    assert "over.yaml:1" in explains("--data.batch_size=8", "--config", str(path))


def test_a_start_without_a_model_names_a_configuration(parser: Any, keys: dict[str, Key]) -> None:
    with pytest.raises(ParserError) as caught:
        parser.parse_args(["fit"])
    said = explain(str(caught.value), keys, ["fit"])
    assert said.startswith("model.policy.path is not set: set it, or start from a configuration")
    assert "--config preset:lambda" in said


def test_what_a_section_refused_is_taken_out_of_the_list_of_types() -> None:
    message = """Does not validate against any of the Union subtypes
Subtypes: [<class 'str'>, <class 'Template'>]
Errors:
  - Expected a <class 'str'>
  - Does not validate against any of the Union subtypes
    Errors:
      - Not a valid subclass of PromptSource
        Subclass types expect one of:
        - a class path (str)
      - data.rules.max_prompt_tokens is 0: set it to 1 or more.
Given value: 3"""
    assert unwrap(message) == "data.rules.max_prompt_tokens is 0: set it to 1 or more."
    assert unwrap("model.optimizer.lr is 0: set it above 0.") == "model.optimizer.lr is 0: set it above 0."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[{path: x, template: {text: '{question}', chta: true}}]",
            r"data.val\[0\].template.chta .*did you mean .*chat\?",
        ),
        ("{path: x, template: {text: '{question}', stop: 5}}", r"data.val.template.stop .* is 5, but must be a list"),
        (
            "[{path: x}, {path: y, limit: z}]",
            r"data.val\[1\].limit \(on the command line\) is z, but must be an integer",
        ),
    ],
)
def test_a_mapping_that_was_taken_for_a_path_is_read_again(
    parser: Any, keys: dict[str, Key], text: str, sentence: str
) -> None:
    words = ["fit", *BASE, "--data.val", text]
    with pytest.raises(ParserError) as caught:
        _read_sources_again(parser._subcommands_action._name_parser_map["fit"], parser.parse_args(words).fit)
    assert re.search(sentence, explain(str(caught.value), keys, words))


def test_a_path_is_not_read_again(parser: Any) -> None:
    config = parser.parse_args(["fit", *BASE, "--data.val", "val.jsonl"]).fit
    _read_sources_again(parser._subcommands_action._name_parser_map["fit"], config)
