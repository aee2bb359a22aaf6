"""Run by the tests: `fit` on many forked gloo ranks with a sampler that makes responses up; each rank says what it did.

python -m tests.distributed.fit_many_ranks POLICY DATA OUT RANKS UPDATES [--streaming] [--ckpt CHECKPOINT]

The ranks are forked after everything is imported, so that they share those pages: a rank by itself takes half a GiB.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import omegaconf  # noqa: F401 - what a fit would import later, in each rank for itself
import pandas  # noqa: F401
import torch
from lightning.pytorch.strategies import DDPStrategy

from lambda_grpo_pl import LambdaGRPO, PolicyConfig, PreferenceConfig, PromptDataModule, PromptSource
from lambda_grpo_pl.batch import Completions, Prompts
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.callbacks import LatestCheckpoint, RewardCallback, RolloutCallback, default_callbacks
from lambda_grpo_pl.sampling import SamplingSettings, TransformersSampler
from lambda_grpo_pl.sampling.completions import join_groups, pad_responses
from lambda_grpo_pl.sampling.protocol import OnGroup
from lambda_grpo_pl.training.config import OptimizerConfig

BATCH_SIZE, GROUP_SIZE, LONGEST = 128, 4, 48
SHARE_FLAT = 0.6
"""Of the groups, whose four responses are the same and teach nothing."""
NUM_TOKENS = len(character_tokenizer())
SAVE_AFTER = 2


class InventingSampler(TransformersSampler):
    """Takes responses from a generator that the prompt's number in the file seeds, whichever rank asks.

    Its weights and its log-probabilities of the self-test are real.
    """

    def generate(
        self, prompts: Prompts, settings: SamplingSettings, seed: int, on_group: OnGroup | None = None
    ) -> Completions:
        """Return groups of very different lengths, many of them of one response repeated."""
        groups = [invent_group(int(example["index"]), self.pad_token_id) for example in prompts.examples]
        for number, group in enumerate(groups):
            if on_group is not None:
                on_group(number, group)
        return join_groups(groups, self.pad_token_id)


def invent_group(index: int, pad_token_id: int) -> Completions:
    """A group that the number of its prompt determines; most are short, some as long as is allowed."""
    generator = torch.Generator().manual_seed(index)
    is_flat = float(torch.rand((), generator=generator)) < SHARE_FLAT
    lengths = (1 + (LONGEST - 1) * torch.rand(GROUP_SIZE, generator=generator) ** 3).long().tolist()
    rows = [torch.randint(5, NUM_TOKENS, (length,), generator=generator).tolist() for length in lengths]
    rows = [rows[0]] * GROUP_SIZE if is_flat else rows
    return pad_responses(rows, [[-1.0] * len(row) for row in rows], [False] * GROUP_SIZE, pad_token_id)


def digit_share(completion: str, example: Mapping[str, Any]) -> float:
    """A reward that differs between nearly any two responses."""
    return sum(character.isdigit() for character in completion) / max(1, len(completion))


class Diary(L.Callback):
    """Writes what this rank read, learned from and holds, and what it ended with."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.batches: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        groups = batch.num_prompts
        self.batches.append(
            {
                "batch": batch.index,
                "prompts": [example["index"] for example in batch.prompts.examples],
                "informative": groups - int(batch.flat_groups().sum()),
                "tokens": int(batch.sampled().lengths.sum()),
                "private_mib": private_bytes() / 2**20,
            }
        )

    def on_train_end(self, trainer, pl_module) -> None:
        state = {name: value.detach().cpu() for name, value in pl_module.named_parameters()}
        digest = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
        ended = {"batches": self.batches, "weights": digest, "lambda": float(pl_module.preference.lam)}
        (self.out / f"rank-{trainer.global_rank}.json").write_text(json.dumps(ended))
        if trainer.is_global_zero:
            torch.save(state, self.out / "state.pt")


def private_bytes() -> int:
    """Memory that this process shares with no other."""
    fields = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(field[1]) * 1024 for field in fields if field[0].startswith("Private_"))


def main() -> None:
    """Train, on one process without a process group or on several."""
    parser = argparse.ArgumentParser()
    parser.add_argument("policy")
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("ranks", type=int)
    parser.add_argument("updates", type=int)
    parser.add_argument("--streaming", action="store_true")
    parser.add_argument("--ckpt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rollout = RolloutCallback("transformers", SamplingSettings(num_samples=GROUP_SIZE, max_tokens=LONGEST))
    data = PromptDataModule(
        options.policy,
        train=PromptSource(path=options.data, template="none", streaming=options.streaming),
        val=[],
        batch_size=BATCH_SIZE,
    )
    rollout.sampler = InventingSampler([data.tokenizer.eos_token_id], data.tokenizer.pad_token_id)
    checkpoint = LatestCheckpoint(keep_every=SAVE_AFTER)
    callbacks = default_callbacks(rollout=rollout, reward=RewardCallback([digit_share]), checkpoint=checkpoint)
    trainer = L.Trainer(
        default_root_dir=options.out,
        max_steps=options.updates,
        accelerator="cpu",
        devices=options.ranks,
        strategy=DDPStrategy(process_group_backend="gloo", start_method="fork") if options.ranks > 1 else "auto",
        logger=False,
        callbacks=[*callbacks, Diary(options.out)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    policy = PolicyConfig(path=options.policy, tokens_per_micro_batch=60)
    module = LambdaGRPO(policy, PreferenceConfig(lr=10.0), optimizer=OptimizerConfig(lr=1e-3))
    gc.collect()
    gc.freeze()  # a collection in a rank would write to every object that it shares
    trainer.fit(module, datamodule=data, ckpt_path=options.ckpt)


if __name__ == "__main__":
    main()
