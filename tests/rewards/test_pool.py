"""The pool loses one call per fault and nothing else: not its order, not the batch, not the caller's signals."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import faulty_rewards
import pytest

from lambda_grpo_pl.rewards.pool import Call, PoolConfig, VerifierPool


@pytest.fixture(scope="module")
def pool():
    pool = VerifierPool(PoolConfig(timeout_s=0.5), {0: faulty_rewards.obey})
    yield pool
    pool.close()


def run(pool, orders):
    return pool.run([Call(0, (order,)) for order in orders])


def test_results_come_in_the_order_of_the_calls(pool):
    assert run(pool, range(1000)) == list(range(1000))


def test_no_call_needs_no_worker():
    pool = VerifierPool(PoolConfig(), {0: faulty_rewards.obey})
    assert pool.run([]) == []
    assert pool._keeper is None


@pytest.mark.parametrize("fault", ["hang", "hang deaf", "crash", "segfault", "raise", "exit", "eat"])
def test_a_fault_costs_its_own_call_only(pool, fault):
    orders = [*range(40), fault, *range(40, 100)]
    assert run(pool, orders) == [*range(40), None, *range(40, 100)]


def test_a_hang_is_killed_at_its_timeout_and_the_others_do_not_wait_for_it(pool):
    run(pool, [0])
    start = time.monotonic()
    run(pool, ["hang", "hang", *range(100)])
    assert 0.5 <= time.monotonic() - start < 3.0


@pytest.mark.parametrize("num_workers", [1, 4])
def test_a_storm_ends_within_the_stated_bound(num_workers):
    """Within the budget N answers that hang take ⌈N / workers⌉ times the time-out, plus the workers' replacement."""
    pool = VerifierPool(PoolConfig(timeout_s=0.3, num_workers=num_workers), {0: faulty_rewards.obey})
    run(pool, [0] * num_workers)  # workers are up
    num_calls, start = 3 * num_workers, time.monotonic()
    assert run(pool, ["hang deaf"] * num_calls) == [None] * num_calls
    replacement = 0.5  # milliseconds on an idle machine
    assert 3 * 0.3 <= time.monotonic() - start < 3 * (0.3 + replacement)
    assert run(pool, [1, 2]) == [1, 2]
    pool.close()


def test_overruns_past_the_budget_shorten_the_time_limit_of_its_own_batch_alone():
    """docs/verifier.md: two hanging answers cost 1 s each, the other eight 0.1 s; honest answers keep their results."""
    pool = VerifierPool(PoolConfig(timeout_s=1.0, overrun_budget_s=2.0, num_workers=1), {0: faulty_rewards.obey})
    run(pool, [0])  # the worker is up
    start = time.monotonic()
    assert run(pool, [*["hang"] * 10, *range(20)]) == [*[None] * 10, *range(20)]
    assert 2.8 <= time.monotonic() - start < 7.0
    start = time.monotonic()
    assert run(pool, ["hang", 1]) == [None, 1]
    assert time.monotonic() - start >= 1.0
    pool.close()


def test_there_is_a_worker_for_each_core_of_the_rank(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(12))
    assert PoolConfig().size == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert PoolConfig().size == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert PoolConfig().size == 2
    assert PoolConfig(num_workers=1).size == 1
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    assert PoolConfig(timeout_s=7.0).divide(4) == PoolConfig(timeout_s=7.0, num_workers=3)
    assert PoolConfig(num_workers=5).divide(4).size == 5


def test_faults_in_a_row_do_not_end_the_pool(pool):
    assert run(pool, ["crash"] * 20 + [7]) == [None] * 20 + [7]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("hang", r"took longer than reward.pool.timeout_s \(0.5 s\)"),
        ("crash", r"ended its process.*reward.pool.memory_gb"),
        ("raise", "raised ZeroDivisionError: as told;"),
    ],
)
def test_the_first_failure_of_a_kind_is_reported(caplog, fault, said):
    pool = VerifierPool(PoolConfig(timeout_s=0.5, num_workers=1), {0: faulty_rewards.obey})
    run(pool, [fault, fault, 1])
    pool.close()
    (message,) = caplog.messages
    assert re.search(said, message)
    assert "counts as failed" in message


def test_what_a_verifier_prints_is_no_reply(pool):
    assert run(pool, ["print", 1]) == ["print", 1]


def test_threads_share_a_pool(pool):
    results = {}
    threads = [
        threading.Thread(target=lambda number=number: results.update({number: run(pool, [number] * 50)}))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [number] * 50 for number in range(4)}


def test_a_callers_alarm_survives(pool):
    """math-verify's own time-outs would cancel it."""
    signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        run(pool, ["hang", 1])
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_workers_are_recycled():
    pool = VerifierPool(PoolConfig(num_workers=1, recycle_after=10), {0: faulty_rewards.obey})
    pids = run(pool, ["pid"] * 200)
    pool.close()
    assert None not in pids
    assert len(set(pids)) > 2


def test_a_lost_keeper_is_started_again_within_the_batch(pool):
    run(pool, [0])
    pool._keeper.kill()
    assert run(pool, ["hang", *range(50)]) == [None, *range(50)]


def test_closing_ends_every_process_and_a_later_run_starts_new_ones():
    pool = VerifierPool(PoolConfig(), {0: faulty_rewards.obey})
    pids = set(run(pool, ["pid"] * 50)) | {pool._keeper.pid}
    pool.close()
    deadline = time.monotonic() + 5
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_alive(pid) for pid in pids)
    assert run(pool, [1]) == [1]
    pool.close()


def test_a_killed_trainer_leaves_no_process_behind():
    """Even a worker that computes forever, far from its next read, ends with the trainer."""
    script = (
        "import faulty_rewards, threading, time\n"
        "from lambda_grpo_pl.rewards.pool import *\n"
        "pool = VerifierPool(PoolConfig(num_workers=1, timeout_s=600), {0: faulty_rewards.obey})\n"
        "print(pool.run([Call(0, ('pid',))])[0], flush=True)\n"
        "pool.run([Call(0, ('hang deaf',))])\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=env, text=True) as trainer:
        worker = int(trainer.stdout.readline())
        time.sleep(0.3)
        trainer.kill()
    deadline = time.monotonic() + 5
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(worker)


def test_workers_that_cannot_start_are_an_error_and_no_silent_zero():
    pool = VerifierPool(PoolConfig(), {0: faulty_rewards.obey}, warm_up=[faulty_rewards.not_finite])
    with pytest.raises(RuntimeError, match="exit on startup"):
        run(pool, [1])


def test_a_function_of_main_is_refused_with_advice():
    function = type("", (), {"__module__": "__main__", "__call__": lambda self: 1})()
    with pytest.raises(ValueError, match="separate module"):
        VerifierPool(PoolConfig(), {0: function})


@pytest.mark.parametrize(
    "setting", [{"num_workers": 0}, {"timeout_s": 0}, {"overrun_budget_s": 0}, {"memory_gb": -1}, {"recycle_after": 0}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match="must be"):
        PoolConfig(**setting)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
