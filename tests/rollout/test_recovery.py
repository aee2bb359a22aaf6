"""A sampler that fails is started again and asked again: a failure changes no sample, and costs no verdict."""

import logging
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
import torch

from lambda_grpo_pl.batch import Completions, RolloutBatch
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rollout.engine import RolloutEngine
from lambda_grpo_pl.rollout.run_context import train_key
from lambda_grpo_pl.sampling import RecoverySettings, SamplerProcess, SyncError, TransformersSampler
from lambda_grpo_pl.sampling import recovery as policy_of_restarts
from tests.rollout.fakes import OneWeight, ScriptedSampler, encode, make_engine, make_prompts

TEXTS = ("4", "55", "666", "7")
PROMPTS = make_prompts("4", "7")


def first_of(group: Completions) -> Completions:
    """One response less than requested."""
    return Completions(*(field[:-1] for field in group))


def with_values(group: Completions, value: float) -> Completions:
    """One log-probability is `value`."""
    logprobs = group.logprobs.clone()
    logprobs[-1, 0] = value
    return group._replace(logprobs=logprobs)


def longer(group: Completions) -> Completions:
    """The lengths are those of other rows."""
    return group._replace(lengths=group.lengths + 20)


def empty(group: Completions) -> Completions:
    """A response without a token, not even the one that ends it."""
    return group._replace(lengths=group.lengths * 0)


def unequal(group: Completions) -> Completions:
    """A column of log-probabilities is missing."""
    return group._replace(logprobs=group.logprobs[:, 1:])


def negative(group: Completions) -> Completions:
    """Token ids that no vocabulary has."""
    return group._replace(ids=group.ids - 1000)


INVALID: dict[str, Callable[[Completions], Completions]] = {
    "a response too few": first_of,
    "NaN": lambda group: with_values(group, float("nan")),
    "infinite": lambda group: with_values(group, -float("inf")),
    "positive": lambda group: with_values(group, 0.5),
    "too long": longer,
    "empty": empty,
    "shapes differ": unequal,
    "negative ids": negative,
}
RAISED: dict[str, Exception] = {
    "engine died": RuntimeError("EngineCore encountered an issue"),
    "out of memory": torch.OutOfMemoryError("CUDA out of memory"),
    "assertion": AssertionError("block table"),
    "no words": KeyError(),
}


class FaultyEngine(ScriptedSampler):
    """Fails in its first calls, as planned; after a restart it needs its weights."""

    def __init__(self, *faults: str, texts: tuple[str, ...] = TEXTS, tells: bool = True, place: str = "generate"):
        super().__init__(*texts, tells=tells)
        self.faults, self.place = list(faults), place
        self.num_restarts = 0
        self.lost_weights = False
        self.restart_fails = 0

    def next_fault(self, place: str) -> str:
        return self.faults.pop(0) if self.faults and self.place == place else ""

    def generate(self, prompts, settings, seed, on_group=None):  # type: ignore[no-untyped-def]
        """The last group, which ends first, is there before anything fails."""
        fault = self.next_fault("generate")
        if fault in RAISED:
            if on_group is not None and self.tells:
                on_group(1, Completions(*(field[2:] for field in encode(*self.texts))))
            raise RAISED[fault]
        if fault in INVALID:
            if on_group is not None and self.tells:
                on_group(0, INVALID[fault](Completions(*(field[:2] for field in encode(*self.texts)))))
            self.calls.append((settings, seed))
            return INVALID[fault](encode(*self.texts))
        return super().generate(prompts, settings, seed, on_group)

    def sync(self, policy):  # type: ignore[no-untyped-def]
        report = super().sync(policy)
        if (fault := self.next_fault("sync")) in RAISED:
            raise RAISED[fault]
        return report

    def probe(self, token_ids):  # type: ignore[no-untyped-def]
        if (fault := self.next_fault("probe")) in RAISED:
            raise RAISED[fault]
        return super().probe(token_ids)

    def restart(self) -> None:
        self.num_restarts += 1
        if self.restart_fails:
            self.restart_fails -= 1
            raise RuntimeError("no memory is left")
        if self.lost_weights:
            self.weight = -7.0


