"""What every benchmark leaves behind: a table on the screen and one JSON file that says where and how it was made."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write(name: str, result: dict[str, Any], packages: Sequence[str] = ("torch", "lightning", "transformers")) -> Path:
    """Write results/<name>.json: the result with hardware, versions of `packages`, revision and command."""
    record = result | {
        "hardware": hardware(),
        "versions": {"python": platform.python_version()} | {package: _version(package) for package in packages},
        "revision": revision(),
        "command": " ".join(["python", *sys.argv]),
    }
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    print(f"→ {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    return path


def in_a_process(script: str, way: str, case: object, threads: int) -> dict[str, float]:
    """Run `script --threads N --child WAY CASE`, and return the JSON of its last line."""
    command = [sys.executable, script, "--threads", str(threads), "--child", way, json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def resident_bytes() -> int:
    """Return this process's resident set."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """Return the largest this process's resident set has been since it was started.

    `ru_maxrss` would not do: Linux lets a process inherit it from the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a header, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        first, *others = zip(row, widths, strict=True)
        print("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]))


def hardware() -> dict[str, Any]:
    """Processor, cores, load while measuring, and the GPU if there is one."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["gpu"] = torch.cuda.get_device_name()
    return facts


def revision() -> str:
    """The commit, with a `+` if files of the package or of the benchmarks differ from it."""
    root = RESULTS.parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=root).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    return git("rev-parse", "HEAD") + ("+" if changed else "")


def median_of_ratios(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over rounds of ours / theirs: what the machine does to both in a round cancels."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
