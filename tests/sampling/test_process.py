"""A sampler in a process of its own: the same samples, at the same time as something else, and loud when it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from lambda_grpo_pl.batch import Completions
from lambda_grpo_pl.sampling import (
    SamplerBuilder,
    SamplerProcess,
    SamplingSettings,
    TransformersSampler,
    VllmSettings,
    check_sync,
    policy_weights,
    probe_sequences,
)
from lambda_grpo_pl.sampling.process.connection import worker_environment

from .parts import EOS, PAD, VOCAB, check_groups_are_heard, random_prompts, tiny_policy

ROOT = Path(__file__).parents[2]
SETTINGS = SamplingSettings(max_tokens=24, num_samples=2)
SEQUENCES = probe_sequences(VOCAB)


def builder(name: str, policy: nn.Module) -> SamplerBuilder:
    engine = VllmSettings(max_model_len=64, kv_cache_gib=0.125)
    return SamplerBuilder(name=name, config=policy.config, eos_token_ids=(EOS, 2, 3), pad_token_id=PAD, engine=engine)


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def policy() -> nn.Module:
    return tiny_policy(tied=True, seed=3)


@pytest.fixture(scope="module")
def process(name: str, policy: nn.Module) -> Iterator[SamplerProcess]:
    sampler = SamplerProcess(builder(name, policy))
    yield sampler
    sampler.close()


def test_it_samples_what_the_same_sampler_samples_here(process, policy, name):
    """Through three syncs with weights that change in between, the self-test included."""
    prompts = random_prompts([3, 9, 5, 7])
    here = builder(name, policy).build(with_model=True)
    own = TransformersSampler([EOS], PAD)
    own.sync(policy)
    for _ in range(3):
        with torch.no_grad():
            for weight in policy.parameters():
                weight.add_(0.05 * torch.randn_like(weight))
        report = process.sync(policy)
        here.receive(policy_weights(policy))
        assert set(report.sent) == set(policy.state_dict())
        assert report.missing == ()
        assert report.num_bytes == sum(weight.nbytes for weight in policy.state_dict().values())
        assert check_sync(process, own.probe, SEQUENCES, tolerance=1e-4) < 1e-4
        assert process.probe(SEQUENCES) == here.probe(SEQUENCES)
        theirs, ours = process.generate(prompts, SETTINGS, 5), here.generate(prompts, SETTINGS, 5)
        assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    here.close()


def test_groups_are_heard_as_they_end(process, policy):
    process.sync(policy)
    check_groups_are_heard(process, random_prompts([3, 9, 5, 7]), SETTINGS)


def test_the_trainer_goes_on_while_it_samples(process, policy):
    """The caller has the future while the listener still waits for the caller; random states stay apart."""
    process.sync(policy)
    may_go_on, state = threading.Event(), torch.get_rng_state()

    def wait(number, group):
        assert may_go_on.wait(60)

    future = process.begin(random_prompts([3, 9, 5, 7]), SETTINGS, 5, wait)
    assert not future.done()
    may_go_on.set()
    assert len(future.result(60).lengths) == 8
    assert torch.equal(state, torch.get_rng_state())


def test_a_sync_meets_no_running_generation(process, policy):
    """What was begun before new weights were written is sampled with the old ones."""
    prompts = random_prompts([3, 9, 5, 7])
    process.sync(policy)
    expected = process.generate(prompts, SETTINGS, 5)
    future = process.begin(prompts, SETTINGS, 5)
    with torch.no_grad():
        next(policy.parameters()).add_(1.0)
    process.sync(policy)
    assert all(torch.equal(a, b) for a, b in zip(expected, future.result(60), strict=True))
    after = process.generate(prompts, SETTINGS, 5)
    assert after.ids.shape != expected.ids.shape or not torch.equal(after.ids, expected.ids)


def test_its_errors_are_the_callers(process, policy, name):
    process.sync(policy)
    prompts = random_prompts([3, 9])
    if name == "vllm":
        with pytest.raises(ValueError, match=r"raise rollout\.engine\.max_model_len"):
            process.generate(prompts, SamplingSettings(max_tokens=60), 0)

    def fail(number, group):
        raise KeyError(number)

    with pytest.raises(KeyError):
        process.generate(prompts, SETTINGS, 0, fail)
    assert len(process.generate(prompts, SETTINGS, 0).lengths) == 4


def test_a_sampler_that_cannot_be_built_is_refused_in_words():
    policy = tiny_policy(tied=True)
    policy.config.num_attention_heads = 4
    with pytest.raises(ValueError, match="multiple of 32"):
        SamplerProcess(builder("vllm", policy))


def test_a_process_that_is_killed_says_so():
    policy = tiny_policy(tied=True)
    sampler = SamplerProcess(builder("transformers", policy))
    sampler.sync(policy)
    os.kill(sampler.pid, signal.SIGSTOP)
    future = sampler.begin(random_prompts([3]), SETTINGS, 0)
    os.kill(sampler.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"process was killed by signal 9.*ran out of memory"):
        future.result(60)
    with pytest.raises(RuntimeError, match="was killed by signal 9"):
        sampler.probe(SEQUENCES)
    sampler.close()
    sampler.close()


def kill_at_first(sampler: SamplerProcess, signum: int) -> Callable[[int, Completions], None]:
    """A listener that sends a signal when the first group has ended, in the middle of the others."""

    def hear(number: int, group: Completions) -> None:
        if not hear.done:
            hear.done = True
            os.kill(sampler.pid, signum)

    hear.done = False
    return hear


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_is_replaced_by_one_with_the_same_weights(signum):
    """Two syncs, of which the second writes over the first; a stopped process is found by the clock and killed."""
    policy, prompts = tiny_policy(tied=True), random_prompts([3, 9, 5, 7])
    sampler = SamplerProcess(builder("transformers", policy), timeout_s=1.5)
    sampler.sync(policy)
    with torch.no_grad():
        next(policy.parameters()).add_(0.3)
    sampler.sync(policy)
    expected, scores, pid = sampler.generate(prompts, SETTINGS, 5), sampler.probe(SEQUENCES), sampler.pid
    future = sampler.begin(random_prompts([3] * 64), SETTINGS, 5, kill_at_first(sampler, signum))
    message = (
        "was killed by signal 9"
        if signum == signal.SIGKILL
        else r"sent nothing for 1\.5 s .rollout\.recovery\.timeout_s"
    )
    with pytest.raises(RuntimeError, match=message):
        future.result(60)
    sampler.restart()
    assert sampler.pid != pid
    assert sampler.probe(SEQUENCES) == scores
    assert sampler.last_sync.missing == ()
    assert all(torch.equal(a, b) for a, b in zip(sampler.generate(prompts, SETTINGS, 5), expected, strict=True))
    with torch.no_grad():
        next(policy.parameters()).add_(0.3)
    sampler.sync(policy)
    assert sampler.probe(SEQUENCES) != scores
    sampler.close()
    with pytest.raises(RuntimeError, match="has been closed"):
        sampler.restart()


def test_an_idle_process_does_not_hang(monkeypatch):
    """The clock runs while there is something to do."""
    policy = tiny_policy(tied=True)
    sampler = SamplerProcess(builder("transformers", policy), timeout_s=0.4)
    sampler.sync(policy)
    time.sleep(1.2)
    assert len(sampler.probe(SEQUENCES)) == len(SEQUENCES)
    sampler.close()


ORPHAN = """
import os
from tests.sampling.test_process import SETTINGS, SamplerProcess, builder, random_prompts, tiny_policy
policy = tiny_policy(tied=True)
sampler = SamplerProcess(builder("transformers", policy))
sampler.sync(policy)
sampler.begin(random_prompts([3] * 64), SETTINGS, 0)
print(sampler.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_it_ends_with_a_trainer_that_is_killed():
    done = subprocess.run([sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid, deadline = int(done.stdout), time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "the sampler's process outlived the trainer"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("visible", "device", "expected"),
    [(None, None, "1"), (None, 0, "1"), ("4,6", None, "6"), ("4,6", 0, "6"), ("GPU-a,GPU-b", 0, "GPU-b")],
)
def test_its_gpu_is_counted_among_the_trainers(monkeypatch, visible, device, expected):
    """The second rank sees two GPUs and uses the second, and so does its sampler; launch variables stay behind."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment = worker_environment(3, device)
    assert environment["CUDA_VISIBLE_DEVICES"] == expected
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "LOCAL_RANK" not in environment
