"""`lambda-grpo fit | validate | test | predict`: LightningCLI with this package's module, data and callbacks.

Each callback has its own section (`rollout`, `reward`, …), so overlays merge key by key; `callbacks/order.py` lists
them. Checks that involve several sections, and no model, run before anything is built.

What the user said wrong is a `UserError` and ends with one sentence. Until the run starts, every `ValueError` or
`OSError` counts as one, since nothing but settings has been looked at. From then on only `UserError` does: any other
exception keeps its traceback.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse.typing import NonNegativeInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from typing_extensions import override

from lambda_grpo_pl.builtin.models import resolve_model_path
from lambda_grpo_pl.callbacks.one_step_off import check_correction
from lambda_grpo_pl.callbacks.order import SECTIONS
from lambda_grpo_pl.callbacks.run_config import RunConfig
from lambda_grpo_pl.cli.checks import check_machine, check_plan, check_seed, check_shares
from lambda_grpo_pl.cli.defaults import add_default_callbacks
from lambda_grpo_pl.cli.explain import ParserError, explain, read_unread, unwrap
from lambda_grpo_pl.cli.help import describe_keys, topic
from lambda_grpo_pl.cli.keys import list_keys
from lambda_grpo_pl.cli.planned_run import strategy_name
from lambda_grpo_pl.cli.presets import name_presets
from lambda_grpo_pl.cli.resume import check_checkpoint_path, choose_checkpoint, convert_checkpoint
from lambda_grpo_pl.cli.resume_settings import check_same_settings, find_run_config
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.prompts import preview_prompts
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.training.module import LambdaGRPO

BAD_SETTINGS = (ValueError, OSError, MisconfigurationException)
"""What settings that do not fit bring about while they are read and objects are built from them."""


class Parser(LightningArgumentParser):
    """Parser whose errors are one sentence, without a usage of 170 lines before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong with an argument or a file."""
        raise ParserError(message) from ex


class LambdaGRPOCLI(LightningCLI):
    """LightningCLI whose sections are wired to each other."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add a section for each callback, and link what several sections need to know."""
        for section, callback in SECTIONS.items():
            parser.add_lightning_class_args(callback, section)
        parser.add_argument(
            "--print_prompt",
            type=NonNegativeInt,
            default=0,
            metavar="N",
            help="Print the first N prompts of each validation set as the policy reads them, with token ids, and exit.",
        )
        parser.add_argument(
            "--plugins",
            type=list[str] | str,
            default=[],
            help="Modules to import first, so that what they register can be named; --import NAME adds one.",
        )
        parser.add_argument(
            "--resume",
            action="store_true",
            help="Continue the run in trainer.default_root_dir from its newest complete checkpoint.",
        )
        parser.link_arguments("rollout.sampling.temperature", "model.temperature")
        parser.link_arguments("rollout.sampling.max_tokens", "model.max_response_tokens")
        parser.link_arguments("model.policy.path", "data.tokenizer_path")
        parser.link_arguments("model.policy.revision", "data.revision")
        parser.link_arguments("model.policy.trust_remote_code", "data.trust_remote_code")
        parser.link_arguments("seed_everything", "rollout.seed", compute_fn=lambda seed: int(seed or 0))
        parser.link_arguments("seed_everything", "data.seed", compute_fn=lambda seed: int(seed or 0))

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the command line, or answer `--help KEY` and exit.

        Raises `UserError` with key, file and remedy for what does not fit.
        """
        words = _list_words(args)
        self.save_config_kwargs = {"command": shlex.join(["lambda-grpo", *name_presets(words)])}
        # Without subcommands, where code builds a run that it does not start, there is one parser.
        parsers: dict[str, LightningArgumentParser] = getattr(self, "_subcommand_parsers", {})
        used = parsers.get(words[0] if words else "fit", parsers.get("fit", parser))
        if asked := topic(words):
            print(describe_keys(list_keys(used), asked), end="")
            raise SystemExit(0)
        try:
            super().parse_arguments(parser, args)
            _read_sources_again(used, self.config[self.config.subcommand] if parsers else self.config)
        except ParserError as error:
            raise UserError(explain(str(error), list_keys(used), words)) from error
        check_seed((self.config[self.config.subcommand] if parsers else self.config).seed_everything)

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer; what the user lists as trainer.callbacks is added to the default ones."""
        settings = self._get(self.config_init, "trainer")
        root = Path(settings.default_root_dir or ".")
        settings.callbacks = add_default_callbacks(settings.callbacks, root, settings.enable_progress_bar is not False)
        return super().instantiate_trainer(**kwargs)

    @override
    def instantiate_classes(self) -> None:
        """Build trainer, module and data. Raises `UserError` for whatever their constructors refuse."""
        try:
            super().instantiate_classes()
        except BAD_SETTINGS as error:
            raise UserError(unwrap(str(error))) from error

    @override
    def before_instantiate_classes(self) -> None:
        """Refuse settings that cannot work together, or not with the run that is resumed."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        check_plan(config)
        check_machine(config)
        check_correction(config.one_step_off.enabled, config.model.objective.surrogate.is_correction)
        self._choose_checkpoint(config)
        for name in ("path", "reference_path"):
            value = config.model.policy[name]
            if value is not None:
                resolve_model_path(value)  # makes a built-in model now, in one process
        if "verbose" in config:
            config.verbose = False  # Lightning's list of every measure, after the evaluation's own table

    def _choose_checkpoint(self, config: Namespace) -> None:
        if self.subcommand == "fit":
            root = Path(config.trainer.default_root_dir or ".")
            config.ckpt_path = choose_checkpoint(root, config.resume, config.ckpt_path)
            before = None if config.ckpt_path is None else find_run_config(config.ckpt_path)
            if before is not None:
                now = self._parser("fit").dump(config, skip_none=False, format="json")
                check_same_settings(before, json.loads(now))
        elif self.subcommand and config.ckpt_path is not None:
            config.ckpt_path = check_checkpoint_path(config.ckpt_path)
        if self.subcommand and config.ckpt_path is not None:
            config.ckpt_path = convert_checkpoint(config.ckpt_path, strategy_name(config.trainer))

    @override
    def after_instantiate_classes(self) -> None:
        """Show prompts if asked to; refuse a batch that the ranks, whose number is now known, cannot share evenly."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.print_prompt:
            data = self.datamodule
            print(preview_prompts(data.val_sources, data.rules.without_skipping(), data.tokenizer, config.print_prompt))
            raise SystemExit
        check_shares(self.datamodule.batch_size, self.model.updates, self.trainer.world_size)


