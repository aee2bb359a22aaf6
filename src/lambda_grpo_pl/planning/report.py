"""The memory plan as a table for people and as a dictionary for programs."""

from __future__ import annotations

from typing import Any, NamedTuple

from lambda_grpo_pl.planning.advice import Change, largest_token_budget, suggest_changes
from lambda_grpo_pl.planning.gpus import GIB, MIB, Gpu
from lambda_grpo_pl.planning.memory import MemoryPlan, host_bytes_while_loading
from lambda_grpo_pl.planning.parts import PHASES
from lambda_grpo_pl.planning.run import PlannedRun


class Report(NamedTuple):
    """A run, its plan, and whether it fits."""

    run: PlannedRun
    plan: MemoryPlan
    gpu: Gpu | None
    """What it should fit; None if no GPU was named."""
    source: str
    """Where the model's shape was read."""
    budget: int | None
    """Largest token budget that fits; None if none does or no GPU was named."""
    changes: list[Change]
    """What to change if it does not fit."""
    notes: list[str]
    """What else to know."""

    @property
    def fits(self) -> bool | None:
        """Whether the run fits; None if no GPU was named."""
        return None if self.gpu is None else self.plan.peak <= self.gpu.memory


def make_report(run: PlannedRun, plan: MemoryPlan, gpu: Gpu | None, source: str, ranks_per_node: int) -> Report:
    """Judge a plan, and look for changes if it does not fit."""
    fits = gpu is None or plan.peak <= gpu.memory
    changes = [] if gpu is None or fits else suggest_changes(run, gpu)
    budget = None if gpu is None else largest_token_budget(run, plan, gpu)
    notes = []
    host = host_bytes_while_loading(run, plan.size, ranks_per_node)
    if host:
        shards = ", and every rank keeps its shards there" if run.keeps_shards_on_host else ""
        notes.append(
            f"Loading takes {_gib(host)} GiB of host memory on the first node: one rank reads all weights{shards}."
        )
    if gpu is None and run.device == "gpu":
        notes.append("Add --gpu, such as --gpu h100, to see whether this fits.")
    return Report(run, plan, gpu, source, budget, changes, notes)


def print_report(report: Report) -> None:
    """Print what is held in each phase, whether it fits, and what to change."""
    print("\n".join([*describe_run(report), "", *describe_parts(report.plan), "", *describe_verdict(report)]))


def describe_parts(plan: MemoryPlan) -> list[str]:
    """Return a table of the parts, a line each."""
    unit, name = (GIB, "GiB") if plan.peak >= GIB else (MIB, "MiB")
    rows: list[tuple[str, ...]] = [(f"{name} per device", *PHASES, "")]
    rows += [(part.name, *(f"{getattr(part, phase) / unit:.2f}" for phase in PHASES), part.note) for part in plan.parts]
    rows.append(("total", *(f"{plan.total(phase) / unit:.2f}" for phase in PHASES), "computed, not measured"))
    width = max(len(row[0]) for row in rows)
    return [f"{row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:-1]) + f"  {row[-1]}" for row in rows]


def describe_run(report: Report) -> list[str]:
    """Say what was planned."""
    run, size, shape = report.run, report.plan.size, report.plan.micro_batch
    ranks = f"{run.placement.world_size} rank(s)"
    names = {"single": "one device", "ddp": f"DDP on {ranks}"}
    strategy = names.get(run.placement.strategy, f"FSDP2 on {ranks}, {run.placement.shards} shards")
    return [
        f"model        {run.policy.path}, {size.total:,} parameters, {size.trainable:,} trained",
        f"shape from   {report.source}",
        f"strategy     {strategy}, {'bf16-mixed' if run.mixed_precision else '32-true'}",
        f"rollout      {run.training.num_rows} responses per rank, up to {run.training.prompt_tokens} + "
        f"{run.training.response_tokens} tokens each",
        f"micro-batch  {shape.num_rows} responses, {shape.num_tokens:,} tokens",
    ]


def describe_verdict(report: Report) -> list[str]:
    """Say whether the run fits, the largest micro-batch that does, and what to change."""
    lines = list(report.notes)
    gpu, plan = report.gpu, report.plan
    if gpu is None:
        return lines
    peak = f"{_gib(plan.peak)} of {_gib(gpu.memory)} GiB while {plan.phase}"
    if report.fits:
        lines.append(f"Fits {gpu.name}: {peak}. Largest model.policy.tokens_per_micro_batch: {report.budget:,}.")
        return lines
    lines.append(f"Does not fit {gpu.name}: {peak}.")
    if not report.changes or not report.changes[-1].fits:
        lines.append("No change of the settings that plan knows makes it fit: use larger GPUs or a smaller model.")
    for number, change in enumerate(report.changes, 1):
        verdict = "fits" if change.fits else "not enough yet"
        lines.append(f"  {number}. {change.sentence}: {_gib(change.plan.peak)} GiB, {verdict}")
    return lines


def as_dict(report: Report) -> dict[str, Any]:
    """The report for `--json`; sizes in bytes."""
    plan = report.plan
    return {
        "model": report.run.policy.path,
        "shape_from": report.source,
        "parameters": plan.size.total,
        "trainable": plan.size.trainable,
        "placement": report.run.placement._asdict(),
        "parts": [part._asdict() for part in plan.parts],
        "totals": {phase: plan.total(phase) for phase in PHASES},
        "peak": plan.peak,
        "gpu": None if report.gpu is None else report.gpu._asdict(),
        "fits": report.fits,
        "largest_tokens_per_micro_batch": report.budget,
        "changes": [{"set": each.sentence, "peak": each.plan.peak, "fits": each.fits} for each in report.changes],
        "notes": report.notes,
    }


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"
