"""A long run on a tiny policy, whose memory, open files and threads must stay what they are.

    python -m tests.soak --updates 2000 --out soak.json

Every part that a run starts takes part: verifier processes, recorded rollouts, checkpoints, evaluations, the metrics
file and the guards.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import lightning as L

from tests.integration.runs import run
from tests.scored import save_tiny_policy

LOOK_EVERY = 10
"""Updates between two looks."""
WARM_UP, WINDOW = 0.25, 0.1
"""Shares of the run: what comes before the first window that is compared, and the length of a window."""
MAX_GROWTH = 0.01


class Usage(NamedTuple):
    """What the process holds after an update."""

    update: int
    rss: int
    """Bytes of resident memory."""
    files: int
    """Open descriptors."""
    threads: int


class Growth(NamedTuple):
    """How the last updates differ from those after the warm-up."""

    rss: float
    """Relative growth of the median."""
    files: int
    threads: int


class Scale(L.Callback):
    """Looks at this process every few updates."""

    def __init__(self) -> None:
        self.seen: list[Usage] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look, after a collection of what nobody holds."""
        if trainer.global_step % LOOK_EVERY == 0:
            gc.collect()
            self.seen.append(look(trainer.global_step))


def look(update: int) -> Usage:
    """Return what this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    own = Path("/proc/self")
    num_files, num_threads = (len(os.listdir(own / name)) for name in ("fd", "task"))
    return Usage(update, pages * os.sysconf("SC_PAGE_SIZE"), num_files, num_threads)


def measure_growth(seen: Sequence[Usage]) -> Growth:
    """Compare the window after the warm-up with the last one."""
    size = max(1, round(WINDOW * len(seen)))
    start = round(WARM_UP * len(seen))
    first, last = seen[start : start + size], seen[-size:]

    def change(name: str) -> tuple[float, float]:
        return median(getattr(each, name) for each in first), median(getattr(each, name) for each in last)

    before, after = change("rss")
    files, threads = (int(b - a) for a, b in map(change, ("files", "threads")))
    return Growth(after / before - 1, files, threads)


def soak(num_updates: int, folder: Path) -> list[Usage]:
    """Run that many updates in `folder`; return what the process held."""
    cli = run(
        "fit",
        save_tiny_policy(folder / "policy"),
        folder / "run",
        "--trainer.callbacks=[{class_path: tests.soak.Scale}]",
        f"--trainer.max_steps={num_updates}",
        f"--trainer.val_check_interval={max(1, num_updates // 10)}",
        "--data.val=[{split: test, limit: 4}]",
        "--data.batch_size=2",
        "--rollout.sampling.num_samples=2",
        "--rollout.sampling.max_tokens=4",
        "--reward.functions=[{name: tests.integration.runs.digit_share}, {name: math, weight: 0.1}]",
        "--reward.pool.num_workers=1",
        "--record.max_rollouts=20",
        "--checkpoint.every=50",
        "--monitor.curve_every=10",
        "--plan.show=false",
        "--summary.show=false",
        "--evaluation.to_terminal=false",
    )
    scale: Any = next(
        each for each in cli.trainer.callbacks if type(each).__name__ == Scale.__name__
    )  # or `__main__`'s
    seen: list[Usage] = scale.seen
    return seen


def main() -> int:
    """Run, report, and return 1 if anything grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="JSON file for what was seen.")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        seen = soak(options.updates, Path(scratch))
    growth = measure_growth(seen)
    if options.out is not None:
        content = {"growth": growth._asdict(), "seen": [each._asdict() for each in seen]}
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(
        f"{seen[-1].update} updates in {time.monotonic() - start:.0f} s: {seen[-1].rss / 2**20:.0f} MiB, memory "
        f"{growth.rss:+.2%}, open files {growth.files:+d} (of {seen[-1].files}), threads {growth.threads:+d} (of "
        f"{seen[-1].threads}) since the warm-up."
    )
    return int(growth.rss >= MAX_GROWTH or growth.files > 0 or growth.threads > 0)


if __name__ == "__main__":
    sys.exit(main())
