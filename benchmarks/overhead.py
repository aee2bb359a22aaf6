"""What each method and each rule for λ costs against GRPO: time, peak memory, parameters.

    python benchmarks/overhead.py [--pairs 160] [--other-pairs 6] [--threads 2]
    python benchmarks/overhead.py --model builtin:smollm2-135m --pairs 16 --other-pairs 6 --threads 1

One trainer, one policy, fixed scored rollouts of 16 prompts × 8, with `--model` of 4 × 8 and the methods of `REAL`;
nothing is sampled, so that a step is the update alone. Before each step the length preference (and what else the method
changes) is swapped in. A pair is a step of GRPO and one of the method, in alternating order; the ratio's 95 % interval
is the bootstrap's over the median of the pairs. `GRPO again` is GRPO against itself: the machine's noise. Peak memory
is the largest sum of what torch's allocator holds during a step beyond its start.

The `validation` rule is timed on the updates at which it runs: a held-out rollout, old log-probabilities, and two
passes more for each finite difference that is tried. It runs every K updates, so that its cost is this excess over K.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from report import table, write
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoConfig
from workload import GROUP_SIZE, MAX_TOKENS, make_trainer, quiet, save_model, scored_rollout

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.builtin.models import resolve_model_path
from lambda_grpo_pl.objective import AdvantageConfig, CorrelationConfig, LengthPreference, PreferenceConfig
from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig
from lambda_grpo_pl.training.module import LambdaGRPO

GOAL = (0.99, 1.01)
"""The interval of λ-GRPO's time over GRPO's should lie in it."""


@dataclass
class Method:
    """What is swapped in for a step."""

    preference: PreferenceConfig
    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    heldout: bool = False


METHODS = {
    "GRPO": Method(PreferenceConfig(family="grpo", learn="fixed")),
    "λ-GRPO": Method(PreferenceConfig()),
    "GRPO again": Method(PreferenceConfig(family="grpo", learn="fixed")),
    "DAPO token mean": Method(PreferenceConfig(family="uniform", learn="fixed")),
    "Dr. GRPO": Method(
        PreferenceConfig(family="dr_grpo", learn="fixed", max_length=MAX_TOKENS), AdvantageConfig(scale="none")
    ),
    "ΔL": Method(PreferenceConfig(family="delta_l", learn="fixed")),
    "λ fixed": Method(PreferenceConfig(learn="fixed")),
    "λ linear": Method(PreferenceConfig(family="linear")),
    "λ relative power": Method(PreferenceConfig(family="relative_power")),
    "λ contextual": Method(PreferenceConfig(contextual=True)),
    "λ by correlation": Method(PreferenceConfig(family="batch_power", learn="correlation")),
    "λ by correlation, balanced": Method(
        PreferenceConfig(family="balanced_power", learn="correlation", correlation=CorrelationConfig(low=-0.75))
    ),
    "λ with min_ess": Method(PreferenceConfig(min_ess=0.5)),
    "λ validation": Method(PreferenceConfig(learn="validation"), heldout=True),
}
OFTEN = ("λ-GRPO", "GRPO again")
"""What takes `--pairs` pairs; the others take `--other-pairs`."""
REAL = ("GRPO", *OFTEN, "λ by correlation", "λ by correlation, balanced", "λ validation")
"""What `--model` compares: a step takes seconds there, and the other families differ in arithmetic on lengths alone."""


@dataclass(frozen=True)
class Rollouts(IterableDataset[RolloutBatch]):
    """The same scored rollout for ever, of random tokens."""

    prompts: int
    settled_groups: int
    heldout_prompts: int
    prompt_tokens: int
    vocabulary: int
    group_size: int = GROUP_SIZE
    max_response_tokens: int = MAX_TOKENS

    def __iter__(self) -> Iterator[RolloutBatch]:
        while True:
            batch = self._draw(self.prompts, self.settled_groups)
            batch.heldout = self._draw(self.heldout_prompts, 0)
            yield batch

    def _draw(self, num_prompts: int, num_settled: int) -> RolloutBatch:
        sizes = (num_prompts, self.group_size, self.prompt_tokens, self.max_response_tokens)
        return scored_rollout(*sizes, vocabulary=self.vocabulary, num_settled=num_settled)


class Alternating(LambdaGRPO):
    """Takes each step with the next method of a schedule and notes what it cost."""

    def __init__(self, policy: PolicyConfig, schedule: list[str]) -> None:
        super().__init__(policy, optimizer=OptimizerConfig(lr=1e-9), max_response_tokens=MAX_TOKENS)
        self.schedule = iter(schedule)
        self.preferences = {name: LengthPreference(method.preference) for name, method in METHODS.items()}
        self.seconds: dict[str, list[float]] = {name: [] for name in METHODS}
        self.peaks: dict[str, int] = {}

    def training_step(self, batch: RolloutBatch, batch_idx: int) -> Any:
        name = next(self.schedule)
        method, self.preference = METHODS[name], self.preferences[name]
        self.objective = ObjectiveConfig(advantage=method.advantage)
        self.optimizers()[1].optimizer.param_groups[0]["params"] = list(self.preference.parameters())  # type: ignore[index]
        if not method.heldout:
            batch.heldout = None
        if batch_idx == 0:  # makes the optimizer's state, which would be the first method's memory
            return super().training_step(batch, batch_idx)
        if name not in self.peaks:  # a method's first step warms up and is weighed instead of timed
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                output = super().training_step(batch, batch_idx)
            self.peaks[name] = peak_bytes(profiler)
            return output
        start = time.perf_counter()
        output = super().training_step(batch, batch_idx)
        self.seconds[name].append(time.perf_counter() - start)
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=160, help="Pairs of GRPO with λ-GRPO and with itself.")
    parser.add_argument("--other-pairs", type=int, default=6, help="Pairs with each other method.")
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    parser.add_argument("--model", help="Folder, hub id or builtin: name of a model; default: a random model.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quiet()
    methods = list(METHODS if arguments.model is None else REAL)
    pairs = make_schedule(methods, arguments.pairs, arguments.other_pairs)
    schedule = ["GRPO", *methods, *(name for pair in pairs for name in pair)]
    with tempfile.TemporaryDirectory() as name:
        path = str(save_model(Path(name))) if arguments.model is None else resolve_model_path(arguments.model)
        rollouts = make_rollouts(path, is_real=arguments.model is not None)
        module = run(path, rollouts, schedule)
    workload = {
        "model": arguments.model or "random",
        "parameters": sum(weight.numel() for weight in module.policy.parameters()),
        "dtype": "float32",
        **asdict(rollouts),
    }
    rows = {name: summarise(name, module, pairs) for name in methods if name != "GRPO"}
    show(workload, rows)
    result = {"against": "GRPO", "workload": workload, "rows": rows, "goal": GOAL, "settings": vars(arguments)}
    write("overhead" if arguments.model is None else "overhead_real", result)


def make_schedule(methods: list[str], num_pairs: int, num_other_pairs: int) -> list[tuple[str, str]]:
    """Pairs (first, second) in random order, GRPO first in every other pair of a method."""
    shuffled = random.Random(0)
    pairs = []
    for name in methods:
        count = 0 if name == "GRPO" else num_pairs if name in OFTEN else num_other_pairs
        pairs += [("GRPO", name) if number % 2 else (name, "GRPO") for number in range(count)]
    shuffled.shuffle(pairs)
    return pairs


def make_rollouts(path: str, is_real: bool) -> Rollouts:
    """A rollout as large as a step may be; a real model's prompts are as long as its word problems are (59 to 70)."""
    if is_real:
        vocabulary = AutoConfig.from_pretrained(path).vocab_size
        return Rollouts(prompts=4, settled_groups=0, heldout_prompts=1, prompt_tokens=62, vocabulary=vocabulary)
    return Rollouts(prompts=16, settled_groups=3, heldout_prompts=4, prompt_tokens=18, vocabulary=100)


