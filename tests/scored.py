"""Scored rollouts without a sampler: a tiny random policy, fixed completions, fixed rewards."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM

from lambda_grpo_pl.batch import Completions, Prompts, Rewards, RolloutBatch
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.policy import Policy, PolicyConfig
from lambda_grpo_pl.policy.attention import PACKED

WIDTH, LENGTH = 7, 12


def save_tiny_policy(folder: Path, **changes: object) -> Path:
    """A random two-layer Qwen2 with the character tokenizer, as a Hugging Face folder."""
    tokenizer = character_tokenizer()
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,  # room for the benchmarks' responses
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    Qwen2ForCausalLM(Qwen2Config(**(settings | changes))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scored_batch(index: int, num_prompts: int = 4, group_size: int = 4, first: int = 0, total: int = 4) -> RolloutBatch:
    """Prompts `first` … of `total`: any split of the same `total` prompts over ranks holds the same rows."""
    generator = torch.Generator().manual_seed(100 + index)
    vocabulary = len(character_tokenizer())
    prompt_lengths = torch.randint(1, WIDTH + 1, (total,), generator=generator)
    prompt_ids = torch.randint(5, vocabulary, (total, WIDTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (total * group_size,), generator=generator)
    ids = torch.randint(5, vocabulary, (total * group_size, LENGTH), generator=generator)
    reward = torch.randint(0, 2, (total * group_size,), generator=generator).float()
    reward[:group_size] = 1.0  # the first group teaches nothing
    prompts, rows = slice(first, first + num_prompts), slice(first * group_size, (first + num_prompts) * group_size)
    return RolloutBatch(
        Prompts(prompt_ids[prompts], prompt_lengths[prompts], ({},) * num_prompts),
        index=index,
        completions=Completions(ids[rows], lengths[rows], lengths[rows] > LENGTH, torch.full(ids[rows].shape, -3.5)),
        rewards=Rewards(reward[rows], reward[rows] > 0, torch.ones_like(reward[rows]) > 0, {"exact": reward[rows]}),
    )


class _Batches(Dataset):
    def __init__(self, count: int, rank: int, world_size: int) -> None:
        self.count, self.rank, self.world_size = count, rank, world_size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> RolloutBatch:
        if index >= self.count:
            raise IndexError(index)
        share = 4 // self.world_size
        return scored_batch(index, share, first=self.rank * share)


class ScoredData(L.LightningDataModule):
    """Serves `count` scored batches of 4 prompts × 4, split over the ranks."""

    def __init__(self, count: int = 3) -> None:
        super().__init__()
        self.count = count

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        batches = _Batches(self.count, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(batches, batch_size=None, shuffle=False)


def random_policy(**settings: object) -> Policy:
    """A random policy in memory."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(character_tokenizer()),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attn_implementation=PACKED,
    )
    return Policy(Qwen2ForCausalLM(config), PolicyConfig(path="random", **settings))
