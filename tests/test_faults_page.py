"""docs/faults.md names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS = re.findall(
    r"^\|(.*)\|(.*)\| `(.+)::(\w+)` \|$", (ROOT / "docs/faults.md").read_text(encoding="utf-8"), re.MULTILINE
)


@cache
def functions(file: str) -> set[str]:
    """Names of a test file's functions."""
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_test_and_there_are_enough() -> None:
    assert len(ROWS) >= 40
    for fault, outcome, file, name in ROWS:
        assert fault.strip()
        assert outcome.strip()
        assert name in functions(file), f"{file}::{name}"
