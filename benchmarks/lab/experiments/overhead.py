"""What each method costs against GRPO: the committed results of `benchmarks/overhead.py`.

It reads them and runs nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.lab.report.page import Section

RESULTS = Path(__file__).parents[2] / "results"
FILES = ("overhead", "overhead_real")
"""The random model of 3 M parameters, and the real one of 135 M."""


def read(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the results that are there."""
    paths = [folder / f"{name}.json" for name in FILES]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def build_sections(folder: Path = RESULTS) -> list[Section]:
    """Return this part of the report."""
    section = Section("Overhead")
    section.add_text(
        "One update, nothing sampled, against one of GRPO. Time is the median ratio of pairs of steps in alternating "
        "order, with its 95 % interval (bootstrap); GRPO again is GRPO against itself, which is the machine's noise. "
        "Peak memory is what torch's allocator holds beyond the step's start, and parameters are those that learn, "
        "both beyond GRPO's. The validation rule is timed on the updates at which it runs, one of every K."
    )
    for result in read(folder):
        _tabulate(section, result)
    return [section]


def _tabulate(section: Section, result: dict[str, Any]) -> None:
    rows = [
        [
            name, f"{row['time_ratio']:.3f}", "[{:.3f}, {:.3f}]".format(*row["time_interval"]), str(row["pairs"]),
            _show_bytes(row["peak_bytes_over_grpo"]), f"{row['parameters_over_grpo']:+d}",
        ]
        for name, row in result["rows"].items()
    ]  # fmt: skip
    header = ["method", "time", "95 % interval", "pairs", "peak memory", "parameters"]
    section.add_table(header, rows, f"Time, memory and parameters against GRPO, {_describe_work(result)}")
    grpo, hardware = result["rows"]["GRPO again"], result["hardware"]
    section.add_text(
        f"GRPO's peak is {grpo['peak_bytes'] / 2**20:.0f} MiB. Measured with {hardware['threads']} of "
        f"{hardware['cores']} cores ({hardware['processor']}), load {hardware['load_1min']:g} at the end, revision "
        f"{result['revision'][:8]}."
    )
    section.add_command(result["command"])


def _describe_work(result: dict[str, Any]) -> str:
    work = result.get("workload")
    if work is None:  # written before the benchmark could train another model
        return "random model of 3 M parameters, 16 prompts × 8 responses of at most 64 tokens"
    return (
        f"{work['model']}, {work['parameters'] / 1e6:.0f} M parameters, {work['prompts']} prompts × "
        f"{work['group_size']} responses of at most {work['max_response_tokens']} tokens"
    )


def _show_bytes(count: int) -> str:
    return f"{count / 2**10:+.1f} KiB" if count else "0"
