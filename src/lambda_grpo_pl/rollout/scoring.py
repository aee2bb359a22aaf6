"""From sampled tokens to scores, each group as soon as it has ended: the same in training and in evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.rewards import JudgingAhead, PoolConfig, RewardSpec, RewardSuite, SuiteScores
from lambda_grpo_pl.rollout.responses import Responses, Tokenizer, join_responses, read_responses


class ResponseScoring:
    """Reads and scores the responses to one batch of prompts; each response is decoded once.

    If the sampler calls `take_group`, verifiers judge a group as soon as it has ended, while later groups are still
    being sampled, and `score` waits only for the rest. Otherwise `read` and `score` do all the work. The scores are
    the same.
    """

    def __init__(self, suite: RewardSuite, tokenizer: Tokenizer, stops: Sequence[str], prompts: Prompts) -> None:
        """Score with `suite`; `stops` are the strings that end a response."""
        self._suite, self._tokenizer, self._stops, self._prompts = suite, tokenizer, stops, prompts
        self._groups: dict[int, Responses] = {}
        self._ahead = JudgingAhead(suite)
        self._responses: Responses | None = None

    def take_group(self, number: int, group: Completions) -> None:
        """Read the responses to prompt `number` and have them judged: an `OnGroup`."""
        responses = self._groups[number] = read_responses(self._tokenizer, group, self._stops)
        size = len(responses.texts)
        examples = [self._prompts.examples[number]] * size
        self._ahead.add(number * size, responses.texts, examples, responses.lengths, responses.truncated)

    def read(self, completions: Completions) -> Responses:
        """Return the N responses in the order of the rows; `completions` holds all groups, those taken included."""
        if self._responses is None:
            if self._groups:
                self._responses = join_responses([self._groups[number] for number in sorted(self._groups)])
            else:
                self._responses = read_responses(self._tokenizer, completions, self._stops)
        return self._responses

    def score(self, completions: Completions) -> SuiteScores:
        """Return the scores of the N responses in the order of the rows. Raises what a reward function raised."""
        responses = self.read(completions)
        judged = self._ahead.finish() if self._groups else None
        size = len(responses.texts) // len(self._prompts.examples)
        examples = [example for example in self._prompts.examples for _ in range(size)]
        return self._suite.score(responses.texts, examples, responses.lengths, responses.truncated, judged, size)


class RewardSuites:
    """The training rewards, and one suite for each other list of rewards; equal lists share their processes."""

    def __init__(self, training: RewardSuite, pool: PoolConfig) -> None:
        """Keep the training rewards; the others are built when needed, with the settings `pool` for their workers."""
        self.training = training
        self._pool = pool
        self._others: dict[str, RewardSuite] = {}

    def divide(self, num_ranks: int) -> None:
        """Let the workers of `num_ranks` ranks of this machine share its cores; call it before anything is scored."""
        self._pool = self._pool.divide(num_ranks)
        for suite in (self.training, *self._others.values()):
            suite.use_pool(self._pool)

    def find(self, specs: Sequence[RewardSpec]) -> RewardSuite:
        """Return the suite of these rewards; an empty list means the training rewards."""
        if not specs:
            return self.training
        return self._others.setdefault(repr(list(specs)), RewardSuite(specs, self._pool))

    def close(self) -> None:
        """Stop all verifier processes; they start again when needed."""
        for suite in (self.training, *self._others.values()):
            suite.close()
        self._others.clear()
