"""jsonargparse's complaints as one sentence with key, file and remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

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
MAX_LISTED = 12

_KEY = re.compile(r'Parser key "([\w.]+)"')
_VALUE = re.compile(r"Given value: (?P<given>.*)\Z|Got value: (?P<got>[^\n]*)", re.DOTALL)
_NESTED = re.compile(r"NestedArg\(key='([\w.]+)', val=(.*)\)", re.DOTALL)
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
    found = [name for name in _KEY.findall(message) if name]
    key = ".".join(_without_repeats(found))
    unknown = _UNKNOWN.search(message)
    if unknown:
        name = next(filter(None, unknown.groups()))
        full = name if name.split(".")[0] in _sections(keys) and "." in name else f"{key}.{name}".lstrip(".")
        return _explain_unknown(full, keys, arguments)
    if key in CLASSES and (missing := _CLASS.search(message)):
        return (
            f"{_place(key, arguments)}: there is no class {missing[1]} ({missing[2].rstrip('.')}): fix its class_path, "
            f"or start from the folder that holds {missing[1].split('.')[0]}.py."
        )
    if key:
        return _explain_value(key, message, keys, arguments)
    return f"{' '.join(message.split()).rstrip('.')}. `lambda-grpo fit --help` lists the sections of the configuration."


def unwrap(message: str) -> str:
    """Return what a section refused, out of jsonargparse's list of everything that a value might have been instead."""
    if "Union subtypes" not in message:
        return message
    reasons = [line for line in re.findall(r"^\s*- (.+)$", message, re.MULTILINE) if not _OF_THE_PARSER.match(line)]
    return reasons[0] if reasons else message


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
    return f"Unexpected argument {first!r}: options start with --, and a value with spaces needs quotes around it."


def _explain_unknown(name: str, keys: Mapping[str, Key], arguments: Sequence[str]) -> str:
    return f"{_place(name, arguments)} is not a key: {suggest_key(name, keys)}"


def _explain_value(key: str, message: str, keys: Mapping[str, Key], arguments: Sequence[str]) -> str:
    given = [match["given"] or match["got"] or "" for match in _VALUE.finditer(message)]
    value = given[-1].strip() if given else ""
    nested = _NESTED.search(value)
    if nested:
        key = key if key.endswith(f".{nested[1]}") else f"{key}.{nested[1]}"
        value = nested[2].strip("'\"")
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
    shown = "null" if value == "None" else value if len(value) <= 80 else f"{value[:80]}…"
    return (
        f"{_place(key, arguments)} is {shown or 'empty'}, but must be {expected}{quotes}; "
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


def _without_repeats(names: Sequence[str]) -> list[str]:
    """Join nested messages: an inner key may repeat the outer one in full."""
    joined: list[str] = []
    for name in names:
        if joined and name.startswith(".".join(joined) + "."):
            joined = [name]
        elif not joined or name != joined[-1]:
            joined.append(name)
    return joined[:2]
