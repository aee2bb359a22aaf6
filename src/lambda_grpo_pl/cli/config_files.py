"""Configuration files as users write them: what is wrong with one, and in which line a key is set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

from lambda_grpo_pl.errors import UserError


def config_paths(arguments: Sequence[str]) -> list[str]:
    """Return what `--config` and `-c` name, in order."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    paths: list[str] = parser.parse_known_args(arguments)[0].config
    return paths


def check_config_files(arguments: Sequence[str]) -> None:
    """Check that each configuration file exists and holds a mapping. Raises `UserError` with file, line and remedy."""
    for name in config_paths(arguments):
        path = Path(name)
        if not path.is_file():
            near = get_close_matches(path.name, [each.name for each in path.parent.glob("*.yaml")], n=1)
            guess = f" (did you mean {path.parent / near[0]}?)" if near else ""
            raise UserError(f"--config is {name}, but there is no such file{guess}: fix the path.")
        node = _compose(path)
        if node is None:
            raise UserError(
                f"{path} is empty: give it settings, such as `trainer: {{max_steps: 100}}`, or leave it out."
            )
        if not isinstance(node, yaml.MappingNode):
            kind = "list" if isinstance(node, yaml.SequenceNode) else "single value"
            raise UserError(f"{path} holds a {kind}, not a mapping: write sections, such as `trainer:`, at its top.")
        _check_repeated(path, node, "")


def locate_key(key: str, arguments: Sequence[str]) -> str:
    """Return where a key was set last, as `FILE:LINE` or "on the command line"; nothing if that is not known."""
    for place in reversed(range(len(arguments))):
        option, _, value = arguments[place].partition("=")
        option = option.rstrip("+")
        if option == f"--{key}" or (f"--{key}".startswith(f"{option}.") and option.startswith("--") and value):
            return "on the command line"
        if option in ("--config", "-c"):
            name = value or next(iter(arguments[place + 1 : place + 2]), "")
            node = _compose(Path(name)) if Path(name).is_file() else None
            line = None if node is None else _find_line(node, key.split("."))
            if line is not None:
                return f"{name}:{line}"
    return ""


def _compose(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        column = f", column {mark.column + 1}" if mark else ""
        raise UserError(
            f"{place} is not valid YAML ({error.problem}{column}): check brackets, quotes and indentation (spaces, no "
            "tabs) there and in the line before."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8.") from error


def _check_repeated(path: Path, node: yaml.MappingNode, prefix: str) -> None:
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.value in seen:
            raise UserError(
                f"{path}:{line} sets {prefix}{key.value} again, after line {seen[key.value]}: only the last would "
                "count, so join the two."
            )
        seen[key.value] = line
        if isinstance(value, yaml.MappingNode):
            _check_repeated(path, value, f"{prefix}{key.value}.")


def _find_line(node: yaml.Node, parts: Sequence[str]) -> int | None:
    """Return the line of a dotted key; items of a list are searched in order."""
    if isinstance(node, yaml.SequenceNode):
        return next((line for item in node.value if (line := _find_line(item, parts)) is not None), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    for key, value in node.value:
        own = str(key.value).rstrip("+").split(".")
        if own == list(parts[: len(own)]):
            rest = parts[len(own) :]
            return _find_line(value, rest) if rest else int(key.start_mark.line) + 1
    return None