class FaultyProcess(FaultyEngine, SamplerProcess):
    """The same, in the background."""

    def begin(self, prompts, settings, seed, on_group=None):  # type: ignore[no-untyped-def]
        future: Future[Completions] = Future()
        try:
            future.set_result(self.generate(prompts, settings, seed, on_group))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each wait before a restart."""
    seconds: list[float] = []
    monkeypatch.setattr(policy_of_restarts.time, "sleep", seconds.append)
    return seconds


def assert_same(ours: Completions, others: Completions) -> None:
    assert all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("fault", [*RAISED, *INVALID])
def test_what_failed_is_sampled_again_with_the_same_seed(
    fault: str, tells: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = FaultyEngine(fault, tells=tells)
    engine = make_engine(sampler)
    batch = RolloutBatch(PROMPTS, index=2)
    with caplog.at_level(logging.WARNING):
        engine.sample_batch(batch)
    assert_same(batch.sampled(), encode(*TEXTS))
    assert sampler.num_restarts == engine.sampler.calls.recovery.num_restarts == 1
    assert {seed for _, seed in sampler.calls} == {engine.seed(train_key(2))}
    assert engine.score(batch, train_key(2)).totals == [1.0, 0.0, 0.0, 1.0]
    assert "The sampler failed" in caplog.text
    assert "with the same weights" in caplog.text


def test_a_group_that_had_ended_is_heard_once_and_stays_as_it_was() -> None:
    """The repetition would give another first group here; the second was judged already."""

    class Changing(FaultyEngine):
        def restart(self) -> None:
            super().restart()
            self.texts = ("9", "9", "9", "9")

    engine, heard = make_engine(Changing("engine died")), []
    completions = engine.sampler.calls.generate(
        PROMPTS, engine.sampling, 0, lambda number, group: heard.append((number, group.lengths.tolist()))
    )
    assert heard == [(1, [3, 1]), (0, [1, 1])]
    assert_same(completions, encode("9", "9", "666", "7"))


def test_waits_grow_and_the_bound_is_one_sentence(waited: list[float]) -> None:
    sampler = FaultyEngine(*["out of memory"] * 9)
    engine = make_engine(sampler, recovery=RecoverySettings(max_restarts=3, backoff_s=2.0))
    with pytest.raises(UserError, match=r"failed 4 times in a row.*OutOfMemoryError: CUDA out of memory") as caught:
        engine.sample_batch(RolloutBatch(PROMPTS))
    assert re.search(r"continue this run with --resume.*rollout\.recovery\.max_restarts", str(caught.value))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert waited == [2.0, 4.0, 8.0]
    assert sampler.num_restarts == 3


def test_the_bound_counts_failures_in_a_row() -> None:
    """Each rollout may fail: what ended well begins the count again."""
    sampler = FaultyEngine(*["engine died", ""] * 5)
    engine = make_engine(sampler, recovery=RecoverySettings(max_restarts=1))
    for index in range(5):
        engine.sample_batch(RolloutBatch(PROMPTS, index=index))
    assert engine.sampler.calls.recovery.num_restarts == 5


def test_no_wait_is_longer_than_half_a_minute(waited: list[float]) -> None:
    engine = make_engine(FaultyEngine(*["engine died"] * 8), recovery=RecoverySettings(max_restarts=8))
    engine.sample_batch(RolloutBatch(PROMPTS))
    assert waited == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_restart_that_fails_is_a_failure_too() -> None:
    sampler = FaultyEngine("engine died")
    sampler.restart_fails = 2
    engine = make_engine(sampler, recovery=RecoverySettings(max_restarts=3))
    assert_same(engine.sample(PROMPTS, train_key(0)), encode(*TEXTS))
    assert sampler.num_restarts == 3
    sampler.faults, sampler.restart_fails = ["engine died"], 3
    with pytest.raises(UserError, match="no memory is left"):
        engine.sample(PROMPTS, train_key(1))


def test_a_restarted_engine_without_the_weights_ends_the_run() -> None:
    """The policy may have moved on by then, so its answers are those of the last sync."""
    sampler, policy = FaultyEngine("engine died"), OneWeight()
    engine = make_engine(sampler, synced=False)
    engine.sync(policy, version=0)
    torch.nn.init.constant_(policy.model.weight, -3.0)
    assert_same(engine.sample(PROMPTS, train_key(0)), encode(*TEXTS))
    sampler.faults, sampler.lost_weights = ["engine died"], True
    with pytest.raises(SyncError, match="differ from the policy's by 6"):
        engine.sample(PROMPTS, train_key(0))


@pytest.mark.parametrize("place", ["sync", "probe"])
def test_a_failure_while_weights_are_handed_over(place: str) -> None:
    """The policy, which all ranks ask together, is asked once."""
    sampler, policy = FaultyEngine("engine died", "engine died", place=place), OneWeight()
    asked = []
    answer = policy.sequence_logprobs
    policy.sequence_logprobs = lambda sequences: asked.append(1) or answer(sequences)  # type: ignore[method-assign, func-returns-value]
    engine = make_engine(sampler, synced=False)
    assert engine.sync(policy, version=0) == 0.0
    assert (sampler.num_syncs, len(asked)) == (1, 1)
    assert sampler.num_restarts == (1 if place == "sync" else 2)
    assert engine.sampler.version == 0


def test_what_the_user_has_to_change_is_not_repeated() -> None:
    class Refusing(FaultyEngine):
        def generate(self, *_arguments: object) -> Completions:  # type: ignore[override]
            raise UserError("The longest prompt does not fit.")

    sampler = Refusing()
    with pytest.raises(UserError, match="does not fit"):
        make_engine(sampler).sample(PROMPTS, train_key(0))
    assert sampler.num_restarts == 0


def test_an_error_of_a_listener_is_not_the_engines() -> None:
    sampler = FaultyEngine()

    def fail(number: int, group: Completions) -> None:
        raise ZeroDivisionError

    engine = make_engine(sampler)
    with pytest.raises(ZeroDivisionError):
        engine.sampler.calls.generate(PROMPTS, engine.sampling, 0, fail)
    assert sampler.num_restarts == 0


def test_the_policy_itself_is_not_restarted_and_what_is_not_finite_is_left_to_the_guards() -> None:
    assert not hasattr(TransformersSampler, "restart")

    class Own(ScriptedSampler):
        def generate(self, *arguments):  # type: ignore[no-untyped-def]
            return change(super().generate(*arguments))

    engine = make_engine(Own(*TEXTS))
    change = INVALID["NaN"]
    assert engine.sample(PROMPTS, train_key(0)).logprobs.isnan().any()
    change = INVALID["a response too few"]
    with pytest.raises(RuntimeError, match="returned 3 responses instead of 4"):
        engine.sample(PROMPTS, train_key(0))


@pytest.mark.parametrize("fault", ["engine died", "NaN", ""])
def test_a_rollout_begun_ahead_survives_too(fault: str) -> None:
    sampler = FaultyProcess(fault)
    engine = make_engine(sampler)
    batch = RolloutBatch(PROMPTS, index=1)
    engine.begin(batch)
    assert engine.sample_batch(batch) == 0
    assert_same(batch.sampled(), encode(*TEXTS))
    assert engine.score(batch, train_key(1)).totals == [1.0, 0.0, 0.0, 1.0]
    assert sampler.num_restarts == bool(fault)


def test_new_weights_wait_for_what_was_begun_with_the_old_ones() -> None:
    """If it has to be repeated, the old weights must still be there."""
    order: list[str] = []

    class Slow(FaultyProcess):
        def begin(self, *arguments):  # type: ignore[no-untyped-def]
            if "restart" in order:
                return super().begin(*arguments)
            future: Future[Completions] = Future()
            threading.Timer(0.2, future.set_exception, [RuntimeError("died")]).start()
            return future

        def restart(self) -> None:
            order.append("restart")
            super().restart()

        def sync(self, policy):  # type: ignore[no-untyped-def]
            order.append("sync")
            return super().sync(policy)

    engine = make_engine(Slow())
    engine.begin(RolloutBatch(PROMPTS, index=1))
    engine.sync(OneWeight(-2.0), version=1)
    assert order == ["sync", "restart", "sync"]


def test_an_engine_that_is_closed_is_not_started_again() -> None:
    begun: Future[Completions] = Future()

    class Closing(FaultyProcess):
        def begin(self, *_arguments):  # type: ignore[no-untyped-def]
            return begun

        def close(self) -> None:
            begun.set_exception(RuntimeError("the process has ended"))

    sampler = Closing()
    engine: RolloutEngine = make_engine(sampler)
    ahead = engine.begin(RolloutBatch(PROMPTS, index=1))
    engine.close()
    with pytest.raises(RuntimeError, match="the process has ended"):
        ahead.completions.result(10)
    assert sampler.num_restarts == 0


@pytest.mark.parametrize(("field", "value"), [("max_restarts", -1), ("timeout_s", 0.0), ("backoff_s", -1.0)])
def test_impossible_settings_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"rollout\.recovery\.{field}"):
        RecoverySettings(**{field: value})  # type: ignore[arg-type]
