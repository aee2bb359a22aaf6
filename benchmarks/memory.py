"""Memory and time of the training step's head: log-probabilities of M tokens over V words, forward and backward.

    python benchmarks/memory.py [--repeats 2] [--threads 2] [--quick]

`naive` keeps all logits and lets autograd differentiate; `fused` is `policy.head.fused_token_loss`; `torch` is torch's
own chunked `linear_cross_entropy`, which returns each token's log-probability (no entropy) and computes the logits
again in its backward. Each measurement is a separate process: extra memory is the growth of its resident set's peak
beyond hidden states, weight, and the two gradients that any way leaves behind (V × H for the weight, M × H for the
hidden states). Time is the median of interleaved repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any, NamedTuple

import torch
from report import in_a_process, median_of_ratios, peak_bytes, resident_bytes, table, write
from torch import Tensor
from torch.nn import LinearCrossEntropyOptions
from torch.nn.functional import linear_cross_entropy

from lambda_grpo_pl.policy.head import fused_token_loss
from lambda_grpo_pl.policy.logits import Head

GOALS = {"extra memory": 0.10, "time": 0.80}
"""Largest acceptable ratios, fused over naive, in the first case."""


class Case(NamedTuple):
    """One shape of head."""

    num_tokens: int
    vocabulary: int
    hidden_size: int = 896
    chunk: int = 512


JUDGED = Case(4096, 151_936)
SWEEP = [JUDGED, Case(1024, 151_936), Case(2048, 151_936), Case(4096, 32_000), Case(4096, 8_000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repeats", type=int, default=2, help="Interleaved repeats of the first case; the others run once."
    )
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    parser.add_argument("--quick", action="store_true", help="The first case alone.")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, case = arguments.child
        print(json.dumps(measure(way, Case(*json.loads(case)), arguments.threads)))
        return
    rows = []
    for case in SWEEP[:1] if arguments.quick else SWEEP:
        rows.append(compare(case, arguments.repeats if case == JUDGED else 1, arguments.threads))
        print(".", end="", flush=True)
    print()
    show(rows)
    write("memory", {"goals": GOALS, "rows": rows, "threads": arguments.threads}, ("torch",))


def compare(case: Case, repeats: int, threads: int) -> dict[str, Any]:
    """All ways in turn, and their ratios to the naive one."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way, results in runs.items():
            results.append(in_a_process(__file__, way, case, threads))
    seconds = {way: [run["seconds"] for run in results] for way, results in runs.items()}
    extra = {way: statistics.median(run["extra_bytes"] for run in results) for way, results in runs.items()}
    return case._asdict() | {
        "seconds": {way: statistics.median(values) for way, values in seconds.items()},
        "extra_bytes": extra,
        "time_ratio": {way: median_of_ratios(seconds[way], seconds["naive"]) for way in WAYS if way != "naive"},
        "memory_ratio": {way: extra[way] / extra["naive"] for way in WAYS if way != "naive"},
    }


def measure(way: str, case: Case, threads: int) -> dict[str, float]:
    """Seconds and extra bytes of one forward and backward pass, in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hidden = torch.randn(case.num_tokens, case.hidden_size, requires_grad=True)
    weight = torch.randn(case.vocabulary, case.hidden_size).mul_(0.02).requires_grad_()
    labels = torch.randint(case.vocabulary, (case.num_tokens,))
    weights = torch.randn(case.num_tokens) / case.num_tokens
    _warm_up()
    before = resident_bytes()
    start = time.perf_counter()
    loss = WAYS[way](hidden, weight, labels, weights, case.chunk)
    loss.backward()
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    kept = 4 * (weight.numel() + hidden.numel())
    return {"seconds": seconds, "extra_bytes": peak - before - kept, "loss": loss.item()}


def naive(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, chunk: int) -> Tensor:
    logprobs = (hidden @ weight.T).log_softmax(-1).gather(1, labels[:, None])[:, 0]
    return -(weights * (logprobs - logprobs.detach()).exp()).sum()


def fused(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, chunk: int) -> Tensor:
    def token_loss(logprobs: Tensor, place: slice) -> Tensor:
        return -(weights[place] * (logprobs - logprobs.detach()).exp()).sum()

    loss, _ = fused_token_loss(hidden, labels, Head(weight, None, 1.0, chunk), token_loss)
    return loss


def torchs_own(hidden: Tensor, weight: Tensor, labels: Tensor, weights: Tensor, chunk: int) -> Tensor:
    options = LinearCrossEntropyOptions(batch_chunk_size=chunk, chunking_method=None)
    logprobs = -linear_cross_entropy(hidden, weight, labels, reduction="none", options=options)
    return -(weights * (logprobs - logprobs.detach()).exp()).sum()


WAYS = {"naive": naive, "fused": fused, "torch": torchs_own}


def show(rows: list[dict[str, Any]]) -> None:
    cells = [
        [
            row["num_tokens"],
            f"{row['vocabulary']:,}",
            *(f"{row['extra_bytes'][way] / 2**30:.2f}" for way in WAYS),
            *(f"{ratio:.3f}" for ratio in row["memory_ratio"].values()),
            *(f"{row['seconds'][way]:.2f}" for way in WAYS),
            *(f"{ratio:.2f}" for ratio in row["time_ratio"].values()),
        ]
        for row in rows
    ]
    ratios = ("fused ×", "torch ×")
    header = ["tokens", "V", *(f"{way} GiB" for way in WAYS), *ratios, *(f"{way} s" for way in WAYS), *ratios]
    table(header, cells)
    goals = ", ".join(f"{name} ≤ {goal:.2f} ×" for name, goal in GOALS.items())
    print(f"goals for fused in the first row: {goals}")


def _warm_up() -> None:
    """Load the kernels of both ways, so that their code is not counted."""
    small = torch.randn(8, 16, requires_grad=True), torch.randn(32, 16, requires_grad=True)
    labels, weights = torch.arange(8), torch.ones(8)
    for way in WAYS.values():
        way(*small, labels, weights, 4).backward()


if __name__ == "__main__":
    main()
