"""The user's modules, imported before the configuration is read, so that it can name what they register."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from lambda_grpo_pl.errors import UserError


def spell_out_imports(arguments: Sequence[str]) -> list[str]:
    """Return arguments with `--import NAME` as `--plugins+=NAME`, which adds to the lists in configuration files."""
    spelled: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--import":
            spelled.append(f"--plugins+={next(words, '')}")
        elif word.startswith("--import="):
            spelled.append(f"--plugins+={word.removeprefix('--import=')}")
        else:
            spelled.append(word)
    return spelled


def import_plugins(arguments: Sequence[str]) -> list[str]:
    """Import the modules that `--plugins` and `plugins:` in configuration files name; return their names.

    Raises `UserError` for a module that does not exist; what goes wrong inside one keeps its traceback.
    """
    names = list(dict.fromkeys(_plugin_names(arguments)))
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise UserError(
                f"There is no module {name!r} to import: fix the name in plugins, or run from the folder that holds "
                f"{name.partition('.')[0]}.py."
            ) from error
    return names


def _plugin_names(arguments: Sequence[str]) -> Iterator[str]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", "-c", action="append", default=[])
    parser.add_argument("--plugins", action="append", default=[])
    parser.add_argument("--plugins+", dest="plugins", action="append")
    known, _ = parser.parse_known_args(arguments)
    for config in known.config:
        if Path(config).is_file():  # else the real parser says what is wrong with it
            content = _read_yaml(config)
            yield from _as_names(content.get("plugins", []) if isinstance(content, dict) else [])
    for value in known.plugins:
        yield from _as_names(yaml.safe_load(value))


def _read_yaml(config: str) -> object:
    try:
        return yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None  # the real parser says what is wrong with it


def _as_names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else [str(value)] if value else []
