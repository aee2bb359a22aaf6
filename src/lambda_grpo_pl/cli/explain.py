"""jsonargparse's complaints as one sentence with key, file and remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import yaml

from lambda_grpo_pl.cli.config_files import locate_key
from lambda_grpo_pl.cli.keys import Key, describe_type
from lambda_grpo_pl.training.config import PRECISIONS

ALLOWED = {"trainer.precision": f"one of {', '.join(PRECISIONS)}"}
"""Keys that take fewer values than their type says."""
CLASSES = {
    "trainer.callbacks": "lightning.pytorch.callbacks.LearningRateMonitor",
    "trainer.logger": "lightning.pytorch.loggers.TensorBoardLogger",
    "trainer.strategy": "lightning.pytorch.strategies.DDPStrategy",
    "trainer.plugins": "lightning.pytorch.plugins.io.AsyncCheckpointIO",
    "trainer.profiler": "lightning.pytorch.profilers.SimpleProfiler",
}
"""Keys whose values name classes, with an example."""
AS_WRITTEN = {"None": "null", "True": "true", "False": "false"}
"""Values as Python prints them, and as YAML has them."""
MAX_LISTED = 12

_KEY = re.compile(r'([ -]*)Parser key "([\w.]+)":')
_VALUE = re.compile(r"(?:Given|Got) value: (.*)")
_NESTED = re.compile(r"NestedArg\(key='([\w.]+)', val=(.*)\)$", re.MULTILINE)
_READ_ITEM = "Namespace(class_path="
"""How an item of a list looks that was read before the one that is wrong."""
_UNKNOWN = re.compile(r"[Oo]ption '([\w.]+)' is not accepted|does not accept option '([\w.]+)'")
_OF_THE_PARSER = re.compile("Expected |Does not |Not a valid |a class path |a dict |Problem with |Unable to ")
"""What jsonargparse itself says of a value that is of another type."""
_CLASS = re.compile(r"Problem with given class_path '([^']+)':\s*([^\n]*)")


class ParserError(ValueError):
    """What the parser found wrong with an argument or a file, in its own words."""


def explain(message: str, keys: Mapping[str, Key], arguments: Sequence[str]) -> str:
    """Return what is wrong, where, and what to do.

    Args:
        message: The parser's.
        keys: All keys of the subcommand.
        arguments: The command line, whose configuration files are searched for the key.
    """
    stray = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if stray:
        return _explain_stray(stray[1], keys)
    key, said = _innermost(message)
    unknown = _UNKNOWN.search(message)
    if unknown:
        name = next(filter(None, unknown.groups()))
        full = name if name.split(".")[0] in _sections(keys) and "." in name else f"{key}.{name}".lstrip(".")
        return _explain_unknown(full, message, keys, arguments)
    if key in CLASSES and (missing := _CLASS.search(message)):
        return (
            f"{_place(key, arguments)}: there is no class {missing[1]} ({missing[2].rstrip('.')}): fix its class_path, "
            f"or start from the folder that holds {missing[1].split('.')[0]}.py."
        )
    if key:
        return _explain_value(key, said, message, keys, arguments)
    return f"{' '.join(message.split()).rstrip('.')}. `lambda-grpo fit --help` lists the sections of the configuration."


def unwrap(message: str) -> str:
    """Return what a section refused, out of jsonargparse's list of everything that a value might have been instead."""
    if "Union subtypes" not in message:
        return message
    reasons = [line for line in re.findall(r"^\s*- (.+)$", message, re.MULTILINE) if not _OF_THE_PARSER.match(line)]
    return reasons[0] if reasons else message


def read_unread(value: object) -> object:
    """Return the mapping or list that a text was meant to be, or None for anything else.

    A source may be a path, so the parser takes `{path: x, limit: y}` for one where it cannot read it as a mapping.
    """
    texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    unread = [text for text in texts if text.lstrip().startswith(("{", "["))]
    try:
        return yaml.safe_load(unread[0]) if unread else None
    except yaml.YAMLError:
        return None


