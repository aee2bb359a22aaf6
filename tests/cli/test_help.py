"""`--help` is instant and lists sections; `--help KEY` explains every key, nested ones included."""

import subprocess
import sys

import pytest

from lambda_grpo_pl.cli.entry import COMMANDS
from lambda_grpo_pl.cli.help import SECTIONS, describe_keys, overview, topic
from lambda_grpo_pl.cli.keys import Key
from lambda_grpo_pl.errors import UserError


def test_the_overview_lists_exactly_the_sections_of_the_configuration(keys: dict[str, Key]) -> None:
    options = {"seed_everything", "print_prompt", "plugins", "resume", "ckpt_path", "weights_only"}
    covered = {section for section in SECTIONS if any(key.startswith(f"{section}.") for key in keys)}
    assert covered == set(SECTIONS)
    left = [key for key in keys if not any(key.startswith(f"{section}.") for section in SECTIONS)]
    assert set(left) == options
    assert all(f"  {section} " in overview("fit") for section in SECTIONS)


@pytest.mark.parametrize("command", [*COMMANDS, ""])
def test_help_answers_at_once(command: str) -> None:
    """Without torch, Lightning or transformers, which take seconds to import."""
    words = [command, "--help"] if command else ["--help"]
    code = f"""
import sys
from lambda_grpo_pl.cli.entry import main
sys.argv = {["lambda-grpo", *words]}
try:
    status = main()
except SystemExit as end:
    status = end.code
heavy = {{"torch", "lightning", "transformers", "wandb", "datasets"}} & set(sys.modules)
assert not heavy and not status, (heavy, status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert f"lambda-grpo {command}".strip() in done.stdout


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("data.train", "data.train.question_column: text, default question"),
        ("data.rules", "data.rules.on_bad_row: one of skip, error"),
        ("model.policy.lora", "model.policy.lora.target_modules: a list"),
        ("reward.functions", "reward.functions.isolated: true or false"),
        ("rollout.sampling.top_p", "rollout.sampling.top_p: a number, default 1.0"),
        ("all", "trainer.max_steps: an integer"),
    ],
)
def test_a_key_is_explained_with_all_below_it(keys: dict[str, Key], prefix: str, key: str) -> None:
    text = describe_keys(keys, prefix)
    assert key in text
    assert prefix == "all" or all(line.startswith((prefix, "    ")) for line in text.splitlines())


def test_every_key_has_a_description(keys: dict[str, Key]) -> None:
    assert [name for name, key in keys.items() if not key.help] == []


def test_an_unknown_topic_suggests_one(keys: dict[str, Key]) -> None:
    with pytest.raises(UserError, match=r"did you mean --help data\.train"):
        describe_keys(keys, "data.trian")


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--help"], ""),
        (["-h"], ""),
        (["--help", "data"], "data"),
        (["--help=data"], "data"),
        (["--data.seed=3"], None),
    ],
)
def test_what_help_is_about(words: list[str], asked: str | None) -> None:
    assert topic(words) == asked
