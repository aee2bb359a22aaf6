"""`lambda-grpo report RUN…`: one HTML page for any runs, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.reporting.contents import collect
from lambda_grpo_pl.reporting.page import render
from lambda_grpo_pl.reporting.responses import DEFAULT_RESPONSES
from lambda_grpo_pl.reporting.runs import read_runs


def write_report(runs: Sequence[str | Path], out: str | Path, num_responses: int = DEFAULT_RESPONSES) -> str:
    """Write the page and return one line that says what it holds.

    Args:
        runs: Folders of runs, or of one evaluation of a run.
        out: The page; it replaces a file of that name.
        num_responses: Most responses in the page; 0 for none.

    Raises:
        UserError: A folder that is not a run, or a page that cannot be written there.
    """
    out = Path(out)
    if num_responses < 0:
        raise UserError(f"--responses is {num_responses}: set it to 0 or more.")
    if out.is_dir() or not out.parent.is_dir():
        problem = "is a folder" if out.is_dir() else "is in a folder that does not exist"
        raise UserError(f"--out {out} {problem}: name a file, for example report.html.")
    contents = collect(read_runs(runs), num_responses)
    page = render(contents).encode()
    partial = out.with_name(out.name + ".partial")
    partial.write_bytes(page)
    partial.replace(out)
    shown, total = len(contents["responses"]["items"]), contents["responses"]["total"]
    num_runs = len(contents["runs"])
    return f"{out}: {num_runs} run{'s' * (num_runs > 1)}, {shown} of {total} responses, {len(page) / 1e6:.1f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; the command line of `lambda-grpo report`."""
    parser = argparse.ArgumentParser(
        prog="lambda-grpo report", description="Write one HTML page that shows runs side by side."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs, or of one evaluation")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page; default: report.html")
    parser.add_argument(
        "--responses",
        type=int,
        default=DEFAULT_RESPONSES,
        metavar="N",
        help=f"most responses in the page; default: {DEFAULT_RESPONSES}",
    )
    arguments = parser.parse_args(argv)
    print(write_report(arguments.runs, arguments.out, arguments.responses))
    return 0
