"""Configuration files as users write them: what is wrong with one, and in which line a key is set."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml

from lambda_grpo_pl.cli.help import SECTIONS
from lambda_grpo_pl.cli.presets import name_presets
from lambda_grpo_pl.errors import UserError

_TOP = "|".join(dict.fromkeys(section.split(".")[0] for section in SECTIONS))
_WRONG_KEY = re.compile(
    rf"(?<![\w.(`-])((?:{_TOP})(?:\.\w+|\[\d+\])+|seed_everything)(?=: | is | names | needs | takes | has | lets )"
)
"""A key of which a sentence says something; one to change instead follows `set`, `raise`, … and is not meant."""


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
            near = get_close_matches(path.stem, [each.stem for each in path.parent.glob("*.yaml")], n=1)
            guess = f" (did you mean {path.parent / near[0]}.yaml?)" if near else ""
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
    """Return where a key was set last, as `FILE:LINE` or "on the command line"; nothing if that is not known.

    `data.val[1].path` is the path of the second item.
    """
    key = key.replace("[", ".").replace("]", "")
    for place in reversed(range(len(arguments))):
        option, _, value = arguments[place].partition("=")
        option = option.rstrip("+")
        if option.startswith("--") and f"--{key}.".startswith(f"{option}."):
            return "on the command line"
        if option in ("--config", "-c"):
            name = value or next(iter(arguments[place + 1 : place + 2]), "")
            node = _compose(Path(name)) if Path(name).is_file() else None
            line = None if node is None else _find_line(node, key.split("."))
            if line is not None:
                return f"{name_presets([name])[0]}:{line}"
    return ""


def point_at_settings(sentence: str, arguments: Sequence[str]) -> str:
    """Return a sentence with the place behind each key that it says is wrong, where the user has set it."""

    def add_place(match: re.Match[str]) -> str:
        place = locate_key(match[1], arguments)
        return f"{match[1]} ({place})" if place else match[1]

    return _WRONG_KEY.sub(add_place, sentence)


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
    """Return the line of a dotted key; a number is an item of a list, else its items are searched in order."""
    if isinstance(node, yaml.SequenceNode) and parts[0].isdigit():
        item = node.value[int(parts[0])] if int(parts[0]) < len(node.value) else None
        return None if item is None else _find_line(item, parts[1:]) or int(item.start_mark.line) + 1
    if isinstance(node, yaml.SequenceNode):
        return next((line for item in node.value if (line := _find_line(item, parts)) is not None), None)
    if not isinstance(node, yaml.MappingNode) or not parts:
        return None
    for key, value in node.value:
        own = str(key.value).rstrip("+").split(".")
        if own == list(parts[: len(own)]):
            rest = parts[len(own) :]
            return _find_line(value, rest) if rest else int(key.start_mark.line) + 1
    return None
