"""Rewards by name: one line registers your own, a dotted path needs no registration."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from lambda_grpo_pl.errors import UserError

REGISTRY: dict[str, Callable[..., Any]] = {}
"""Name → reward function, or class whose instances are rewards and whose arguments come from YAML."""
WHOLE_RESPONSE = "the whole response"
KEY = "reward.functions"
"""Where a configuration names rewards."""

_READS: dict[str, str] = {}
"""Name → what the reward reads, where that is not the whole response."""
_GRADED: set[str] = set()
"""Names of rewards that say how good a response is, not whether it is right."""

Entry = TypeVar("Entry", bound=Callable[..., Any])


def register(name: str, reads: str = WHOLE_RESPONSE, graded: bool = False) -> Callable[[Entry], Entry]:
    """Register a reward function or class under `name`.

    `reads` says which part of a response it looks at; `graded`, that it says how good a response is and not whether it
    is right: evaluations then show the mean score, and not the share of right responses.

    Example::

        @register("mentions_pi")
        def mentions_pi(completion, example):
            return "π" in completion

    Raises `UserError` if the name is taken by something else.
    """

    def add(entry: Entry) -> Entry:
        if REGISTRY.get(name, entry) is not entry:
            raise UserError(f"A reward named {name!r} is already registered: choose another name for {entry!r}.")
        REGISTRY[name], _READS[name] = entry, reads
        if graded:
            _GRADED.add(name)
        return entry

    return add


def describe(name: str) -> str:
    """Return which part of a response the reward `name` reads, in words that are printed with every score."""
    return _READS.get(name, WHOLE_RESPONSE)


def is_graded(name: str) -> bool:
    """Return whether the reward `name` says how good a response is, and not whether it is right."""
    return name in _GRADED


def build(name: str, params: Mapping[str, Any]) -> Callable[..., Any]:
    """Find the reward `name` (registered, or a dotted path such as `my_pkg.my_mod.my_reward`).

    A class is instantiated with `params`; a function is returned as it is, and gets them at every call. Raises
    `UserError` for an unknown name, a path that does not import, and parameters that do not fit.
    """
    entry: Any = REGISTRY[name] if name in REGISTRY else _import(name)
    if not callable(entry):
        raise UserError(f"{KEY} names {name!r}, which is of type {type(entry).__name__}: name a function or a class.")
    if not inspect.isclass(entry):
        return cast(Callable[..., Any], entry)
    try:
        return cast(Callable[..., Any], entry(**params))
    except TypeError as error:
        accepted = ", ".join(inspect.signature(entry).parameters) or "none"
        raise UserError(
            f"{KEY}: the params {dict(params)} do not fit the reward {name!r} ({error}): it takes {accepted}."
        ) from error


def import_plugins(names: Iterable[str]) -> None:
    """Import modules by dotted name, so that what they register can be named in YAML.

    Modules of the working directory are found too. Raises `UserError` for a name that cannot be found; an exception
    inside a module keeps its traceback.
    """
    for name in names:
        _import_module(name)


def _import_module(name: str) -> Any:
    """Import from `sys.path` with the working directory on it: a console script has its own folder there instead."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # the module exists, but imports another that does not
        raise UserError(
            f"There is no module {error.name!r} in {os.getcwd()} or among the installed packages: "
            "correct the name, start from the folder that holds the module, or set PYTHONPATH."
        ) from error


def _import(path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    if not module:
        known = ", ".join(sorted(REGISTRY))
        raise UserError(
            f"{KEY} names {path!r}, which is not a reward{_suggest(path, REGISTRY)}: use one of {known}, or a dotted "
            "path to your own function (module.function)."
        )
    try:
        found = _import_module(module)
    except UserError as error:
        raise UserError(f"{KEY} names {path!r}, which could not be imported: {error}") from error
    if not hasattr(found, attribute):
        raise UserError(
            f"{KEY} names {path!r}, but the module {module!r} has no {attribute!r}{_suggest(attribute, dir(found))}: "
            "correct the name."
        )
    return getattr(found, attribute)


def _suggest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
