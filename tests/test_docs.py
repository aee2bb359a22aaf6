"""Fenced code in the documents: YAML fits the configuration's classes, Python imports what exists and runs.

A comment `<!-- needs: … -->` before a Python block names what it takes that a test cannot bring, such as the hub; its
imports are resolved, but it does not run.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lambda_grpo_pl.callbacks import metric_names
from lambda_grpo_pl.data import benchmarks
from lambda_grpo_pl.rewards import registry
from tests.test_configs import BASE, ROOT, parse

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
FENCE = re.compile(r"(?:<!-- needs: (?P<needs>[^>]+) -->\n+)?```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)


def fenced(language: str) -> dict[str, tuple[str, bool]]:
    """Blocks of a language: where → (code, whether it can run here)."""
    found = {}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for block in FENCE.finditer(text):
            if block["language"] == language:
                line = text[: block.start("code")].count("\n") + 1
                found[f"{document.relative_to(ROOT)}:{line}"] = block["code"], block["needs"] is None
    return found


SHARED = (
    (benchmarks, "BENCHMARKS"),
    (metric_names, "METRICS"),
    (registry, "REGISTRY"),
    (registry, "_READS"),
)
"""Tables that an example may add an entry to."""

YAML, PYTHON = fenced("yaml"), fenced("python")


@pytest.mark.parametrize("where", YAML)
def test_yaml_in_documents_fits_the_configuration(parser: Any, where: str, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(YAML[where][0], encoding="utf-8")
    parse(parser, ["fit", *BASE, "--config", str(overlay)])


def package_imports(code: str) -> Iterator[tuple[str, str]]:
    """(module, name) of everything a block imports from this package."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lambda_grpo_pl"):
            yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize("where", PYTHON)
def test_python_in_documents_imports_what_exists(where: str) -> None:
    for module, name in package_imports(PYTHON[where][0]):
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@pytest.mark.parametrize("where", [where for where, (_, runs) in PYTHON.items() if runs])
def test_python_in_documents_runs(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module, name in SHARED:
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    exec(compile(PYTHON[where][0], where, "exec"), {"__name__": "example"})


def test_the_documents_hold_code() -> None:
    """Else the extraction is broken, and the tests above check nothing."""
    assert len(YAML) >= 2
    assert len(PYTHON) >= 4
