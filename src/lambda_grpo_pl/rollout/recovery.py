"""Calls of a sampler that survive its failures: it is restarted, tested again, and called again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import NamedTuple, TypeVar

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.sampling import (
    OnGroup,
    Recovery,
    RememberedLogprobs,
    RestartableSampler,
    Sampler,
    SamplerProcess,
    SamplingCall,
    SamplingSettings,
    ServerSampler,
    SyncProbe,
    UsualGap,
    check_shapes,
    check_sync,
)

Result = TypeVar("Result")


class SelfTest(NamedTuple):
    """Checks that a sampler has the policy's weights: the policy scores once, the sampler as often as needed."""

    probe: SyncProbe
    policy_logprobs: RememberedLogprobs
    usual: UsualGap

    def run(self, sampler: Sampler) -> float:
        """Return the largest gap (nats) of the sampler's engines. Raises `SyncError` as `check_sync` does."""
        gaps = []
        for engine in sampler.engines if isinstance(sampler, ServerSampler) else [sampler]:
            self.policy_logprobs.rewind()
            gaps.append(check_sync(engine, self.policy_logprobs, *self.probe, self.usual))
        return max(gaps)


class RecoveredCalls:
    """Calls that are repeated after a failure, which changes no sample (`SamplingCall`).

    A sampler that computes with the policy itself has nothing to restart: its errors are raised unchanged, and values
    that are not finite come from the policy.

    Attributes:
        recovery: How often a sampler that fails is restarted, and how often it was.
        sampler: What samples; None before the start and after the end.
        self_test: The test of the sampler's present weights, repeated after a restart.
    """

    def __init__(self, recovery: Recovery, pad_token_id: int, sampler: Sampler | None) -> None:
        """Call `sampler`, or the one that is set later."""
        self.recovery, self.sampler = recovery, sampler
        self.self_test: SelfTest | None = None
        self._pad_token_id = pad_token_id
        self._ahead: Future[Completions] | None = None

    @property
    def started(self) -> Sampler:
        """The sampler, after the first sync."""
        assert self.sampler is not None, "sync first"
        return self.sampler

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Sample as `Sampler.generate` describes.

        Raises:
            UserError: If the engine failed more often than `rollout.recovery.max_restarts` allows.
        """
        self.settle()
        if not isinstance(self.started, RestartableSampler):
            completions = self.started.generate(prompts, settings, seed, on_group)
            check_shapes(completions, len(prompts.lengths) * settings.num_samples, settings.max_tokens)
            return completions
        call = SamplingCall(len(prompts.lengths), settings, self._pad_token_id, on_group)
        return self.run(lambda: call.finish(self.started.generate(prompts, settings, seed, call.hear)), call)

    def begin(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Future[Completions]:
        """Begin to sample in a separate process, as `SamplerProcess.begin` describes. The future raises `UserError`."""
        self.settle()
        process = self.started
        assert isinstance(process, SamplerProcess), "set sampler.placement before the first sync"
        call = SamplingCall(len(prompts.lengths), settings, self._pad_token_id, on_group)
        begun = [process.begin(prompts, settings, seed, call.hear)]

        def collect() -> Completions:
            future = begun.pop() if begun else process.begin(prompts, settings, seed, call.hear)
            return call.finish(future.result())

        self._ahead = _run_in_background(lambda: self.run(collect, call))
        return self._ahead

    def settle(self) -> None:
        """Wait for a call that was begun, which may have to be repeated with the present sampler and weights."""
        if self._ahead is not None:
            wait([self._ahead])
            self._ahead = None

    def run(self, attempt: Callable[[], Result], call: SamplingCall | None = None) -> Result:
        """Return what `attempt` returns, repeated after restarts (`Recovery.run`). Raises what the listener raises."""

        def restart() -> None:
            sampler = self.started
            assert isinstance(sampler, RestartableSampler)
            if call is not None:
                call.keep()
            sampler.restart()
            if self.self_test is not None:
                self.self_test.run(sampler)

        def is_fault(error: Exception) -> bool:
            is_listeners = call is not None and error is call.listener_error
            return isinstance(self.sampler, RestartableSampler) and not is_listeners  # there is none after the end

        return self.recovery.run(attempt, restart, is_fault)


def _run_in_background(work: Callable[[], Result]) -> Future[Result]:
    """Return the future result of `work`, which runs in a thread that does not keep the process alive."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised again by whoever asks for the result
            future.set_exception(error)

    threading.Thread(target=run, name="sample-ahead", daemon=True).start()
    return future
