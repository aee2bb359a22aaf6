"""Rollouts as a service: sync the sampler with the policy, sample, read the responses, score them.

Everything that a rollout needs and a training framework does not know. Callbacks decide when; this class does the work,
without a trainer. What is sampled is a pure function of (weights, prompts, settings, seed, key, rank), so a resumed run
samples what the interrupted run would have sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from lambda_grpo_pl.batch import Completions, Prompts, RolloutBatch
from lambda_grpo_pl.rewards import RewardSpec, SuiteScores
from lambda_grpo_pl.rollout.policy_sampler import PolicySampler
from lambda_grpo_pl.rollout.responses import Responses, apply_stops, as_rewards, read_responses, with_stops
from lambda_grpo_pl.rollout.run_context import Key, RunContext, SampledPolicy, sampling_seed, train_key
from lambda_grpo_pl.rollout.scoring import ResponseScoring, RewardSuites
from lambda_grpo_pl.sampling import SamplingSettings


class RolloutAhead(NamedTuple):
    """A rollout that was begun before its step."""

    completions: Future[Completions]
    """On the CPU, as they were sampled."""
    version: int
    """Version of the weights they were sampled with."""


class ScoredResponses(NamedTuple):
    """N responses in three forms, in prompt-major order."""

    completions: Completions
    """As tokens, ended where the stop strings say."""
    responses: Responses
    """As text."""
    scores: SuiteScores
    """What they earned."""


class RolloutEngine:
    """Samples and scores rollouts with the weights of the last sync.

    Example:
        >>> engine.sync(policy, version=0)
        >>> batch = engine.roll_out(prompts, ("train", 0))
        >>> batch.rewards.total  # [B·G]

    Attributes:
        run: Tokenizer, stop strings, seed, rank and tolerance.
        sampling: How training samples.
        suites: The reward functions.
        sampler: The sampler and the weights that it has.
    """

    def __init__(
        self, run: RunContext, sampling: SamplingSettings, suites: RewardSuites, sampler: PolicySampler
    ) -> None:
        """Keep what it is told; nothing starts before the first `sync`."""
        self.run, self.sampling, self.suites, self.sampler = run, sampling, suites, sampler
        self._ahead: dict[int, RolloutAhead] = {}
        self._unscored: dict[Key, ResponseScoring] = {}

    def sync(self, policy: SampledPolicy, version: int) -> float | None:
        """Give the sampler the policy's weights if they changed, as `PolicySampler.sync` describes."""
        return self.sampler.sync(policy, version)

    # ------------------------------------------------------------------------------------------------ sampling

    def seed(self, key: Key) -> int:
        """Return the sampling seed of an occasion on this rank."""
        return sampling_seed(self.run.seed, key, self.run.rank)

    def sample(self, prompts: Prompts, key: Key) -> Completions:
        """Sample with `sampling`, ended at the training prompts' stop strings; nothing is judged."""
        completions = self.sampler.calls.generate(prompts, self._settings(), self.seed(key))
        if not self.run.stops:
            return completions
        return apply_stops(completions, read_responses(self.run.tokenizer, completions, self.run.stops))

    def sample_training(self, prompts: Prompts, key: Key) -> Completions:
        """Sample as `sample` does, and let the rewards judge each group as soon as it has ended.

        `score` with the same key collects the verdicts.
        """
        scoring = self._unscored[key] = self._scoring(prompts)
        completions = self.sampler.calls.generate(prompts, self._settings(), self.seed(key), scoring.take_group)
        return apply_stops(completions, scoring.read(completions))

    def sample_batch(self, batch: RolloutBatch) -> int:
        """Write a training batch's `completions`: wait for those that were begun, else sample them now.

        Returns the version of the weights that sampled them. Completions that were begun are on the CPU.
        """
        begun = self._ahead.pop(batch.index, None)
        key = train_key(batch.index)
        if begun is None:
            batch.completions = self.sample_training(batch.prompts, key)
            return self.sampler.version
        completions = begun.completions.result()
        scoring = self._unscored.setdefault(key, self._scoring(batch.prompts))
        batch.completions = apply_stops(completions, scoring.read(completions))
        return begun.version

    def begin(self, batch: RolloutBatch) -> RolloutAhead:
        """Begin to sample a later training batch with the weights of the last sync, for `sample_batch`."""
        key = train_key(batch.index)
        scoring = self._unscored[key] = self._scoring(batch.prompts)
        future = self.sampler.calls.begin(batch.prompts, self._settings(), self.seed(key), scoring.take_group)
        self._ahead[batch.index] = RolloutAhead(future, self.sampler.version)
        return self._ahead[batch.index]

    def has_begun(self, index: int) -> bool:
        """Whether training batch `index` was begun and has not been used yet."""
        return index in self._ahead

    def restore_ahead(self, begun: Mapping[int, RolloutAhead]) -> None:
        """Take over rollouts that an interrupted run had begun, by the index of their batch."""
        self._ahead = dict(begun)

    # ------------------------------------------------------------------------------------------------ scoring

    def score(self, batch: RolloutBatch, key: Key) -> SuiteScores:
        """Write `batch.rewards` and return the verdicts behind them, those included that were reached while sampling.

        `batch.completions` may also come from elsewhere: they are then read and judged here.
        """
        completions = batch.sampled()
        scoring = self._unscored.pop(key, None) or self._scoring(batch.prompts)
        scores = scoring.score(completions)
        batch.rewards = as_rewards(scores, completions.ids.device)
        return scores

    def roll_out(self, prompts: Prompts, key: Key) -> RolloutBatch:
        """Return a batch of these prompts, sampled and scored like a training batch."""
        batch = RolloutBatch(prompts)
        batch.completions = self.sample_training(prompts, key)
        self.score(batch, key)
        return batch

    def answer(
        self,
        prompts: Prompts,
        key: Key,
        sampling: SamplingSettings,
        stops: Sequence[str],
        rewards: Sequence[RewardSpec],
    ) -> ScoredResponses:
        """Sample and score with other settings than training: an evaluation's.

        Args:
            prompts: B prompts.
            key: Names the occasion.
            sampling: How responses are drawn; `num_samples` = G.
            stops: Strings that end a response.
            rewards: What scores the responses; empty for the training rewards.
        """
        tokenizer = self.run.tokenizer
        scoring = ResponseScoring(self.suites.find(rewards), tokenizer, stops, prompts)
        settings = with_stops(sampling, tokenizer, stops)
        completions = self.sampler.calls.generate(prompts, settings, self.seed(key), scoring.take_group)
        responses = scoring.read(completions)
        return ScoredResponses(apply_stops(completions, responses), responses, scoring.score(completions))

    def close(self) -> None:
        """Free the sampler and stop the verifier processes; what was begun ahead is lost."""
        self.sampler.close()
        self._ahead.clear()
        self._unscored.clear()
        self.suites.close()

    # ------------------------------------------------------------------------------------------------ parts

    def _settings(self) -> SamplingSettings:
        return with_stops(self.sampling, self.run.tokenizer, self.run.stops)

    def _scoring(self, prompts: Prompts) -> ResponseScoring:
        return ResponseScoring(self.suites.training, self.run.tokenizer, self.run.stops, prompts)