def build(args: ArgsType = None, run: bool = True, kind: type[LambdaGRPOCLI] = LambdaGRPOCLI) -> LambdaGRPOCLI:
    """Parse `args` (the command line if None), build trainer, module and data, and run the subcommand if `run`."""
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return _spare_unused(kind, _list_words(args))(
        LambdaGRPO,
        PromptDataModule,
        args=args,
        run=run,
        seed_everything_default=0,
        save_config_callback=RunConfig,
        parser_class=Parser,
        # Abbreviated keys would hide typing errors; omegaconf+ resolves ${section.key} after overlays and arguments.
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
        auto_configure_optimizers=False,
    )


def _read_sources_again(parser: LightningArgumentParser, config: Namespace) -> None:
    """Have the parser say what is wrong with a source that it took for a path. Raises `ParserError`."""
    for name in ("train", "val", "heldout"):
        value = read_unread(config.data[name])
        if value is None:
            continue
        try:
            parser.parse_object({"data": {name: value}}, defaults=False)
        except ParserError as error:
            if str(error).lstrip().startswith(f'Parser key "data.{name}'):
                raise
        except (KeyError, TypeError, ValueError):
            continue  # what is missing beside it, which is of no interest here


def _list_words(args: ArgsType) -> list[str]:
    return [str(word) for word in args] if isinstance(args, list) else sys.argv[1:]


def _spare_unused(kind: type[LambdaGRPOCLI], words: Sequence[str]) -> type[LambdaGRPOCLI]:
    """Return `kind` with a parser for the subcommand of `words` alone, whose keys are described if help is asked for.

    Four parsers with descriptions take two seconds at each start.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=topic(words) is not None)
    every = kind.subcommands()
    if not words or words[0] not in every:
        return kind

    class OneSubcommand(kind):  # type: ignore[valid-type, misc]
        @staticmethod
        @override
        def subcommands() -> dict[str, set[str]]:
            return {words[0]: every[words[0]]}

    return OneSubcommand
