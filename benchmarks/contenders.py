"""The contenders of `step_time.py`: our step, TRL's and the floor. Each takes a step and says where its time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import lightning as L
import torch
from torch import Tensor
from workload import GROUP_SIZE, MAX_TOKENS, Work, make_trainer, reward

import lambda_grpo_pl.training.module as step_module
from lambda_grpo_pl.batch import Completions
from lambda_grpo_pl.callbacks import RewardCallback, RolloutCallback
from lambda_grpo_pl.data.module import PromptDataModule
from lambda_grpo_pl.data.sources import PromptSource
from lambda_grpo_pl.objective import PreferenceConfig
from lambda_grpo_pl.policy import Policy, PolicyConfig, lay_out, load_policy, plan_micro_batches
from lambda_grpo_pl.rewards import RewardSpec
from lambda_grpo_pl.sampling import Sampler, SamplingSettings
from lambda_grpo_pl.training.config import ObjectiveConfig, OptimizerConfig
from lambda_grpo_pl.training.module import LambdaGRPO

Phases = dict[str, float]
"""Seconds by phase; `step` is the whole, `tokens` the number of response tokens."""
LEARNING_RATE = 1e-9
"""So small that every step has the same work."""
SAMPLING = SamplingSettings(max_tokens=MAX_TOKENS, num_samples=GROUP_SIZE)


class Stopwatch:
    """Adds up the seconds spent in watched functions; a phase inside another counts for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: Phases = {}
        self._inner = [0.0]

    @contextmanager
    def phase(self, name: str) -> Any:
        start = time.perf_counter()
        self._inner.append(0.0)
        yield
        whole = time.perf_counter() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + whole - self._inner.pop()
        self._inner[-1] += whole

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Time `owner.function` from now on."""
        inner = getattr(owner, function)

        @wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return inner(*args, **kwargs)

        setattr(owner, function, timed)

    def take(self, step: float) -> Phases:
        """The phases of one step of `step` seconds, what is left as `other`; starts afresh."""
        phases = {"step": step, **self.seconds, "other": step - sum(self.seconds.values())}
        self.seconds, self._inner = {}, [0.0]
        return phases


class _StepTimer(L.Callback):
    """Times all that one training batch takes, fetching it and the trainer's own book-keeping included."""

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.completions: Completions = batch.completions

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.start


class LastingRollout(RolloutCallback):
    """Keeps its sampler from one fit to the next, and has a stopwatch time what the engine does, if it is given one."""

    watch: Stopwatch | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        for function, phase in (("sync", "sync"), ("sample_batch", "sample"), ("score", "score")):
            if self.watch is not None:
                self.watch.watch(self.rollout_engine, function, phase)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        lasting = self.rollout_engine.sampler.release() if self.rollout_engine is not None else None
        super().teardown(trainer, pl_module, stage)
        self.sampler = lasting


class Ours:
    """`lambda-grpo fit` as users run it: λ-GRPO, weight sync and self-test at each step; one step a fit."""

    def __init__(self, work: Work, sampler: str, skip_zero_advantage: bool, tokens_per_micro_batch: int) -> None:
        config = PolicyConfig(path=work.model, tokens_per_micro_batch=tokens_per_micro_batch)
        self.module = LambdaGRPO(
            config,
            PreferenceConfig(),
            ObjectiveConfig(skip_zero_advantage=skip_zero_advantage),
            OptimizerConfig(lr=LEARNING_RATE),
            max_response_tokens=MAX_TOKENS,
        )
        self.rollout = LastingRollout(sampler, SAMPLING)  # type: ignore[arg-type]
        self.reward = RewardCallback([RewardSpec(name="workload.reward")])
        source = PromptSource(path=str(work.questions), template="none")
        self.data = PromptDataModule(work.model, source, [], batch_size=work.num_prompts)
        self.watch = self.rollout.watch = Stopwatch()
        self.watch.watch(self.module, "_step_policy", "optimizer")

    def step(self) -> Phases:
        timer = _StepTimer()
        trainer = make_trainer(1, [self.rollout, self.reward, timer])
        phases = {"prepare_rollout": "log-probs", "accumulate_gradient": "forward-backward"}
        originals = {function: getattr(step_module, function) for function in phases}
        for function, phase in phases.items():
            self.watch.watch(step_module, function, phase)
        trainer.fit(self.module, datamodule=self.data)
        for function, original in originals.items():
            setattr(step_module, function, original)
        self.completions = timer.completions
        return self.watch.take(timer.seconds) | {"tokens": float(self.completions.lengths.sum())}

    @property
    def engine(self) -> Sampler:
        """The sampler at work, after the first step."""
        assert self.rollout.sampler is not None
        return self.rollout.sampler


