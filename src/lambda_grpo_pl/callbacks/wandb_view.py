"""The W&B dashboard as code: `python -m lambda_grpo_pl.callbacks.wandb_view [ENTITY/]PROJECT` saves it as a view.

A view is an object on the W&B server: it needs a connection and is created once per project, not by each run. Needs
`pip install 'lambda-grpo-pl[dashboards]'`.
"""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

import wandb

from lambda_grpo_pl.callbacks.metric_names import AXIS, METRICS, sections
from lambda_grpo_pl.errors import UserError

NAME = "lambda-GRPO"


def build_view(entity: str, project: str) -> Any:
    """Return the unsaved view: a section for each of the registry, with a chart for each metric.

    Raises `UserError` if wandb-workspaces is not installed.
    """
    workspaces, charts = _libraries()
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            workspaces.Section(name=section, panels=[_chart(charts, name) for name in names], is_open=True)
            for section, names in sections().items()
        ],
        settings=workspaces.WorkspaceSettings(x_axis=AXIS),
    )


def _chart(charts: Any, name: str) -> Any:
    lines = {"metric_regex": f"^{re.escape(name).replace(re.escape('*'), '.*')}$"} if "*" in name else {"y": [name]}
    return charts.LinePlot(title=f"{name}: {METRICS[name].meaning}", x=AXIS, **lines)


def _libraries() -> tuple[Any, Any]:
    try:
        names = ("wandb_workspaces.workspaces", "wandb_workspaces.reports.v2")
        workspaces, charts = (importlib.import_module(name) for name in names)
    except ImportError as error:
        raise UserError(
            "The W&B view needs wandb-workspaces: pip install 'lambda-grpo-pl[dashboards]' and try again."
        ) from error
    return workspaces, charts


def main(arguments: list[str]) -> int:
    """Save the view and print its address."""
    if len(arguments) != 1:
        print("Usage: python -m lambda_grpo_pl.callbacks.wandb_view [ENTITY/]PROJECT", file=sys.stderr)
        return 2
    entity, _, project = arguments[0].rpartition("/")
    try:
        view = build_view(entity or wandb.Api().default_entity, project)
    except UserError as error:
        print(f"wandb_view: {error}", file=sys.stderr)
        return 2
    print(view.save().url)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
