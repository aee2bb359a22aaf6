"""Evaluations whose scores are known beforehand: a sampler that answers right where it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.strategies import Strategy

from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.callbacks import BenchmarkEvaluation, RewardCallback, RolloutCallback
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.objective import PreferenceConfig
from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.rewards import RewardSpec
from lambda_grpo_pl.sampling import OnGroup, SamplingSettings, TransformersSampler
from lambda_grpo_pl.training.module import LambdaGRPO

TOKENIZER = character_tokenizer()


class EngineDiedError(RuntimeError):
    """What a fault raises."""


class KnownAnswers(TransformersSampler):
    """Gives sample g of a question the text `answer(example, g)`; may die before its `dies_at`-th call.

    Weights and self-test are those of a real sampler; `asked` lists the ids of all questions it was given.
    """

    def __init__(self, answer: Callable[[dict, int], str], dies_at: int | None = None) -> None:
        super().__init__([TOKENIZER.eos_token_id], TOKENIZER.pad_token_id)
        self.answer, self.dies_at = answer, dies_at
        self.asked: list[str] = []
        self.settings: list[SamplingSettings] = []

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        self.settings.append(settings)
        if self.dies_at == len(self.settings):
            raise EngineDiedError("the engine died")
        self.asked += [example["id"] for example in prompts.examples]
        texts = [self.answer(dict(each), g) for each in prompts.examples for g in range(settings.num_samples)]
        rows = [[*TOKENIZER(text)["input_ids"], TOKENIZER.eos_token_id][: settings.max_tokens] for text in texts]
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), TOKENIZER.pad_token_id)
        for row, target in zip(rows, ids, strict=True):
            target[: len(row)] = torch.tensor(row)
        truncated = torch.tensor([row[-1] != TOKENIZER.eos_token_id for row in rows])
        completions = Completions(ids, lengths, truncated, torch.zeros(ids.shape))
        for number in reversed(range(len(prompts.examples)) if on_group else ()):  # the last prompt's group ends first
            rows_of = slice(number * settings.num_samples, (number + 1) * settings.num_samples)
            on_group(number, Completions(*(field[rows_of] for field in completions)))
        return completions


def right_where(known: Callable[[dict, int], bool]) -> Callable[[dict, int], str]:
    """Answers in the last line: the gold where `known(example, g)`, else another number."""
    return lambda example, g: f"So:\n####{int(example['answer']) + (not known(example, g))}"


def write_questions(file: Path, num_questions: int) -> Path:
    """A benchmark in a file: sums in words, with the gold under `answer`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"question": f"Ann has {n} apples and buys {n + 1}. How many?", "answer": 2 * n + 1}
        for n in range(num_questions)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def evaluate(
    folder: Path,
    policy: Path,
    sources: Sequence[PromptSource],
    sampler: TransformersSampler,
    evaluation: BenchmarkEvaluation | None = None,
    batch_size: int = 3,
    devices: int = 1,
    strategy: str | Strategy = "auto",
) -> tuple[dict[str, float], BenchmarkEvaluation]:
    """`validate` with a sampler in the place of the engine; returns what was logged."""
    evaluation = evaluation or BenchmarkEvaluation(to_terminal=False)
    rollout = RolloutCallback(sampler="transformers", sampling=SamplingSettings(num_samples=4, max_tokens=64))
    rollout.sampler = sampler
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        default_root_dir=folder,
        logger=False,
        callbacks=[rollout, RewardCallback([RewardSpec(name="numeric")]), evaluation],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    module = LambdaGRPO(PolicyConfig(path=str(policy)), PreferenceConfig())
    data = PromptDataModule(str(policy), val=list(sources), val_batch_size=batch_size)
    trainer.validate(module, datamodule=data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, evaluation