class Floor:
    """What a step cannot do without: the same number of tokens sampled, and one pass over prompts and responses.

    The pass is packed, every row with its own prompt, logits whole (the vocabulary is small), the loss a weighted sum
    of log-probabilities: no statistics, no clip, no λ, no optimizer, no sync, no reward.
    """

    def __init__(self, work: Work, samplers: dict[str, Callable[[], Sampler]], tokens_per_micro_batch: int) -> None:
        self.policy: Policy = load_policy(work.model, PolicyConfig(path=work.model, packing="packed"))
        self.prompts = work.prompts
        self.samplers, self.budget, self.seed = samplers, tokens_per_micro_batch, 0

    def step(self) -> Phases:
        """Sample with every sampler; the fastest counts, and its completions are learned from."""
        self.seed += 1
        phases: Phases = {}
        for name, sampler in self.samplers.items():
            start = time.perf_counter()
            completions = sampler().generate(self.prompts, SAMPLING, self.seed)
            phases[f"sample {name}"] = time.perf_counter() - start
        start = time.perf_counter()
        self.learn(completions)
        phases["forward-backward"] = time.perf_counter() - start
        phases["sample"] = min(seconds for name, seconds in phases.items() if name.startswith("sample "))
        phases["step"] = phases["sample"] + phases["forward-backward"]
        return phases | {"tokens": float(completions.lengths.sum())}

    def learn(self, completions: Completions) -> None:
        rows = torch.arange(len(completions.lengths))
        weights = torch.randn(len(rows)) / float(completions.lengths.sum())
        plan = plan_micro_batches(rows, self.prompts.lengths, completions.lengths, self.budget, "packed")
        for part in plan:
            batch = lay_out(self.prompts, completions, part, "packed")
            hidden = self.policy._hidden(batch).flatten(0, 1)[batch.predictor]
            logits: Tensor = self.policy.causal_lm.get_output_embeddings()(hidden)
            logprobs = logits.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
            (-(weights[batch.row] * logprobs).sum()).backward()
        self.policy.zero_grad()


def train_trl(work: Work, num_steps: int, num_micro_batches: int, after_step: Callable[[Phases], None]) -> None:
    """Run TRL's GRPOTrainer with that many equal micro-batches, and call `after_step` between its steps."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import GRPOTrainer

    watch = Stopwatch()

    class Between(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            self.optimizer_start = time.perf_counter()

        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            watch.seconds["optimizer"] = time.perf_counter() - self.optimizer_start

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            after_step(watch.take(time.perf_counter() - self.start) | {"tokens": tokens[0]})

    tokens = [0.0]

    def counting_reward(completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        tokens[0] = float(sum(map(len, completion_ids)))
        return [reward(text, {"answer": kind}) for text, kind in zip(completions, columns["answer"], strict=True)]

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(work.model),
        reward_funcs=counting_reward,
        args=_trl_arguments(work, num_steps, num_micro_batches),
        train_dataset=Dataset.from_list([{"prompt": row["question"], "answer": row["answer"]} for row in work.rows]),
        callbacks=[Between()],
    )
    trainer.remove_callback(PrinterCallback)
    watch.watch(trainer, "_generate_single_turn", "sample")
    watch.watch(trainer, "_calculate_rewards", "score")
    watch.watch(trainer, "compute_loss", "forward-backward")
    watch.watch(trainer.accelerator, "backward", "forward-backward")
    inner = trainer._get_per_token_logps_and_entropies
    trainer._get_per_token_logps_and_entropies = partial(_scored, watch, inner)
    trainer.train()


def _trl_arguments(work: Work, num_steps: int, num_micro_batches: int) -> Any:
    """The work as TRL says it: float32, one update a rollout, no reference."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(work.questions.parent / "trl"),
        per_device_train_batch_size=work.num_prompts * GROUP_SIZE // num_micro_batches,
        gradient_accumulation_steps=num_micro_batches,
        num_generations=GROUP_SIZE,
        max_completion_length=MAX_TOKENS,
        learning_rate=LEARNING_RATE,
        optim="adamw_torch_fused",
        max_steps=num_steps,
        beta=0.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def _scored(watch: Stopwatch, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A pass without gradient is the old policy's or the reference's."""
    if torch.is_grad_enabled():
        return inner(*args, **kwargs)
    with watch.phase("log-probs"):
        return inner(*args, **kwargs)