def run(path: str, rollouts: Rollouts, schedule: list[str]) -> Alternating:
    """Train through the schedule."""
    module = Alternating(PolicyConfig(path=path, tokens_per_micro_batch=2048), schedule)
    make_trainer(len(schedule), []).fit(module, DataLoader(rollouts, batch_size=None))
    return module


def summarise(name: str, module: Alternating, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Time ratio with its interval, memory and parameters of one method against GRPO."""
    steps = {method: iter(seconds) for method, seconds in module.seconds.items()}
    ratios = []
    for pair in pairs:
        seconds = {method: next(steps[method]) for method in pair}
        if name in pair:
            ratios.append(seconds[name] / seconds["GRPO"])
    low, high = bootstrap_median(ratios)
    trained = sum(weight.numel() for weight in module.preferences[name].parameters() if weight.requires_grad)
    return {
        "pairs": len(ratios),
        "time_ratio": statistics.median(ratios),
        "time_interval": [low, high],
        "peak_bytes": module.peaks[name],
        "peak_bytes_over_grpo": module.peaks[name] - module.peaks["GRPO"],
        "parameters_over_grpo": trained,
        "ratios": ratios,
    }


def bootstrap_median(values: list[float], num_draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the median."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.tensor(values, dtype=torch.float64)
    medians = sample[torch.randint(len(values), (num_draws, len(values)), generator=generator)].quantile(0.5, dim=1)
    low, high = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def peak_bytes(profiler: profile) -> int:
    """Largest running sum of the allocator's events."""
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def show(workload: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """Print what was trained, and the table."""
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in workload.items()))
    cells = [
        [
            name,
            f"{row['time_ratio']:.3f}",
            "[{:.3f}, {:.3f}]".format(*row["time_interval"]),
            f"{row['peak_bytes'] / 2**20:.1f}",
            f"{row['peak_bytes_over_grpo'] / 2**20:+.3f}",
            f"{row['parameters_over_grpo']:+d}",
        ]
        for name, row in rows.items()
    ]
    table(["against GRPO", "time", "95 % interval", "peak MiB", "difference", "parameters"], cells)
    print(f"goal for λ-GRPO: interval within {GOAL}")


if __name__ == "__main__":
    main()
