"""How a reward function is called, and how what it returned is checked. The same inline and in a worker.

The parameters of a function say what it takes:

    (completion, example)                one response and its dataset row
    (completions, examples)              all responses of the batch and their rows; a list of results
    (prompts, completions, **columns)    likewise, with the columns of the rows as lists: TRL's signature

`@groupwise` calls the second and third form with the G responses of one prompt at a time. Each may be `async`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.rewards.registry import build
from lambda_grpo_pl.rewards.verdict import Verdict, as_verdict

Row = Mapping[str, Any]
"""A dataset row with `response_length` and `truncated`."""
Scope = Literal["response", "group", "batch"]
"""How many responses one call scores."""
Entry = TypeVar("Entry", bound=Callable[..., Any])

SIGNATURES = "(completion, example), (completions, examples) or (prompts, completions, **columns)"


class RewardError(RuntimeError):
    """A reward function raised an exception; it is chained, with the traceback of the user's code."""


class CallUnit(NamedTuple):
    """The responses that one call scores."""

    completions: Sequence[str]
    rows: Sequence[Row]


def groupwise(function: Entry) -> Entry:
    """Mark a reward that takes lists to be called with the G responses of one prompt at a time.

    Example::

        @groupwise
        def shortest_wins(completions, examples):
            lengths = [example["response_length"] for example in examples]
            return [length == min(lengths) for length in lengths]
    """
    function.scope = "group"  # type: ignore[attr-defined]
    return function


class RewardCaller:
    """A reward with its name and parameters, ready to be called.

    Raises `UserError` if its signature is not one of those above.
    """

    def __init__(self, name: str, function: Callable[..., Any], params: Mapping[str, Any]) -> None:
        self.name, self.function, self.params = name, function, dict(params)
        parameters = _parameters(function)
        takes_lists = "completions" in parameters
        self.takes_columns = takes_lists and "examples" not in parameters
        declared: Scope = getattr(function, "scope", "batch")
        self.scope: Scope = declared if takes_lists else "response"
        self._accepts = {name for name, kind in parameters.items() if kind != inspect.Parameter.VAR_KEYWORD}
        self._accepts_any = inspect.Parameter.VAR_KEYWORD in parameters.values()
        if not self.takes_columns:
            self._check_signature()

    @classmethod
    def build(cls, name: str, params: Mapping[str, Any]) -> RewardCaller:
        """Find the reward `name` in the registry or by its dotted path: `params` go to a class or to each call."""
        function = build(name, params)
        return cls(name, function, params if inspect.isroutine(function) else {})

    def split(self, completions: Sequence[str], rows: Sequence[Row], groups: Sequence[int]) -> Iterator[CallUnit]:
        """Split N responses into what one call takes each; `groups` are the sizes of the groups, in order."""
        sizes = {"response": [1] * len(rows), "group": groups, "batch": [len(rows)] if rows else []}[self.scope]
        start = 0
        for size in sizes:
            yield CallUnit(completions[start : start + size], rows[start : start + size])
            start += size

    def score(self, units: Sequence[CallUnit]) -> list[Verdict]:
        """Score the responses of all units in order; the coroutines of async rewards run concurrently.

        Raises `UserError` for a wrong return, and `RewardError` if the function raises.
        """
        results = [self._call(unit) for unit in units]
        pending = [number for number, result in enumerate(results) if inspect.isawaitable(result)]
        if pending:
            awaited = _run_all([self._await(results[number], units[number]) for number in pending])
            for number, result in zip(pending, awaited, strict=True):
                results[number] = result
        return [verdict for unit, result in zip(units, results, strict=True) for verdict in self._read(unit, result)]

    def _check_signature(self) -> None:
        try:
            if self.scope == "response":
                inspect.signature(self.function).bind("", {}, **self.params)
            else:
                inspect.signature(self.function).bind(completions=[], examples=[], **self.params)
        except TypeError as error:
            params = f", and {', '.join(self.params)} (its params) as keyword arguments" if self.params else ""
            raise UserError(
                f"The reward {self.name!r} in reward.functions takes {inspect.signature(self.function)}, but must take "
                f"{SIGNATURES}{params}: {error}."
            ) from error
        except ValueError:  # a builtin has no signature
            pass

    def _call(self, unit: CallUnit) -> Any:
        try:
            if self.scope == "response":
                return self.function(unit.completions[0], unit.rows[0], **self.params)
            if self.takes_columns:
                return self.function(**self._columns(unit))
            return self.function(completions=list(unit.completions), examples=list(unit.rows), **self.params)
        except Exception as error:
            raise self._explain(error, unit) from error

    async def _await(self, result: Awaitable[Any], unit: CallUnit) -> Any:
        try:
            return await result
        except Exception as error:
            raise self._explain(error, unit) from error

    def _explain(self, error: Exception, unit: CallUnit) -> Exception:
        """Name the reward and the example; a `UserError` stays one."""
        if isinstance(error, UserError):
            return UserError(f"{error} ({_locate(unit)})")
        return RewardError(f"The reward {self.name!r} raised {type(error).__name__} on {_locate(unit)}: {error}")

    def _columns(self, unit: CallUnit) -> dict[str, Any]:
        """TRL's keyword arguments: prompts, completions, and every column as a list."""
        columns: dict[str, Any] = {key: [row.get(key) for row in unit.rows] for key in unit.rows[0] if key != "prompt"}
        columns |= {"prompts": [row.get("prompt", "") for row in unit.rows], "completions": list(unit.completions)}
        columns |= self.params
        signature = inspect.signature(self.function)
        missing = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            and name not in columns
        ]
        if missing:
            raise UserError(
                f"The reward {self.name!r} requires the columns {', '.join(missing)}, which the data does not have; "
                f"it has {', '.join(sorted(columns))}."
            )
        return columns if self._accepts_any else {key: columns[key] for key in columns if key in self._accepts}

    def _read(self, unit: CallUnit, result: Any) -> list[Verdict]:
        if self.scope == "response":
            return [as_verdict(result, repr(self.name))]
        values = result if isinstance(result, list | tuple) and not isinstance(result, Verdict) else None
        if values is None and hasattr(result, "tolist"):
            values = result.tolist()
        if not isinstance(values, list | tuple) or len(values) != len(unit.rows):
            found = f"{len(values)} values" if isinstance(values, list | tuple) else type(result).__name__
            raise UserError(
                f"The reward {self.name!r} returned {found} for {len(unit.rows)} responses: return a list with one "
                "number per response."
            )
        return [as_verdict(value, repr(self.name)) for value in values]


