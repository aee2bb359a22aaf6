"""What `lambda-grpo plan`, `serve` and `replay` take besides the arguments of `fit`.

Apart from the commands themselves, which import torch and Lightning, so that their `--help` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

PLAN_USAGE = """\
lambda-grpo plan --config FILE [--config FILE …] [--gpu NAME] [--num_gpus N] [--json] [--KEY VALUE …]

Shows what a run holds on each device while it samples, trains and steps, without loading weights; whether it fits a
GPU; the largest micro-batch that does; and what to change if it does not. It takes the configurations and arguments of
`lambda-grpo fit`."""
SERVE_USAGE = """\
lambda-grpo serve --config FILE [--config FILE …] [--port N] [--run] [--KEY VALUE …]

Prints the command of a vLLM server for `rollout.sampler: server`: the policy's model, the context length that data and
sampling need, and what training requires of log-probabilities. With --run it starts the server here. It takes the
configurations and arguments of `lambda-grpo fit`."""


def plan_parser() -> argparse.ArgumentParser:
    """Return the parser of `lambda-grpo plan`."""
    parser = argparse.ArgumentParser("lambda-grpo plan", usage=PLAN_USAGE, allow_abbrev=False)
    parser.add_argument("--gpu", default=None, help="GPU by name (h100, a100-80, l4, …) or by its memory in GiB.")
    parser.add_argument(
        "--num_gpus", type=int, default=None, help="GPUs per node, where trainer.devices leaves it open."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")
    return parser


def serve_parser() -> argparse.ArgumentParser:
    """Return the parser of `lambda-grpo serve`."""
    parser = argparse.ArgumentParser("lambda-grpo serve", usage=SERVE_USAGE, allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on: loopback, or a private network's.")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on.")
    parser.add_argument("--tensor_parallel", type=int, default=1, help="GPUs that a copy of the model is split over.")
    parser.add_argument("--data_parallel", type=int, default=1, help="Copies of the model behind this address.")
    parser.add_argument("--run", action="store_true", help="Start the server instead of printing its command.")
    return parser


def replay_parser() -> argparse.ArgumentParser:
    """Return the parser of `lambda-grpo replay`."""
    parser = argparse.ArgumentParser(
        prog="lambda-grpo replay",
        description="Learn again from the recorded rollouts of a run, and compare with what the run logged.",
        epilog="All further arguments are those of `lambda-grpo fit`. With any of them, another column shows what "
        "these settings would have done with the same responses: --model.preference.family grpo.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="Folder of the run: trainer.default_root_dir.")
    parser.add_argument("--step", type=int, help="Policy update, as in the column `update` of metrics.csv.")
    parser.add_argument("--to", type=int, help="Last update, to learn from several rollouts one after another.")
    parser.add_argument("--dump", action="store_true", help="Take the rollout from RUN/dumps, where a guard kept it.")
    parser.add_argument("--out", metavar="FILE", help="Also write all numbers with all digits to a CSV file.")
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "plan": plan_parser,
    "serve": serve_parser,
    "replay": replay_parser,
}
"""Command → its parser."""
