"""Throughput of the `math` reward against math-verify in a loop, on ordinary answers, repeated and not.

    python benchmarks/verifier.py [--num 10000] [--workers 2]

The workload: MATH-style golds and completions of a few sentences with a boxed answer. *repeated*: groups of 16
completions of one prompt that share four answers, as early in training. *distinct*: every (gold, answer) pair once.
*symbolic*: distinct, and every answer needs algebra, the pool's worst case. The loop is `parse` and `verify` with their
time-outs on, as math-verify's README shows. Prints a table and writes benchmarks/results/verifier.json.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from collections.abc import Callable

from report import write

from lambda_grpo_pl.rewards import PoolConfig, RewardSpec, RewardSuite

Pair = tuple[str, str]
TEMPLATE = (
    "Let us see. Step {step}: we simplify and collect terms, {noise}. Therefore the answer is $\\boxed{{{answer}}}$."
)


def gold_and_answers(rng: random.Random) -> tuple[str, list[str]]:
    """A gold, and four answers of which two are right: integers, fractions, radicals, polynomials, tuples in turn."""
    a, b, c = rng.randint(2, 10**5), rng.randint(2, 99), rng.randint(2, 99)
    return rng.choice(
        [
            (f"{a}", [f"{a}", f"{a:,}", f"{a + 1}", f"{a - b}"]),
            (rf"\frac{{{a}}}{{{b}}}", [rf"\dfrac{{{a}}}{{{b}}}", f"{a}/{b}", rf"\frac{{{b}}}{{{a}}}", f"{a}"]),
            (rf"{b}\sqrt{{{c}}}", [rf"{b} \sqrt{{{c}}}", rf"\sqrt{{{b * b * c}}}", rf"{c}\sqrt{{{b}}}", f"{b}"]),
            (f"{b}x^2 + {c}", [f"{b}x^2+{c}", f"{c} + {b}x^2", f"{c}x^2+{b}", f"{b}x+{c}"]),
            (rf"({a}, {b})", [f"({a},{b})", rf"\left({a}, {b}\right)", f"({b},{a})", f"{a}"]),
        ]
    )


def symbolic(rng: random.Random) -> Pair:
    b, c = rng.randint(2, 10**4), rng.randint(2, 10**4)
    return rf"{b}\sqrt{{{c}}}", rf"\sqrt{{{b * b * c}}}"


def completion(answer: str, rng: random.Random) -> str:
    return TEMPLATE.format(
        step=rng.randint(1, 9), noise=" ".join(rng.choices(["so", "thus", "then", "$x$"], k=30)), answer=answer
    )


def workloads(num: int) -> dict[str, list[Pair]]:
    rng = random.Random(0)
    groups = [gold_and_answers(rng) for _ in range(num // 16)]
    singles = [gold_and_answers(rng) for _ in range(num)]
    return {
        "repeated": [(gold, completion(rng.choice(answers), rng)) for gold, answers in groups for _ in range(16)],
        "distinct": [(gold, completion(rng.choice(answers), rng)) for gold, answers in singles],
        "symbolic": [(gold, completion(answer, rng)) for gold, answer in (symbolic(rng) for _ in range(num // 5))],
    }


def loop(pairs: list[Pair]) -> list[bool]:
    from math_verify import parse, verify

    return [verify(parse(rf"\boxed{{{gold}}}"), parse(text)) for gold, text in pairs]


def pooled(workers: int) -> Callable[[list[Pair]], list[bool]]:
    suite = RewardSuite([RewardSpec(name="math")], PoolConfig(num_workers=workers))

    def score(pairs: list[Pair]) -> list[bool]:
        golds, texts = zip(*pairs, strict=True)
        scores = suite.score(texts, [{"answer": gold} for gold in golds], [1] * len(pairs), [False] * len(pairs))
        return [verdict.correct for verdict in scores.verdicts]

    score([("x+y", r"\boxed{y+x}")])
    return score


def timed(function: Callable[[list[Pair]], list[bool]], pairs: list[Pair]) -> tuple[float, list[bool]]:
    start = time.perf_counter()
    verdicts = function(pairs)
    return len(pairs) / (time.perf_counter() - start), verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=10_000, help="Completions per workload.")
    parser.add_argument("--workers", type=int, default=2, help="Worker processes.")
    arguments = parser.parse_args()
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    ours = pooled(arguments.workers)
    loop([("x+y", r"\boxed{y+x}")])
    rows = {}
    print(f"{'workload':<10} {'answers':>8} {'loop /s':>9} {'ours /s':>9} {'ratio':>6}  same verdict")
    for name, pairs in workloads(arguments.num).items():
        theirs, expected = timed(loop, pairs)
        rate, verdicts = timed(ours, pairs)
        same = sum(a == b for a, b in zip(expected, verdicts, strict=True)) / len(pairs)
        rows[name] = {"num": len(pairs), "loop_per_s": theirs, "ours_per_s": rate, "ratio": rate / theirs, "same": same}
        print(f"{name:<10} {len(pairs):>8} {theirs:>9.0f} {rate:>9.0f} {rate / theirs:>6.1f}  {same:.1%}")
    write("verifier", {"rows": rows, "workers": arguments.workers}, ("math-verify", "sympy"))


if __name__ == "__main__":
    main()
