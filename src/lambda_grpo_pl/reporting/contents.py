"""What a page shows, as plain data: the runs, their series within a bound, the metrics' meanings, the responses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from lambda_grpo_pl import __version__
from lambda_grpo_pl.callbacks.metric_names import find_metric, sections
from lambda_grpo_pl.reporting.responses import DEFAULT_RESPONSES, choose_responses
from lambda_grpo_pl.reporting.runs import Run
from lambda_grpo_pl.reporting.tables import Series

MAX_POINTS = 1000
"""Points of one line of a chart; a longer series is averaged in groups of updates that follow each other."""
OTHER = "other"
"""Section of metrics that the registry does not know."""
KEY_SETTINGS = (
    "trainer.max_steps",
    "model.preference.family",
    "model.preference.learn",
    "model.preference.init",
    "model.preference.lr",
    "model.objective.token_count",
    "model.objective.advantage.scale",
    "model.objective.surrogate.clip_low",
    "model.objective.surrogate.clip_high",
    "model.objective.surrogate.kl_coef",
    "model.optimizer.lr",
    "model.updates.num_epochs",
    "model.updates.num_minibatches",
    "data.train.path",
    "data.batch_size",
    "rollout.sampler",
    "rollout.sampling.num_samples",
    "rollout.sampling.max_tokens",
    "rollout.sampling.temperature",
    "reward.functions",
)
"""Settings that are shown for every run."""
PLACES = ("save_dir", "dirpath", "default_root_dir", "trainer.logger", "trainer.callbacks", "ckpt_path", "resume")
"""Settings that say where a run writes, which differ between any two runs."""


def collect(runs: Sequence[Run], limit: int = DEFAULT_RESPONSES) -> dict[str, Any]:
    """Return everything that a page shows, ready for JSON; at most `limit` responses."""
    responses = choose_responses(runs, limit)
    return {
        "version": __version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "runs": [_describe_run(run) for run in runs],
        "settings": _compare_settings(runs),
        "sections": _sort_metrics(runs),
        "responses": {"items": responses.items, "questions": responses.questions, "total": responses.num_total},
    }


def thin(series: Series) -> tuple[Series, int]:
    """Return a series of at most `MAX_POINTS` points, and how many of its points each one averages."""
    size = math.ceil(len(series.values) / MAX_POINTS)
    if size <= 1:
        return series, 1
    starts = range(0, len(series.values), size)
    groups = [series.values[start : start + size] for start in starts]
    updates = [series.updates[min(start + size, len(series.updates)) - 1] for start in starts]
    return Series(updates, [math.fsum(group) / len(group) for group in groups]), size


def _describe_run(run: Run) -> dict[str, Any]:
    axes: dict[tuple[int, ...], int] = {}  # most metrics of a run share their updates
    metrics = {}
    for name, series in run.metrics.items():
        thinned, size = thin(series)
        axis = axes.setdefault(tuple(thinned.updates), len(axes))
        metrics[name] = {"axis": axis, "values": [_round(value) for value in thinned.values], "averaged": size}
    return {
        "name": run.name,
        "folder": run.folder,
        "method": run.method,
        "model": run.model,
        "seed": run.seed,
        "updates": run.num_updates,
        "versions": run.versions | _find_engine(run),
        "axes": list(axes),
        "metrics": metrics,
        "curves": [{"update": c.update, "points": [[_round(x), _round(y)] for x, y in c.points]} for c in run.curves],
        "guards": [guard._asdict() for guard in run.guards],
        "evaluations": [_describe_scores(run, index) for index in range(len(run.evaluations))],
        "lens": run.lens_verdict,
        "notes": run.notes,
    }


def _describe_scores(run: Run, index: int) -> dict[str, Any]:
    evaluation = run.evaluations[index]
    return {
        "step": evaluation.step,
        "method": evaluation.info.method,
        "finished": evaluation.finished,
        "benchmarks": {
            name: {
                "metric": scores.metric,
                "measures": {key: _round(value) for key, value in scores.measures.items()},
                "setup": {key: value for key, value in scores.setup.items() if key != "reward_reads"},
            }
            for name, scores in evaluation.scores.items()
        },
    }


def _find_engine(run: Run) -> dict[str, str]:
    """Return what sampled the last evaluation, with its version and number format."""
    setups = [scores.setup for evaluation in run.evaluations for scores in evaluation.scores.values()]
    words = [str(setups[-1].get(key) or "") for key in ("engine", "engine_version", "dtype")] if setups else []
    return {"evaluated with": " ".join(filter(None, words))} if any(words) else {}


def _compare_settings(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the key settings, and any other setting in which the runs differ, one value per run."""
    keys = dict.fromkeys(key for key in KEY_SETTINGS if any(key in run.config for run in runs))
    keys |= dict.fromkeys(key for run in runs for key in run.config if not any(place in key for place in PLACES))
    rows = []
    for key in keys:
        values = [run.config.get(key, "not set") if run.config else "unknown" for run in runs]
        differs = len({repr(value) for value, run in zip(values, runs, strict=True) if run.config}) > 1
        if key in KEY_SETTINGS or differs:
            rows.append({"key": key, "values": values, "differs": differs, "isKey": key in KEY_SETTINGS})
    return rows


def _sort_metrics(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the sections in the registry's order, each with its logged metrics and what they mean."""
    logged = dict.fromkeys(name for run in runs for name in run.metrics)
    order = [name for names in sections().values() for name in names]
    grouped: dict[str, list[dict[str, Any]]] = {section: [] for section in [*sections(), OTHER]}
    ranked = sorted(logged, key=lambda name: order.index(name) if name in order else len(order))
    for name in ranked:
        metric = find_metric(name)
        section = metric.section if metric else OTHER
        grouped[section].append({"name": name, "meaning": metric.meaning if metric else ""})
    return [{"name": name, "metrics": metrics} for name, metrics in grouped.items() if metrics]


def _round(value: float) -> float | None:
    """Return five significant digits; None for what is not finite, which JSON cannot hold."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
