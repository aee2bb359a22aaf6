"""Peak memory of the training step against sequence length, batch and vocabulary: ours and the plain way.

    python benchmarks/step_memory.py [--threads 2]

The body is small (4 layers × 256) so that what a way of computing keeps stands out; the vocabulary is Qwen2.5's, or a
smaller one. `plain` is one forward and backward pass over all rows, padded to the longest, with logits at every
position, as textbooks write it; `ours` is `accumulate_gradient` with micro-batches of 2,048 tokens, prompts computed
once a group, and the chunked head. Both are on-policy, without a reference, and add the gradient of one loss to the
same weights. Response lengths are geometric, prompts have 32 tokens, groups 8 responses. Each measurement is a separate
process: extra memory is the growth of its resident set's peak beyond weights, gradients and the rollout.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import NamedTuple

import torch
from report import in_a_process, peak_bytes, resident_bytes, table, write
from torch import Tensor
from workload import GROUP_SIZE, learn, make_model, quiet, scored_rollout

from lambda_grpo_pl.batch import RolloutBatch
from lambda_grpo_pl.policy import Policy, PolicyConfig

WAYS = ("plain", "ours")
PROMPT_TOKENS = 32


class Case(NamedTuple):
    """One batch."""

    num_prompts: int = 4
    max_tokens: int = 64
    vocabulary: int = 151_936


SWEEP = {
    "response limit": [Case(max_tokens=32), Case(max_tokens=64), Case(max_tokens=128)],
    "prompts": [Case(num_prompts=2), Case(num_prompts=4), Case(num_prompts=8)],
    "vocabulary": [Case(vocabulary=8_000), Case(vocabulary=32_000), Case(vocabulary=151_936)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="Threads of torch.")
    parser.add_argument("--child", nargs=2, metavar=("WAY", "CASE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, case = arguments.child
        print(json.dumps(measure(way, Case(*json.loads(case)), arguments.threads)))
        return
    known: dict[Case, dict[str, dict[str, float]]] = {}
    for case in (case for cases in SWEEP.values() for case in cases):
        if case not in known:
            known[case] = {way: in_a_process(__file__, way, case, arguments.threads) for way in WAYS}
            print(".", end="", flush=True)
    print()
    rows = [
        {"against": against} | case._asdict() | known[case] | {"ratio": _ratio(known[case])}
        for against, cases in SWEEP.items()
        for case in cases
    ]
    table(
        ["against", "prompts × G", "limit", "V", "tokens", *(f"{way} GiB" for way in WAYS), "ratio"],
        [
            [
                row["against"],
                f"{row['num_prompts']} × {GROUP_SIZE}",
                row["max_tokens"],
                f"{row['vocabulary']:,}",
                f"{row['ours']['response_tokens']:,.0f}",
                *(f"{row[way]['extra_bytes'] / 2**30:.2f}" for way in WAYS),
                f"{row['ratio']:.3f}",
            ]
            for row in rows
        ],
    )
    write("step_memory", {"rows": rows, "settings": vars(arguments)}, ("torch", "transformers"))


def measure(way: str, case: Case, threads: int) -> dict[str, float]:
    """Extra bytes and seconds of one update's forward and backward, in this process."""
    torch.set_num_threads(threads)
    quiet()
    batch = scored_rollout(
        case.num_prompts, prompt_length=PROMPT_TOKENS, max_tokens=case.max_tokens, vocabulary=100, num_settled=0
    )
    warm_up = scored_rollout(1, 2, prompt_length=4, max_tokens=4, num_settled=0)
    small = Policy(make_model(), PolicyConfig(path="random")).train()
    run(way, small, warm_up)
    policy = Policy(make_model(vocab_size=case.vocabulary), PolicyConfig(path="random")).train()
    for weight in policy.parameters():  # any way leaves gradients behind; written, so that their pages are resident
        weight.grad = torch.ones_like(weight).zero_()
    before = resident_bytes()
    start = time.perf_counter()
    run(way, policy, batch)
    seconds = time.perf_counter() - start
    peak = peak_bytes()
    return {
        "seconds": seconds,
        "extra_bytes": peak - before,
        "response_tokens": float(batch.sampled().lengths.sum()),
        "gradient": math.sqrt(sum(float(weight.grad.square().sum()) for weight in policy.parameters())),  # type: ignore[union-attr]
    }


def run(way: str, policy: Policy, batch: RolloutBatch) -> None:
    if way == "ours":
        completions = batch.sampled()
        learn(policy, batch, policy.layout_for(batch.prompts.lengths, completions.lengths))
    else:
        plain(policy, batch).backward()


def plain(policy: Policy, batch: RolloutBatch) -> Tensor:
    """The same loss over rows padded to the longest: logits [N, P + L, V], then log-softmax, then what was sampled."""
    completions = batch.sampled()
    num_rows, longest = completions.ids.shape
    longest = int(completions.lengths.max())
    prompts = batch.prompts.ids.repeat_interleave(batch.group_size, 0)
    ids = torch.cat([prompts, completions.ids[:, :longest]], 1)
    inside = torch.arange(longest) < completions.lengths[:, None]
    mask = torch.cat([torch.ones_like(prompts), inside.long()], 1)
    logits = policy.causal_lm(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logprobs = logits[:, prompts.shape[1] - 1 : -1].log_softmax(-1)
    chosen = logprobs.gather(2, completions.ids[:, :longest, None])[:, :, 0]
    advantages = torch.randn(num_rows, generator=torch.Generator().manual_seed(0))
    ratio = (chosen - chosen.detach()).exp()
    return -(advantages[:, None] * ratio * inside).sum() / completions.lengths.sum()


def _ratio(runs: dict[str, dict[str, float]]) -> float:
    ours, theirs = runs["ours"], runs["plain"]
    assert math.isclose(ours["gradient"], theirs["gradient"], rel_tol=1e-3), "the two ways differ in their gradient"
    return ours["extra_bytes"] / theirs["extra_bytes"]


if __name__ == "__main__":
    main()