class IsolatedReward:
    """A reward as the pool's function: its verdicts, or the sentence of its `UserError`, as JSON values."""

    def __init__(self, caller: RewardCaller) -> None:
        self.caller = caller
        function = caller.function
        self.__module__ = getattr(function, "__module__", "")  # what the pool checks: `__main__` is refused
        if "<" in getattr(function, "__qualname__", ""):
            raise UserError(
                f"The reward {caller.name!r} is isolated, so it must be a function or class at the top level "
                "of a module."
            )

    def __call__(self, completions: Sequence[str], rows: Sequence[Row]) -> Any:
        """Score one unit."""
        try:
            verdicts = self.caller.score([CallUnit(completions, rows)])
        except UserError as error:
            return {"user_error": str(error)}
        return [[*verdict[:4], dict(verdict.extras)] for verdict in verdicts]


def _parameters(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.func if isinstance(function, partial) else function
    try:
        return {name: parameter.kind for name, parameter in inspect.signature(target).parameters.items()}
    except (TypeError, ValueError):  # a builtin has no signature
        return {}


def _locate(unit: CallUnit) -> str:
    names = [str(row.get("id", row.get("index", "?"))) for row in unit.rows]
    distinct = list(dict.fromkeys(names))
    return f"example {distinct[0]}" if len(distinct) == 1 else f"a batch of {len(names)} from example {distinct[0]} on"


def _run_all(coroutines: Sequence[Awaitable[Any]]) -> list[Any]:
    """Await all concurrently, in a thread if this one has a running event loop (a notebook)."""

    async def gather() -> list[Any]:
        return list(await asyncio.gather(*coroutines))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(gather())
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(lambda: asyncio.run(gather())).result()
