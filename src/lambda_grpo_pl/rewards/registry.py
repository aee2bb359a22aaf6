"""Rewards by name: one line registers your own, a dotted path needs no registration."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from lambda_grpo_pl.rewards.verdict import Reward

REGISTRY: dict[str, Callable[..., Any]] = {}
"""Name → reward function, or class whose instances are rewards and whose arguments come from YAML."""

Entry = TypeVar("Entry", bound=Callable[..., Any])


def register(name: str) -> Callable[[Entry], Entry]:
    """Register a reward function or class under `name`.

    Example::

        @register("mentions_pi")
        def mentions_pi(completion, example):
            return "π" in completion

    Raises `ValueError` if the name is taken by something else.
    """

    def add(entry: Entry) -> Entry:
        if REGISTRY.get(name, entry) is not entry:
            raise ValueError(f"A reward named {name!r} is already registered: choose another name for {entry!r}.")
        REGISTRY[name] = entry
        return entry

    return add


def build(name: str, params: Mapping[str, Any]) -> Reward:
    """Make the reward `name` (registered, or a dotted path such as `my_pkg.my_mod.my_reward`) with its parameters.

    A class is instantiated with `params`; a function gets them as keyword arguments at every call. Raises `ValueError`
    for an unknown name, a path that does not import, and parameters that do not fit.
    """
    entry = REGISTRY[name] if name in REGISTRY else _import(name)
    if not callable(entry):
        raise ValueError(f"{name!r} is {type(entry).__name__}, not a reward: name a function or a class.")
    try:
        if inspect.isclass(entry):
            return cast(Reward, entry(**params))
        inspect.signature(entry).bind("", {}, **params)
    except TypeError as error:
        raise ValueError(f"The parameters {dict(params)} do not fit the reward {name!r}: {error}.") from error
    return partial(entry, **params) if params else entry


def _import(path: str) -> Any:
    module, _, attribute = path.rpartition(".")
    if not module:
        known = ", ".join(sorted(REGISTRY))
        raise ValueError(f"There is no reward {path!r}: use one of {known}, or a dotted path to your own function.")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The reward {path!r} could not be imported: {error}.") from error