def suggest_key(name: str, keys: Mapping[str, Key]) -> str:
    """Return what an unknown key was probably meant to be, or the keys that its section has."""
    parts = name.split(".")
    for depth in range(len(parts)):
        prefix = ".".join(parts[:depth])
        siblings = _members(prefix, keys)
        if parts[depth] in siblings:
            continue
        near = get_close_matches(parts[depth], siblings, n=1)
        if near:
            whole = ".".join([*parts[:depth], near[0], *parts[depth + 1 :]])
            known = whole in keys or bool(_members(whole, keys))
            return f"did you mean {whole if known else f'{prefix}.{near[0]}'.lstrip('.')}?"
        if siblings and len(siblings) <= MAX_LISTED:
            return f"{prefix} has the keys {', '.join(siblings)}." if prefix else f"sections: {', '.join(siblings)}."
        anywhere = get_close_matches(name, keys, n=1)
        listed = f"`lambda-grpo fit --help{f' {prefix}' if prefix else ''}` lists the keys."
        return f"did you mean {anywhere[0]}? {listed}" if anywhere else listed
    return f"{name} takes no further keys." if name in keys else "`lambda-grpo fit --help` lists the sections."


def _explain_stray(words: str, keys: Mapping[str, Key]) -> str:
    first = words.split()[0]
    if first.startswith("--"):
        name = first.removeprefix("--").split("=")[0].rstrip("+")
        return f"{first.split('=')[0]} is not an option: {suggest_key(name, keys)}"
    if first.endswith((".yaml", ".yml")):
        return f"Unexpected argument {first!r}: write --config {first}."
    return f"Unexpected argument {first!r}: options start with --, and a value with spaces needs quotes around it."


def _explain_unknown(name: str, message: str, keys: Mapping[str, Key], arguments: Sequence[str]) -> str:
    return f"{_place(_number_items(name, message), arguments)} is not a key: {suggest_key(name, keys)}"


def _explain_value(key: str, said: str, message: str, keys: Mapping[str, Key], arguments: Sequence[str]) -> str:
    given = _VALUE.findall(said)
    value = given[0].strip() if given else ""
    if nested := _NESTED.search(value):
        key = key if key.endswith(f".{nested[1]}") else f"{key}.{nested[1]}"
        value = nested[2].strip("'\"")
    shown_key = _number_items(key, message)
    if key not in keys:
        return f"{_place(key, arguments)}: {' '.join(message.split())}."
    if value == "None" and not locate_key(key, arguments):
        return (
            f"{key} is not set: set it, or start from a configuration that does, such as --config preset:lambda; "
            f"`lambda-grpo fit --help {key}` explains it."
        )
    expected = ALLOWED.get(key) or describe_type(keys[key].type)
    if key in CLASSES:
        expected = f"a class such as {CLASSES[key]}, a list of classes, or false"
    quotes = " (in a shell, put quotes around a value with spaces or brackets)" if value[:1] in "[{" and value else ""
    shown = AS_WRITTEN.get(value) or (value if len(value) <= 80 else f"{value[:80]}…")
    return (
        f"{_place(shown_key, arguments)} is {shown or 'empty'}, but must be {expected}{quotes}; "
        f"`lambda-grpo fit --help {key}` explains it."
    )


def _place(key: str, arguments: Sequence[str]) -> str:
    where = locate_key(key, arguments)
    return f"{key} ({where})" if where else key


def _members(prefix: str, keys: Mapping[str, Key]) -> list[str]:
    start = f"{prefix}." if prefix else ""
    return list(dict.fromkeys(key.removeprefix(start).split(".")[0] for key in keys if key.startswith(start)))


def _sections(keys: Mapping[str, Key]) -> list[str]:
    return _members("", keys)


def _innermost(message: str) -> tuple[str, str]:
    """Return the key that the parser came down to before it gave up, and what it says there.

    Messages are nested by indentation, and an inner key may repeat the outer one in full. Of several alternatives, the
    one that fits farthest down is what was meant.
    """
    deepest: tuple[str, str] = ("", message)
    above: list[tuple[int, str]] = []
    for match in _KEY.finditer(message):
        above = [(indent, key) for indent, key in above if indent < len(match[1])]
        outer = above[-1][1] if above else ""
        key = match[2] if not outer or match[2].startswith(f"{outer}.") else f"{outer}.{match[2]}"
        above.append((len(match[1]), key))
        if key.count(".") > deepest[0].count(".") or not deepest[0]:
            deepest = key, message[match.end() :]
    return deepest


def _number_items(key: str, message: str) -> str:
    """Return a key with the place of the wrong item, such as reward.functions[1].weight, if it is one of a list."""
    outer, given = _KEY.search(message), _VALUE.findall(message)
    if outer and given and given[-1].startswith("[") and key.startswith(f"{outer[2]}."):
        return f"{outer[2]}[{given[-1].count(_READ_ITEM)}]{key.removeprefix(outer[2])}"
    return key
