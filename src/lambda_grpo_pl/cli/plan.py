"""`lambda-grpo plan`: what a stack of configurations takes on each device, before anything is loaded."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import override

from lambda_grpo_pl.callbacks.agreement import check_agreement
from lambda_grpo_pl.callbacks.one_step_off import check_correction
from lambda_grpo_pl.cli.checks import check_lengths, check_plan, check_shares
from lambda_grpo_pl.cli.explain import unwrap
from lambda_grpo_pl.cli.main import BAD_SETTINGS, LambdaGRPOCLI, build
from lambda_grpo_pl.cli.options import plan_parser
from lambda_grpo_pl.cli.planned_run import devices_per_node, planned_run
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning.bfloat16 import warn_about_bfloat16
from lambda_grpo_pl.planning.gpus import GIB, Gpu, find_gpu
from lambda_grpo_pl.planning.memory import needs_bfloat16, plan_memory
from lambda_grpo_pl.planning.model_config import read_model_config
from lambda_grpo_pl.planning.report import Report, as_dict, make_report, print_report


class PlanCLI(LambdaGRPOCLI):
    """Reads a configuration as `fit` does, and builds neither trainer nor run."""

    @override
    def before_instantiate_classes(self) -> None:
        """Refuse settings that cannot work together, whatever this machine has."""
        config = self.config[self.subcommand]
        check_plan(config)
        check_correction(config.one_step_off.enabled, config.model.objective.surrogate.is_correction)

    @override
    def _set_seed(self) -> None:
        """Nothing is random here."""

    @override
    def instantiate_classes(self) -> None:
        """Build the sections except the trainer: nothing is loaded or written."""
        config = self.config[self.subcommand].clone()
        config.trainer.logger, config.trainer.callbacks, config.trainer.strategy = False, None, "auto"
        whole = self.config.clone()
        whole[self.subcommand] = config
        try:
            self.parts = self.parser.instantiate_classes(whole)[self.subcommand]
        except BAD_SETTINGS as error:
            raise UserError(unwrap(str(error))) from error

    @override
    def after_instantiate_classes(self) -> None:
        """Nothing was built that needs a check."""

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def main(arguments: Sequence[str]) -> int:
    """Print the plan of a configuration; 0 if it fits or no GPU was named, 1 if it does not fit."""
    options, rest = plan_parser().parse_known_args(arguments)
    report = make_plan(rest, options.gpu, options.num_gpus)
    if options.json:
        print(json.dumps(as_dict(report), indent=2))
    else:
        print_report(report)
    return 1 if report.fits is False else 0


def make_plan(arguments: Sequence[str], gpu_name: str | None = None, num_gpus: int | None = None) -> Report:
    """Return the report for the arguments of a `fit`. Raises `UserError` for a configuration that cannot run."""
    sys.argv[1:] = ["fit", *arguments]
    cli = build(kind=PlanCLI)
    assert isinstance(cli, PlanCLI)
    return report_on(cli.config[cli.subcommand], cli.parts, gpu_name, num_gpus)


def report_on(config: Any, parts: Any, gpu_name: str | None, num_gpus: int | None) -> Report:
    """Return the report for a parsed configuration and what was instantiated from it."""
    accelerator = str(config.trainer.accelerator)
    on_gpu = accelerator in ("gpu", "cuda") or (
        accelerator == "auto" and (gpu_name is not None or torch.cuda.is_available())
    )
    check_agreement(parts.model, parts.data, parts.rollout.sampling)
    found = read_model_config(parts.model.policy_config)
    check_lengths(parts, getattr(found.config.get_text_config(), "max_position_embeddings", None))
    run = planned_run(config.trainer, parts, found.config, on_gpu, num_gpus)
    check_shares(parts.data.batch_size, parts.model.updates, run.placement.world_size)
    if run.engine is not None:
        run.engine.check_gpu(on_gpu or torch.cuda.is_available())
    per_node = devices_per_node(config.trainer, num_gpus)
    gpu = _memory(gpu_name, on_gpu, per_node)
    report = make_report(run, plan_memory(run, gpu), gpu, found.source, per_node)
    slow = warn_about_bfloat16() if needs_bfloat16(run) else None
    return report if slow is None else report._replace(notes=[*report.notes, slow])


def _memory(name: str | None, on_gpu: bool, num_ranks: int) -> Gpu | None:
    """Return what the run should fit: the GPU of that name, else this machine's, if it has what the run trains on."""
    if name is not None and not on_gpu:
        raise UserError(f"--gpu is {name}, but trainer.accelerator is cpu: leave one of them out.")
    if name is not None:
        return find_gpu(name)
    if on_gpu:
        if not torch.cuda.is_available():
            return None
        properties = torch.cuda.get_device_properties(0)
        return Gpu(properties.name, properties.total_memory)
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Gpu(f"this machine ({host / GIB:.0f} GiB for {num_ranks} rank(s))", host // num_ranks)
