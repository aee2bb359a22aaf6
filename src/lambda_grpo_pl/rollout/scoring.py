"""From sampled tokens to scores, response groups that have ended first: training and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.rewards import JudgingAhead, RewardSuite, SuiteScores
from lambda_grpo_pl.rollout.responses import Responses, join_responses, read_responses


class ResponseScoring:
    """Reads and scores the responses to a batch of prompts.

    Where the sampler is given `hear`, verifiers judge a group as soon as it has ended, while later ones are still being
    sampled; `finish` then waits only for what is left. Without it, `finish` does everything. The scores are the same.
    """

    def __init__(self, suite: RewardSuite, tokenizer: Any, stops: Sequence[str], prompts: Prompts) -> None:
        """Score with `suite`; `stops` are the strings that end a response."""
        self._suite, self._tokenizer, self._stops, self._prompts = suite, tokenizer, stops, prompts
        self._heard: dict[int, Responses] = {}
        self._ahead = JudgingAhead(suite)

    def hear(self, number: int, group: Completions) -> None:
        """Take the responses to prompt `number`: an `OnGroup`."""
        responses = self._heard[number] = read_responses(self._tokenizer, group, self._stops)
        size = len(responses.texts)
        self._ahead.add(number * size, responses.texts, [self._prompts.examples[number]] * size, *responses[1:])

    def finish(self, completions: Completions) -> tuple[Responses, SuiteScores]:
        """Return the N responses and their scores, in the order of the rows."""
        judged = self._ahead.finish() if self._heard else None
        if judged is None:
            responses = read_responses(self._tokenizer, completions, self._stops)
        else:
            responses = join_responses([self._heard[number] for number in sorted(self._heard)])
        size = len(responses.texts) // len(self._prompts.examples)
        examples = [example for example in self._prompts.examples for _ in range(size)]
        return responses, self._suite.score(responses.texts, examples, *responses[1:], judged)
