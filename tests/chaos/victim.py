"""Run by the harness: the command line, prepared to die. `python -m tests.chaos.victim fit …`

Where one process trains, the harness forks instead, which saves importing everything once more.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import torch

from lambda_grpo_pl.cli import entry
from tests.chaos.kill_points import plant_from_environment


def main() -> int:
    """Run the command line with this process's arguments and environment; return its exit status."""
    torch.set_num_threads(1)
    plant_from_environment()
    return entry.main()


def run_forked(words: list[str], environment: dict[str, str], log: Path) -> int:
    """Run the command line in a fork of this process, in a process group with the number that is returned."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        os.setsid()
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(environment)
        sys.argv = ["lambda-grpo", *words]
        status = main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # nothing may leave a fork but its exit status
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
