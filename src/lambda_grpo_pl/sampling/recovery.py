"""What happens when an engine dies, hangs, runs out of memory or returns invalid responses: `rollout.recovery`.

The engine is restarted with the weights that it had, passes the same self-test, and samples again with the same seed.
Samples are a function of weights, prompts and seed, so a failure does not change what the run trains on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lambda_grpo_pl.batch import Completions
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.completions import InvalidSampleError, check_completions, join_groups
from lambda_grpo_pl.sampling.protocol import OnGroup
from lambda_grpo_pl.sampling.selftest import SyncError
from lambda_grpo_pl.sampling_settings import SamplingSettings

log = logging.getLogger(__name__)

MAX_BACKOFF_S = 30.0
Result = TypeVar("Result")


@dataclass(kw_only=True)
class RecoverySettings:
    """How a run handles a sampler that fails. Servers have separate settings (`rollout.server`)."""

    max_restarts: int = 3
    """Restarts in a row of vLLM, or of a sampler in a separate process, after which the next failure ends the run."""
    timeout_s: float = 3600.0
    """Seconds without a finished group after which a sampler in a separate process counts as hanging and is killed.
    Set it above the time that the longest response takes."""
    backoff_s: float = 1.0
    """Seconds before the first restart. Each further one in a row waits twice as long, up to 30 seconds."""

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise UserError(f"rollout.recovery.max_restarts is {self.max_restarts}: set it to 0 or more.")
        if not self.timeout_s > 0:
            raise UserError(f"rollout.recovery.timeout_s is {self.timeout_s}: set it to a positive number of seconds.")
        if not self.backoff_s >= 0:
            raise UserError(f"rollout.recovery.backoff_s is {self.backoff_s}: set it to 0 seconds or more.")


def backoff_seconds(attempt: int, first_s: float = 1.0) -> float:
    """Return how long to wait before the repetition of that number, counted from 1: 1, 2, 4, … times `first_s`."""
    return min(first_s * 2.0 ** (attempt - 1), MAX_BACKOFF_S)


class Recovery:
    """Repeats calls that an engine did not complete.

    Attributes:
        num_restarts: How many restarts there were so far.
    """

    def __init__(self, settings: RecoverySettings) -> None:
        """Keep the settings."""
        self.settings = settings
        self.num_restarts = 0

    def run(
        self, attempt: Callable[[], Result], restart: Callable[[], None], is_fault: Callable[[Exception], bool]
    ) -> Result:
        """Return what `attempt` returns, after as many restarts as the settings allow.

        Args:
            attempt: The call to the engine.
            restart: Called before each repetition. If it fails, that counts as a failure too.
            is_fault: Whether the engine caused an exception; others are raised.

        Raises:
            UserError: If the engine failed once more than the settings allow.
            SyncError: If the engine does not have the policy's weights.
        """
        num_failures = 0
        while True:
            try:
                if num_failures:
                    self.num_restarts += 1
                    restart()
                return attempt()
            except (UserError, SyncError):
                raise
            except Exception as error:  # engines raise anything
                if not is_fault(error):
                    raise
                num_failures += 1
                self._wait(num_failures, error)

    def _wait(self, num_failures: int, error: Exception) -> None:
        """Wait before the next restart. Raises `UserError` after the last one."""
        reason = f"{type(error).__name__}: {error}".rstrip(".: ")
        if num_failures > self.settings.max_restarts:
            raise UserError(
                f"The sampler failed {num_failures} times in a row, the last time with {reason}. Fix the cause and "
                "continue this run with --resume, or raise rollout.recovery.max_restarts if the cause is temporary."
            ) from error
        seconds = backoff_seconds(num_failures, self.settings.backoff_s)
        log.warning("The sampler failed: %s. Restarting it in %g s with the same weights.", reason, seconds)
        time.sleep(seconds)


class SamplingCall:
    """One call of `Sampler.generate` over all its attempts: each group reaches the listener once.

    A group that ended before the engine failed is kept, since rewards may have judged it. The others come from the
    repetition, which samples the whole call with the same seed: the rounding of a row depends on the other rows of its
    batch, so only the whole batch gives the same samples as without the failure.

    Attributes:
        listener_error: What the listener raised, which the engine did not cause.
    """

    def __init__(
        self, num_prompts: int, settings: SamplingSettings, pad_token_id: int, on_group: OnGroup | None
    ) -> None:
        """Describe a call for G responses to each of B prompts."""
        self._num_prompts, self._settings, self._pad_token_id = num_prompts, settings, pad_token_id
        self._on_group = on_group
        self._heard: dict[int, Completions] = {}
        self._kept: dict[int, Completions] = {}
        self.listener_error: Exception | None = None

    def hear(self, number: int, group: Completions) -> None:
        """Take a group that has ended: an `OnGroup`. Raises `InvalidSampleError`, and what the listener raises."""
        if number in self._heard:
            return
        if not 0 <= number < self._num_prompts:
            raise InvalidSampleError(f"The sampler returned group {number} of {self._num_prompts}.")
        check_completions(group, self._settings.num_samples, self._settings.max_tokens)
        self._heard[number] = group
        if self._on_group is not None:
            try:
                self._on_group(number, group)
            except Exception as error:
                self.listener_error = error
                raise

    def keep(self) -> None:
        """Keep the groups that have ended so far; called before the call is repeated."""
        self._kept = dict(self._heard)

    def finish(self, completions: Completions) -> Completions:
        """Return the completions of the call, of which some groups may be from an earlier attempt.

        Raises `InvalidSampleError`.
        """
        size = self._settings.num_samples
        check_completions(completions, self._num_prompts * size, self._settings.max_tokens)
        if not self._kept:
            return completions
        device = completions.ids.device
        groups = [
            Completions(*(field.to(device) for field in self._kept[number]))
            if number in self._kept
            else Completions(*(field[number * size : (number + 1) * size] for field in completions))
            for number in range(self._num_prompts)
        ]
        return join_groups(groups, self._pad_token_id)
