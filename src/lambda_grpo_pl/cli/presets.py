"""The configurations that come with the package: by a short name (`preset:lambda`), or copied out by `init`.

They are the files of the repository's `configs/`, which the wheel holds as `lambda_grpo_pl/configs/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from lambda_grpo_pl.errors import UserError

PREFIX = "preset:"
FOLDER = Path(__file__).parents[1] / "configs"
SEARCHED = (".", "preference", "model", "data", "evaluation", "strategy", "recipe")
"""Subfolders in which a short name is looked up; the first that has it wins."""
BASE = "base.yaml"


def find_preset(name: str) -> Path:
    """Return the file of a short name such as `lambda`, or of one with its folder, such as `recipe/dapo`.

    Raises `UserError` that lists the names.
    """
    for folder in SEARCHED:
        path = FOLDER / folder / f"{name}.yaml"
        if path.is_file():
            return path.resolve()
    near = get_close_matches(name, [path.stem for path in FOLDER.rglob("*.yaml")], n=1)
    guess = f"did you mean {PREFIX}{near[0]}? " if near else ""
    listed = "; ".join(f"{folder}: {', '.join(names)}" for folder, names in list_presets().items())
    raise UserError(f"There is no configuration {PREFIX}{name}: {guess}Available are {listed}.")


def list_presets() -> dict[str, list[str]]:
    """Return subfolder → names of its configurations."""
    found = {folder: sorted(path.stem for path in (FOLDER / folder).glob("*.yaml")) for folder in SEARCHED}
    return {"top": found.pop("."), **found}


def resolve_presets(arguments: Sequence[str]) -> list[str]:
    """Return arguments with each `preset:NAME` as the path of its file.

    The base configuration comes first: it is added unless one of the files is a `base.yaml` already.
    """
    words = list(arguments)
    places = [
        place
        for place, word in enumerate(words)
        if word.startswith((f"--config={PREFIX}", f"-c={PREFIX}"))
        or (word.startswith(PREFIX) and place and words[place - 1] in ("--config", "-c"))
    ]
    for place in places:
        option, _, name = words[place].rpartition(PREFIX)
        words[place] = f"{option}{find_preset(name)}"
    if places and not any(word.rpartition("=")[2].endswith(BASE) for word in words):
        first = places[0] if "=" in words[places[0]] else places[0] - 1
        words[first:first] = [f"--config={find_preset('base')}"]
    return words


def name_presets(arguments: Sequence[str]) -> list[str]:
    """Return arguments with the files of the package as `preset:NAME`: the reverse of `resolve_presets`."""
    files = {
        str(path.resolve()): f"{PREFIX}{path.relative_to(FOLDER).with_suffix('')}" for path in FOLDER.rglob("*.yaml")
    }
    named = []
    for word in arguments:
        option, equals, value = word.rpartition("=")
        named.append(f"{option}{equals}{files.get(value, value)}")
    return named


def main(arguments: Sequence[str]) -> int:
    """Copy all configurations to a folder: `lambda-grpo init DIR`. Raises `UserError` if it holds any."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: lambda-grpo init DIR\n\nCopy the commented configurations that come with the package to DIR.")
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    folder = Path(arguments[0])
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder for the configurations.")
    shutil.copytree(FOLDER.resolve(), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    print(f"{folder} holds base.yaml and the overlays. Edit them, and train with one of each kind, for example:\n")
    print(f"  lambda-grpo fit --config {folder}/base.yaml --config {folder}/preference/lambda.yaml")
    return 0
