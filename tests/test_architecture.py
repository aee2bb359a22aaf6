"""Who may import whom: text stays out of the module, the objective stays pure, frameworks stay where they belong."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "lambda_grpo_pl"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "batch": set(),
    "sampling_settings": set(),
    "objective": set(),
    "rewards": set(),
    "builtin": set(),
    "policy": {"batch", "builtin"},
    "sampling": {"batch", "sampling_settings"},
    "data": {"batch", "builtin", "sampling_settings"},
    "evaluation": {"data", "sampling_settings"},
    "planning": {"batch", "builtin", "policy", "sampling"},
    "rollout": {"batch", "sampling", "rewards"},
    "replay": {"batch"},
    "training": {"batch", "objective", "policy"},
    "callbacks": {"batch", "sampling_settings", "sampling", "rollout", "rewards", "data", "evaluation", "replay"},
    "reporting": {"data", "evaluation", "callbacks"},
    "__init__": {"objective", "rewards", "policy", "sampling", "data", "training", "callbacks"},
    "cli": {
        "builtin",
        "data",
        "evaluation",
        "objective",
        "planning",
        "replay",
        "reporting",
        "sampling",
        "training",
        "callbacks",
    },
}
"""Room of the house → the rooms below it that it may import."""

TORCH_FREE = {"errors", "rewards", "sampling_settings"}

FRAMEWORKS = {
    "lightning": {"training", "data", "replay", "callbacks", "cli"},
    "vllm": {"sampling"},
    "wandb": {"callbacks"},
    "peft": {"policy"},
    "torch": set(ROOMS) - TORCH_FREE,
    "transformers": {"policy", "sampling", "builtin", "data", "planning", "cli"},
    "jsonargparse": {"cli"},
    "math_verify": {"rewards"},
    "datasets": {"data"},
}
"""Library → the rooms that may import it."""

FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Dotted names of every import in a file, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write {PACKAGE}. in full"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_rooms(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {name[1] for name in names if name[0] == PACKAGE and name[1] not in (room_of(path), "errors", "__version__")}


def test_every_room_is_in_the_plan() -> None:
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_the_rooms_below_it(path: Path) -> None:
    assert own_rooms(path) <= ROOMS.get(room_of(path), set())


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions count; those for type checkers alone do too."""
    modules = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in FILES}
    graph = {
        module: {target for name in imports(path) for target in (name, name.rpartition(".")[0]) if target in modules}
        for module, path in modules.items()
    }
    graph = {module: targets - {module} for module, targets in graph.items() if not module.endswith("__init__")}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_library_is_imported_only_where_it_belongs(path: Path) -> None:
    for library in {name.split(".")[0] for name in imports(path)} & set(FRAMEWORKS):
        assert room_of(path) in FRAMEWORKS[library], f"{path.name} imports {library}"


def test_the_objective_needs_torch_alone() -> None:
    standard = {"__future__", "collections", "dataclasses", "math", "typing"}
    for path in SOURCE.glob("objective/*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= standard | {"torch", PACKAGE}, path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_is_no_longer_than_a_reader_holds(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 50, f"{path.name}: {node.name}"


def test_settings_are_given_by_name() -> None:
    """So that a field can be added anywhere, and nobody counts positions."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Settings", "Spec")):
                for decorator in map(ast.unparse, node.decorator_list):
                    assert not decorator.startswith("dataclass") or "kw_only=True" in decorator, node.name
