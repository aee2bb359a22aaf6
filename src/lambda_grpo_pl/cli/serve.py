"""`lambda-grpo serve`: the vLLM server that fits a stack of configurations, as a command or started."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

from lambda_grpo_pl.builtin.models import resolve_model_path
from lambda_grpo_pl.cli.main import build
from lambda_grpo_pl.cli.options import serve_parser
from lambda_grpo_pl.cli.plan import PlanCLI
from lambda_grpo_pl.cli.planned_run import sampling_requests
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.planning.model_config import model_positions
from lambda_grpo_pl.sampling import installed_vllm
from lambda_grpo_pl.sampling.server.launch import ServerLaunch


def main(arguments: Sequence[str]) -> int:
    """Print the server's command, or run it and return its exit status."""
    options, rest = serve_parser().parse_known_args(arguments)
    launch = plan_server(rest, options)
    if not options.run:
        settings = " ".join(f"{name}={value}" for name, value in launch.environment.items())
        print(f"{settings} {shlex.join(launch.command)}")
        return 0
    if installed_vllm() is None:
        raise UserError("vLLM is not installed here: run the printed command (without --run) where it is.")
    return subprocess.call(launch.command, env=os.environ | launch.environment)


def plan_server(arguments: Sequence[str], options: argparse.Namespace) -> ServerLaunch:
    """Return what a server for the arguments of a `fit` is started with. Raises `UserError`."""
    sys.argv[1:] = ["fit", *arguments]
    cli = build(kind=PlanCLI)
    assert isinstance(cli, PlanCLI)
    policy, engine = cli.parts.model.policy_config, cli.parts.rollout.vllm
    longest = max(
        request.prompt_tokens + request.response_tokens for request in sampling_requests(cli.parts, num_ranks=1)
    )
    return ServerLaunch(
        model=resolve_model_path(policy.path),
        revision=policy.revision,
        context_length=min(longest, model_positions(policy) or longest),
        engine=engine,
        host=options.host,
        port=options.port,
        tensor_parallel=options.tensor_parallel,
        data_parallel=options.data_parallel,
        trust_remote_code=policy.trust_remote_code,
        transfer=cli.parts.rollout.server.transfer,
    )
