"""The command: `python -m tests.chaos --runs 25 --seed 0`."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.chaos.harness import KINDS, Harness
from tests.scored import save_tiny_policy


def main() -> int:
    """Kill, resume and compare; return 1 if any run differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=25, help="Runs to kill.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the moments; run n has seed + n.")
    parser.add_argument("--kind", choices=list(KINDS), help="Only this kind of run; by default all, in turns.")
    parser.add_argument("--phase", help="Only in this phase.")
    parser.add_argument("--out", type=Path, help="JSON file for the results.")
    options = parser.parse_args()
    # Of five runs, two have two ranks and one samples ahead.
    turns = ["one rank", "two ranks", "one rank", "one step ahead", "two ranks, sharded"]
    results = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        harness = Harness(save_tiny_policy(Path(scratch) / "policy"), Path(scratch))
        for number in range(options.runs):
            kind = options.kind or turns[number % len(turns)]
            chance = random.Random(options.seed + number)
            kill = harness.draw(kind, chance, options.phase)
            result = harness.kill_and_resume(kind, kill, f"run-{number}")
            results.append({"seed": options.seed + number, **asdict(result), "kill": kill._asdict()})
            print(f"seed {options.seed + number}: {result.describe()}", flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    num_killed, num_equal = (sum(map(bool, each)) for each in zip(*[(r["killed"], not r["differences"]) for r in results], strict=True))  # fmt: skip # noqa: E501
    print(f"{num_killed} of {len(results)} runs were killed; {num_equal} equal the undisturbed run bit for bit.")
    return 0 if num_equal == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
