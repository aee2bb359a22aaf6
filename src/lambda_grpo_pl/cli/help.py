"""`lambda-grpo COMMAND --help` and `--help KEY`: the sections at once, and the keys of a section on request."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from lambda_grpo_pl.errors import UserError

if TYPE_CHECKING:
    from lambda_grpo_pl.cli.keys import Key

SECTIONS = {
    "trainer": "Lightning's trainer: devices, precision, strategy, number of updates, loggers, own callbacks",
    "model.policy": "the language model, LoRA, packing and memory",
    "model.preference": "the length preference f: family, how λ learns, r, bound",
    "model.objective": "advantages, clip, KL, importance sampling, what Z counts",
    "model.optimizer": "AdamW on the policy: learning rate, warm-up, schedule",
    "model.updates": "optimizer updates per rollout",
    "model.lens": "what other methods would have gained on held-out prompts",
    "data": "prompts for training, validation and for tuning λ; rows that cannot be used",
    "rollout": "sampler, group size num_samples, temperature, response limit",
    "reward": "reward functions with weights, verifier processes, overlong filter",
    "dynamic_sampling": "replacing groups whose rewards are all equal",
    "heldout": "held-out batches for the validation rule of λ",
    "one_step_off": "sampling the next rollout while training on the current one",
    "evaluation": "how validation sets are sampled, averaged and shown",
    "monitor": "curves of f against length",
    "table": "responses shown in the terminal and on W&B",
    "record": "how many rollouts are kept for `replay`",
    "guards": "signs that a run goes wrong: which end it, which are not looked at",
    "predictions": "the file that `predict` writes",
    "export": "the policy as a Hugging Face folder",
    "plan": "the plan printed before the first step",
    "rehearsal": "the largest batch, tried before the first step",
    "watchdog": "how long a phase may take before it is reported",
    "summary": "the table and picture at the end",
    "checkpoint": "how often the newest state is saved",
}
"""Section → what it holds, in the order of the configuration."""
OPTIONS = {
    "--config FILE": "a configuration; later ones win key by key. preset:NAME takes one that comes with the package",
    "--KEY VALUE": "one key of it, such as --model.optimizer.lr 1e-6; wins over all files",
    "--resume": "continue the run in trainer.default_root_dir (fit)",
    "--ckpt_path FILE": "load this checkpoint",
    "--import MODULE": "import your own module first",
    "--print_config": "print the configuration that results, and exit",
    "--print_prompt N": "print the first N prompts of each validation set as the policy reads them, and exit",
    "--seed_everything N": "seed of the run",
}
WIDTH = 110


def overview(command: str) -> str:
    """Return the help of a command: its options, and the sections of the configuration."""
    lines = [f"usage: lambda-grpo {command} [--config FILE]... [--KEY VALUE]...", "", "options:"]
    lines += [f"  {option:<20} {text}" for option, text in OPTIONS.items()]
    lines += ["", "sections of the configuration:"]
    lines += [f"  {section:<20} {text}" for section, text in SECTIONS.items()]
    lines += [
        "",
        f"The keys of a section, with types and defaults: lambda-grpo {command} --help SECTION (such as data or",
        "model.policy.lora); all of them: --help all. docs/configuration.md shows whole stacks.",
    ]
    return "\n".join(lines) + "\n"


def topic(words: Sequence[str]) -> str | None:
    """Return the key after `--help`, "" if there is none, or None if no help is asked for."""
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("-h", "--help"):
            following = words[place + 1] if place + 1 < len(words) else ""
            return value or ("" if following.startswith("-") else following)
    return None


def describe_keys(keys: Mapping[str, Key], prefix: str) -> str:
    """Return the help of every key at or below `prefix` ("all": of every key). Raises `UserError` if there is none."""
    from lambda_grpo_pl.cli.keys import describe_type

    prefix = prefix.removeprefix("--")
    chosen = {name: key for name, key in keys.items() if prefix == "all" or f"{name}.".startswith(f"{prefix}.")}
    if not chosen:
        groups = {".".join(name.split(".")[: depth + 1]) for name in keys for depth in range(name.count(".") + 1)}
        near = get_close_matches(prefix, sorted(groups), n=1)
        guess = f"did you mean --help {near[0]}?" if near else f"use a section: {', '.join(SECTIONS)}."
        raise UserError(f"{prefix} is not a key or section: {guess}")
    blocks = []
    for name, key in chosen.items():
        default = "" if key.default is None else f", default {key.default!r}".replace("'", "")
        head = textwrap.wrap(f"{name}: {describe_type(key.type)}{default}", WIDTH, subsequent_indent="    ")
        text = re.sub(r"\s*Default: ``[^`]*``\.?", "", " ".join(key.help.split()))
        blocks += [*head, *textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")]
    return "\n".join(blocks) + "\n"
