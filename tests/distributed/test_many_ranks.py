"""64 gloo ranks on this machine: the whole trainer, uneven work, positions in the data, and memory of a rank."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from lambda_grpo_pl.replay.store import FOLDER, RolloutStore
from tests.distributed.fit_many_ranks import BATCH_SIZE, GROUP_SIZE, SAVE_AFTER
from tests.scored import save_tiny_policy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
RANKS, FEWER_RANKS, UPDATES = 64, 32, 4
EPOCH = BATCH_SIZE * UPDATES
TOLERANCE = 1e-5
"""Largest difference of a weight or of λ from those of one process; sums are taken in another order."""
FEW, MANY = 20_000, 200_000
"""Rows of a file; both are more than the buffer in which a stream is shuffled."""
FLAT_MIB = 4.0
"""Ten times the rows may add this much to a rank's memory. Read into a table they add 140 MiB."""


class Fit(NamedTuple):
    """What the ranks wrote."""

    out: Path
    ranks: list[dict[str, Any]]
    state: dict[str, torch.Tensor]

    def prompts(self, number: int) -> list[int]:
        """Numbers of the prompts of the run's n-th batch, rank after rank."""
        return list(chain.from_iterable(rank["batches"][number]["prompts"] for rank in self.ranks))


Fitter = Callable[..., Fit]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fitter:
    """Fits on a number of ranks; each is done once."""
    home = tmp_path_factory.mktemp("ranks")
    policy = save_tiny_policy(home / "policy")

    @cache
    def run(ranks: int, rows: int = EPOCH, updates: int = UPDATES, source: str = "table", after: str = "") -> Fit:
        data = home / f"{rows}.jsonl"
        if not data.exists():
            data.write_text("".join(f'{{"question": "{n}+{n % 7}=", "answer": "{n + n % 7}"}}\n' for n in range(rows)))
        out = home / f"{ranks}-{rows}-{source}-{bool(after)}"
        out.mkdir()
        command = [sys.executable, "-m", "tests.distributed.fit_many_ranks", str(policy), str(data), str(out)]
        options = [
            str(ranks),
            str(updates),
            *["--streaming"] * (source == "stream"),
            *(["--ckpt", after] if after else []),
        ]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stderr[-3000:]
        ended = [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
        return Fit(out, ended, torch.load(out / "state.pt", weights_only=True))

    return run


def check_ranks_agree(run: Fit) -> None:
    assert len({rank["weights"] for rank in run.ranks}) == 1, "weights differ between ranks"
    assert len({rank["lambda"] for rank in run.ranks}) == 1, "λ differs between ranks"
    assert run.ranks[0]["lambda"] != 0.0


def check_equals(run: Fit, expected: Fit) -> None:
    assert run.state.keys() == expected.state.keys()
    for name, value in expected.state.items():
        torch.testing.assert_close(run.state[name], value, rtol=0.0, atol=TOLERANCE, msg=name)


def test_64_ranks_with_uneven_groups_are_one_process(fit: Fitter) -> None:
    """Every rank ends with the same weights and λ: those of one process that trained on all the prompts."""
    many, single = fit(RANKS), fit(1)
    for number in range(UPDATES):
        batches = [rank["batches"][number] for rank in many.ranks]
        informative = [batch["informative"] for batch in batches]
        assert min(informative) == 0, "every rank has a group that teaches"
        assert max(informative) == BATCH_SIZE // RANKS, "no rank has all its groups"
        assert max(batch["tokens"] for batch in batches) > 10 * min(batch["tokens"] for batch in batches)
    check_ranks_agree(many)
    check_equals(many, single)
    record = RolloutStore(many.out / FOLDER).read(UPDATES - 1)
    assert len(record.batch.sampled().lengths) == BATCH_SIZE * GROUP_SIZE


def test_each_prompt_of_an_epoch_is_read_once_over_all_ranks(fit: Fitter) -> None:
    many, single = fit(RANKS), fit(1)
    assert sorted(chain.from_iterable(map(many.prompts, range(UPDATES)))) == list(range(EPOCH))
    assert list(map(many.prompts, range(UPDATES))) == list(map(single.prompts, range(UPDATES)))


def test_half_as_many_ranks_continue_where_64_stopped(fit: Fitter) -> None:
    """The positions in the data, the weights and λ: as if the number of ranks had never changed."""
    many = fit(RANKS)
    resumed = fit(FEWER_RANKS, after=str(many.out / "checkpoints" / f"step-{SAVE_AFTER:06d}.ckpt"))
    rest = range(SAVE_AFTER, UPDATES)
    assert [batch["batch"] for batch in resumed.ranks[0]["batches"]] == list(rest)
    assert [resumed.prompts(number - SAVE_AFTER) for number in rest] == list(map(many.prompts, rest))
    check_ranks_agree(resumed)
    check_equals(resumed, fit(1))


def test_memory_of_a_rank_does_not_grow_with_the_number_of_prompts_in_a_stream(fit: Fitter) -> None:
    few, many = (fit(RANKS, rows, 2, "stream") for rows in (FEW, MANY))
    read = list(chain(many.prompts(0), many.prompts(1)))
    assert len(set(read)) == len(read) == 2 * BATCH_SIZE
    held = [statistics.median(rank["batches"][-1]["private_mib"] for rank in run.ranks) for run in (few, many)]
    print(f"private memory of a rank: {held[0]:.1f} MiB with {FEW} rows, {held[1]:.1f} MiB with {MANY}")
    assert held[1] - held[0] < FLAT_MIB
