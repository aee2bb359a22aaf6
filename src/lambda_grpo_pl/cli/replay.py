"""`lambda-grpo replay`: learn again from the rollouts of a run, as it did or with another method."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lambda_grpo_pl.callbacks.checkpoint import FOLDER as CHECKPOINTS
from lambda_grpo_pl.cli.main import LambdaGRPOCLI, build
from lambda_grpo_pl.cli.options import replay_parser
from lambda_grpo_pl.cli.plugins import import_plugins, spell_out_imports
from lambda_grpo_pl.cli.presets import resolve_presets
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective.families import FAMILIES
from lambda_grpo_pl.replay.comparison import RECORDED, REPLAYED, ComparedStep, format_steps, write_steps
from lambda_grpo_pl.replay.learning import (
    LearnedAgain,
    TrainerSettings,
    describe_environment,
    find_start,
    learn_again,
)
from lambda_grpo_pl.replay.record import RolloutRecord
from lambda_grpo_pl.replay.store import DUMPS, FOLDER, RolloutStore

NEVER = {"ckpt_path", "weights_only", "return_predictions", "verbose", "resume", "print_prompt"}
"""Keys of config.yaml that belong to the subcommand that wrote it."""
QUIET = ["--trainer.logger=false", "--trainer.callbacks=null", "--trainer.devices=1", "--trainer.strategy=auto"]
QUIET += ["--trainer.num_nodes=1", "--rollout.sampler=transformers", "--one_step_off.enabled=false"]
"""What learning again does without."""


def main(arguments: Sequence[str]) -> int:
    """Run the command with its arguments, those of `fit` that change the method included; return its exit status."""
    options, overrides = replay_parser().parse_known_args(arguments)
    overrides = spell_out_imports(resolve_presets(overrides))
    run = Path(options.run)
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is not the folder of a run: it has no config.yaml.")
    store = RolloutStore(run / (DUMPS if options.dump else FOLDER))
    if options.step is None:
        raise UserError(f"--step is missing, the policy update to look at: {store.folder} {store.describe()}.")
    first, last = store.find(options.step).rollout, store.find(options.to or options.step).rollout
    if last < first:
        raise UserError(f"--to {options.to} comes before --step {options.step}: swap them.")
    records = [store.read(number) for number in range(first, last + 1)]
    with tempfile.TemporaryDirectory(prefix=".replay-", dir=run) as scratch:
        replay = Replay(run, Path(scratch))
        checkpoint = replay.reach(RolloutStore(run / FOLDER), first)
        again = replay.learn(records, checkpoint)
        columns = {REPLAYED: again}
        if overrides:
            name, other = replay.learn_otherwise(records, checkpoint, overrides)
            columns[name] = other
    steps = [
        ComparedStep(
            record.facts.last_update,
            {RECORDED: record.facts.metrics} | {name: results[place].metrics for name, results in columns.items()},
        )
        for place, record in enumerate(records)
    ]
    print(format_steps(steps))
    for reason in describe_environment(records[0].facts, replay.device):
        print(reason)
    if options.out is not None:
        write_steps(steps, Path(options.out))
    return 0


class Replay:
    """A run whose updates are repeated.

    Attributes:
        device: Type of the device that learns.
    """

    def __init__(self, run: Path, scratch: Path) -> None:
        """Use the configuration of the run in a folder; `scratch` is a folder for files that are not kept."""
        self.run, self.scratch = run, scratch
        self.config = scratch / "config.yaml"
        content = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        self.config.write_text(yaml.safe_dump({k: v for k, v in content.items() if k not in NEVER}), encoding="utf-8")
        self.device = "cpu"

    def reach(self, store: RolloutStore, rollout: int) -> Path | None:
        """Return a checkpoint of the state before a rollout, which is made from an earlier one if there is none.

        None is the state before the first update.
        """
        start = find_start(self.run / CHECKPOINTS, store, rollout)
        if start.rollout == rollout:
            return start.checkpoint
        reached = self.scratch / "reached.ckpt"
        self.learn([store.read(number) for number in range(start.rollout, rollout)], start.checkpoint, reached)
        return reached

    def learn(
        self, records: Sequence[RolloutRecord], checkpoint: Path | None, save_to: Path | None = None
    ) -> list[LearnedAgain]:
        """Learn from rollouts as the run did."""
        cli = self._build()
        results = learn_again(cli.model, records, checkpoint, _settings(cli), save_to)
        self.device = cli.model.device.type
        return results

    def learn_otherwise(
        self, records: Sequence[RolloutRecord], checkpoint: Path | None, overrides: Sequence[str]
    ) -> tuple[str, list[LearnedAgain]]:
        """Learn from rollouts with other settings; returns the name of the method, and what it did."""
        cli = self._build(*_complete(overrides))
        cli.model.strict_loading = False  # a λ per prompt has more parameters than one for all
        name = cli.model.method_name
        if name == records[0].facts.method:
            name = f"{name}, changed"
        return name, learn_again(cli.model, records, checkpoint, _settings(cli))

    def _build(self, *overrides: str) -> LambdaGRPOCLI:
        arguments = [f"--config={self.config}", *overrides, *QUIET]
        import_plugins(arguments)
        return build(arguments, run=False)


def _settings(cli: LambdaGRPOCLI) -> TrainerSettings:
    trainer: Any = cli.config.trainer
    return TrainerSettings(trainer.max_steps, str(trainer.precision or "32-true"), trainer.accelerator)


def _complete(overrides: Sequence[str]) -> list[str]:
    """A family without λ cannot learn one: `--model.preference.family grpo` says all that there is to say."""
    words = [part for word in overrides for part in word.split("=", 1)]
    family = next((words[place + 1] for place, word in enumerate(words[:-1]) if word.endswith("preference.family")), "")
    if family in FAMILIES and not FAMILIES[family].has_lambda:
        fixed = ["learn=fixed", "contextual=false", "min_ess=null"]
        return [*(f"--model.preference.{each}" for each in fixed), *overrides]
    return list(overrides)
