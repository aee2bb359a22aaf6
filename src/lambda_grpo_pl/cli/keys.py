"""Every key of the configuration with its type, default and description, those inside optional parts included."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse_from_object
from jsonargparse import ArgumentParser

NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    dict: "a mapping",
}
MAPPING = "a mapping"
NOT_KEYS = ("help", "config", "print_config", "subcommand")
PYTHON_ONLY = ("rows", "holds_messages")
"""Fields of `PromptSource` that no configuration sets."""


class Key(NamedTuple):
    """One key."""

    type: Any
    """Its type hint, or None if it has none."""
    default: Any
    """Its default."""
    help: str
    """What it does, as its docstring says."""


def list_keys(parser: ArgumentParser) -> dict[str, Key]:
    """Return full name → key of a subcommand's parser, in the order of its sections."""
    keys: dict[str, Key] = {}
    for action in parser._actions:
        name = action.dest
        is_section = type(action).__name__ == "_ActionConfigLoad"
        if is_section or name in NOT_KEYS or name.endswith(".help") or not action.option_strings:
            continue
        if action.default == "==SUPPRESS==":
            continue  # the target of a link, which is set through its source
        kind = getattr(action, "_typehint", action.type)
        keys[name] = Key(kind, action.default, action.help or "")
        keys.update(_expand(name, kind))
    return keys


def find_parts(kind: Any) -> list[type]:
    """Return the dataclasses in a type hint: what the value of a key may consist of."""
    if dataclasses.is_dataclass(kind):
        return [kind]  # type: ignore[list-item]
    return [part for argument in get_args(kind) if not isinstance(argument, str) for part in find_parts(argument)]


def field_names(part: type) -> list[str]:
    """Return the fields of a dataclass that a configuration sets."""
    return [field.name for field in dataclasses.fields(part) if field.init and field.name not in PYTHON_ONLY]  # type: ignore[arg-type]


def describe_type(kind: Any) -> str:
    """Return what a value must be, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, types.UnionType):
        kinds = [describe_type(each) for each in arguments if not getattr(each, "_is_protocol", False)]
        return " or ".join(dict.fromkeys(kinds))
    if dataclasses.is_dataclass(kind):
        return f"{MAPPING} with the keys {', '.join(field_names(kind))}"  # type: ignore[arg-type]
    if origin in (list, tuple):
        item = describe_type(arguments[0]) if arguments else ""
        if item.startswith(MAPPING):
            return f"a list of mappings{item.removeprefix(MAPPING)}, such as [{{{item.split()[5].rstrip(',')}: …}}]"
        return f"a list, each {item}" if item else "a list"
    return MAPPING if dict in (kind, origin) else NAMES.get(kind) or f"a {getattr(kind, '__name__', str(kind))}"


def _expand(prefix: str, kind: Any) -> Iterator[tuple[str, Key]]:
    for part in find_parts(kind):
        hints = get_type_hints(part)
        bases = [base for base in reversed(part.__mro__) if dataclasses.is_dataclass(base)]  # fields may be inherited
        described = {each.arg_name: each.description or "" for base in bases for each in parse_from_object(base).params}
        for field in dataclasses.fields(part):  # type: ignore[arg-type]
            if field.name not in field_names(part):
                continue
            name, hint = f"{prefix}.{field.name}", hints[field.name]
            default = None if field.default is dataclasses.MISSING else field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            yield name, Key(hint, default, described.get(field.name, ""))
            yield from _expand(name, hint)
