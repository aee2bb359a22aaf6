"""The README.md of an exported policy: how it was trained, on what, and how it scores."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from lambda_grpo_pl.callbacks.context import callbacks, datamodule, engine, find_callback, trained
from lambda_grpo_pl.callbacks.metric_names import GRPO_LAMBDA, LAMBDA
from lambda_grpo_pl.callbacks.run_config import RunConfig
from lambda_grpo_pl.callbacks.summary import RunSummary, format_score, read_scores


def write_model_card(folder: Path, trainer: L.Trainer, pl_module: L.LightningModule, is_adapter: bool) -> None:
    """Write `<folder>/README.md`: settings, command, and the scores of the run's latest evaluation, if there is one."""
    module, data = trained(pl_module), datamodule(trainer)
    preference, path = module.preference.config, module.policy_config.path
    method = module.method_name
    is_local = Path(path).is_dir() or path.startswith("builtin:")
    base = Path(path).name.removeprefix("builtin:") if is_local else path
    facts = {
        "Base model": base,
        "Method": f"{method} (length preference {preference.family}, λ {preference.learn})",
        **_final_lambda(trainer),
        "Policy updates": str(trainer.global_step),
        "Training prompts": f"{data.train_source.name}, template {data.train_source.prompt_template.label!r}",
        "Rewards": " + ".join(f"{spec.weight:g} × {spec.label}" for spec in engine(trainer).suites.training.specs),
        "Responses": f"{engine(trainer).sampling.num_samples} per prompt, {data.batch_size} prompts per rollout",
        "Seed": str(data.seed),
    }
    lines = [
        "---",
        f"library_name: {'peft' if is_adapter else 'transformers'}",
        *([] if is_local else [f"base_model: {base}"]),
        "pipeline_tag: text-generation",
        f"tags: [lambda-grpo, {method}{', lora' if is_adapter else ''}]",
        "---",
        "",
        f"# {base}, trained with {method}",
        "",
        f"{'LoRA adapter' if is_adapter else 'Policy'} trained by reinforcement learning with lambda-grpo-pl.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
        *_command(trainer),
        *_scores(Path(trainer.default_root_dir) / "evaluation", trainer.global_step),
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _command(trainer: L.Trainer) -> list[str]:
    """The command line that trained the policy; nothing for a run that code started."""
    commands = [each.command for each in callbacks(trainer) if isinstance(each, RunConfig) and each.command]
    return ["", "Trained with:", "", *(f"    {command}" for command in commands)] if commands else []


def _scores(folder: Path, update: int) -> list[str]:
    """A table of the evaluation of this update, or of the latest one before it."""
    files = {int(file.parent.name.removeprefix("step-")): file for file in folder.glob("step-*/scores.json")}
    measured = max((step for step in files if step <= update), default=None)
    if measured is None:
        return ["", "The policy was not evaluated."]
    of = "this policy" if measured == update else f"update {measured}, not of the final policy"
    rows = [
        "",
        f"Scores of {of}, with 95 % intervals over questions:",
        "",
        "| set | questions | score |",
        "|---|--:|--:|",
    ]
    return rows + [
        f"| {name} | {score['questions']:.0f} | {format_score(score)} |"
        for name, score in read_scores(files[measured]).items()
    ]


def _final_lambda(trainer: L.Trainer) -> dict[str, str]:
    """λ as it was last logged in the run; nothing for a method without λ."""
    series = find_callback(trainer, RunSummary).series
    return {"Final λ": f"{series[LAMBDA][-1]:+.4f}"} if series[GRPO_LAMBDA] else {}
