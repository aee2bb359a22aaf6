"""A run without a model: a policy that is one number, and samplers whose answers are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.rewards import PoolConfig, RewardSpec, RewardSuite
from lambda_grpo_pl.rollout.engine import RolloutEngine
from lambda_grpo_pl.rollout.policy_sampler import PolicySampler
from lambda_grpo_pl.rollout.run_context import RunContext
from lambda_grpo_pl.rollout.scoring import RewardSuites
from lambda_grpo_pl.sampling import OnGroup, RecoverySettings, SamplerProcess, SamplingSettings, SyncReport

TOKENIZER = character_tokenizer()


def encode(*texts: str, truncated: bool = True) -> Completions:
    """Texts as completions, without an end-of-sequence token."""
    rows = [TOKENIZER(text)["input_ids"] for text in texts]
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for row, target in zip(rows, ids, strict=True):
        target[: len(row)] = torch.tensor(row)
    return Completions(ids, lengths, torch.full((len(rows),), truncated), torch.zeros(ids.shape))


def make_prompts(*answers: str) -> Prompts:
    """One prompt for each gold answer."""
    lengths = torch.ones(len(answers), dtype=torch.long)
    return Prompts(lengths[:, None], lengths, tuple({"answer": answer} for answer in answers))


def is_gold(completion: str, example: Mapping[str, Any]) -> bool:
    """A reward: the response is the answer, character for character."""
    return completion == example["answer"]


class ScriptedSampler:
    """Gives the texts it is made with, whatever the prompts; groups end last first."""

    def __init__(self, *texts: str, tells: bool = True) -> None:
        self.texts, self.tells = texts, tells
        self.weight = float("nan")
        self.calls: list[tuple[SamplingSettings, int]] = []
        self.num_syncs = self.num_sleeps = 0
        self.is_closed = False
        self.last_sync: SyncReport | None = None

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        self.calls.append((settings, seed))
        completions = encode(*self.texts)
        size = len(self.texts) // len(prompts.examples)
        for number in reversed(range(len(prompts.examples)) if on_group and self.tells else ()):
            on_group(number, Completions(*(field[number * size : (number + 1) * size] for field in completions)))
        return completions

    def sync(self, policy: nn.Module) -> SyncReport:
        self.weight = float(policy.weight.detach())
        self.num_syncs += 1
        self.last_sync = SyncReport(0.0, 4, ("weight",), ())
        return self.last_sync

    def probe(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[self.weight] * (len(row) - 1) for row in token_ids]

    def sleep(self) -> None:
        self.num_sleeps += 1

    def close(self) -> None:
        self.is_closed = True


class InstantProcess(ScriptedSampler, SamplerProcess):
    """Answers at once what it is asked to begin."""

    def begin(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Future[Completions]:
        future: Future[Completions] = Future()
        future.set_result(self.generate(prompts, settings, seed, on_group))
        return future


class OneWeight:
    """A policy whose every log-probability is its only weight, plus `gap`."""

    def __init__(self, weight: float = -1.0, eos: Any = None) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.model.weight, weight)
        self.causal_lm = SimpleNamespace(config=None, generation_config=SimpleNamespace(eos_token_id=eos))
        self.gap = 0.0

    def sequence_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[float(self.model.weight.detach()) + self.gap] * (len(row) - 1) for row in sequences]


def make_engine(
    sampler: ScriptedSampler,
    *,
    stops: tuple[str, ...] = (),
    synced: bool = True,
    name: str = f"{__name__}.is_gold",
    recovery: RecoverySettings = RecoverySettings(),
) -> RolloutEngine:
    """An engine that samples two responses to each prompt and judges them with one reward."""
    pool = PoolConfig(num_workers=1)
    run = RunContext(tokenizer=TOKENIZER, stops=stops, seed=3, rank=1, sync_tolerance=1e-3)
    suites = RewardSuites(RewardSuite([RewardSpec(name=name)], pool), pool)
    settings = SamplingSettings(num_samples=2, max_tokens=16)
    engine = RolloutEngine(
        run, settings, suites, PolicySampler(run, "transformers", sampler=sampler, recovery=recovery)
    )  # type: ignore[arg-type]
    if synced:
        engine.sync(OneWeight(), version=0)
    return engine
