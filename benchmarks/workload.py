"""The work that is timed: a 3 M-parameter Qwen2, 32 short questions, responses of about 30 tokens, 64 at most.

The model is random, and steered so that each token ends its response with one probability, `END_RATE`: lengths are then
geometric, mean 30 at a limit of 64, as a trained model's are spread, without any training. `real_work` is the same
with a pretrained model and its task.
"""

from __future__ import annotations

import json
import logging
import math
import random
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from lambda_grpo_pl.batch import Completions, Prompts, Rewards, RolloutBatch
from lambda_grpo_pl.builtin.models import resolve_model_path
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.builtin.word_problems import WordProblemTask
from lambda_grpo_pl.data.batching import pad_prompts
from lambda_grpo_pl.data.prompts import EncodedPrompt
from lambda_grpo_pl.data.templates import render
from lambda_grpo_pl.objective import SurrogateConfig
from lambda_grpo_pl.policy import Layout, Policy
from lambda_grpo_pl.policy.attention import PACKED
from lambda_grpo_pl.training.update import Gradient, Passes, Rollout, accumulate_gradient

NUM_PROMPTS, GROUP_SIZE, MAX_TOKENS = 32, 8, 64
NUM_SETTLED = 6
"""Prompts whose group earns equal rewards: 19 %, the mean share in the demo's run."""
END_RATE = 0.028
"""(1 − 0.972⁶⁴) / 0.028 = 30 tokens on average."""


@dataclass(frozen=True)
class Work:
    """What a step is timed on; every response has `MAX_TOKENS` tokens at most."""

    model: str
    """Folder of the model and its tokenizer."""
    questions: Path
    """JSONL file, a row for each prompt; the text is sent as it is."""
    num_prompts: int
    num_settled: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The questions."""
        return [json.loads(line) for line in self.questions.read_text(encoding="utf-8").splitlines()]

    @property
    def prompts(self) -> Prompts:
        """The questions as token ids."""
        return make_prompts(AutoTokenizer.from_pretrained(self.model), self.rows)


def random_work(folder: Path) -> Work:
    """Write the random model and its questions."""
    save_model(folder)
    return Work(str(folder), _write_questions(folder, questions()), NUM_PROMPTS, NUM_SETTLED)


def real_work(folder: Path, model: str, num_prompts: int) -> Work:
    """Write word problems for a chat model that exists, no group of which is settled."""
    path = resolve_model_path(model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    task = WordProblemTask("train", num_prompts)
    rows = [{"question": render("chat", row["question"], tokenizer), "answer": "open"} for row in task]
    return Work(path, _write_questions(folder, rows), num_prompts, 0)


def _write_questions(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_model(attention: str = PACKED, **changes: Any) -> Qwen2ForCausalLM:
    """The model, in memory; `changes` are Qwen2Config's arguments."""
    tokenizer = character_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "attn_implementation": attention,
    }
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**(settings | changes)))
    _steer(model, tokenizer.eos_token_id)
    return model


@torch.no_grad()
def _steer(model: Qwen2ForCausalLM, eos: int) -> None:
    """Make the first coordinate of every hidden state a constant, √H after the last norm, and read eos off it."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding[:, 0] = 100.0
    vocabulary, width = head.shape
    head[:, 0] = 0.0
    head[eos, 0] = math.log(END_RATE / (1 - END_RATE) * (vocabulary - 1)) / math.sqrt(width)


def save_model(folder: Path, **changes: Any) -> Path:
    """The model and its tokenizer as a Hugging Face folder."""
    make_model(**changes).save_pretrained(folder)
    character_tokenizer().save_pretrained(folder)
    return folder


def questions() -> list[dict[str, Any]]:
    """Rows with `question` and `answer`; the answer of a settled one says that every response is right."""
    numbers = random.Random(0)
    texts = [f"What is {numbers.randint(1, 9999)} + {numbers.randint(1, 9999)}?" for _ in range(NUM_PROMPTS)]
    return [{"question": text, "answer": "settled" if row < NUM_SETTLED else "open"} for row, text in enumerate(texts)]


def reward(completion: str, example: Mapping[str, Any]) -> float:
    """A coin that the text tosses; always 1 where the question is settled."""
    return 1.0 if example["answer"] == "settled" else float(zlib.crc32(completion.encode()) & 1)


def make_prompts(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]] | None = None) -> Prompts:
    """The questions, or those of `rows`, as token ids."""
    rows = questions() if rows is None else rows
    encoded = [EncodedPrompt(tokenizer.encode(row["question"]), row) for row in rows]
    return pad_prompts(encoded, tokenizer.pad_token_id)


def scored_rollout(
    num_prompts: int = NUM_PROMPTS,
    group_size: int = GROUP_SIZE,
    prompt_length: int = 18,
    max_tokens: int = MAX_TOKENS,
    fixed_length: bool = False,
    vocabulary: int = 100,
    num_settled: int = NUM_SETTLED,
) -> RolloutBatch:
    """A rollout that no model sampled: prompts of one length, geometric or equal response lengths, coins as rewards."""
    generator = torch.Generator().manual_seed(0)
    num_rows = num_prompts * group_size
    uniform = torch.rand(num_rows, generator=generator)
    lengths = (uniform.log() / math.log(1 - END_RATE)).ceil().long().clamp(1, max_tokens)
    lengths = torch.full_like(lengths, max_tokens) if fixed_length else lengths
    prompt_ids = torch.randint(5, vocabulary, (num_prompts, prompt_length), generator=generator)
    ids = torch.randint(5, vocabulary, (num_rows, max_tokens), generator=generator)
    total = torch.randint(0, 2, (num_rows,), generator=generator).float().view(num_prompts, group_size)
    total[:, :2] = torch.tensor([0.0, 1.0])
    total[:num_settled] = 1.0
    total = total.flatten()
    return RolloutBatch(
        Prompts(prompt_ids, torch.full((num_prompts,), prompt_length), ({},) * num_prompts),
        completions=Completions(ids, lengths, lengths == max_tokens, torch.full(ids.shape, -math.log(vocabulary))),
        rewards=Rewards(total, total > 0, torch.ones_like(total) > 0, {"coin": total}),
    )


def learn(policy: Policy, batch: RolloutBatch, layout: Layout, tokens_per_micro_batch: int = 2048) -> Gradient:
    """Forward and backward over every row of a rollout, without a trainer; the gradient is left on the policy."""
    completions = batch.sampled()
    num_rows = len(completions.lengths)
    advantages = torch.randn(num_rows, generator=torch.Generator().manual_seed(0)).to(completions.ids.device)
    weights = torch.full_like(advantages, 1 / float(completions.lengths.sum()))
    rollout = Rollout(batch.prompts, completions, advantages, None, None, layout)
    passes = Passes(tokens_per_micro_batch, agree=lambda number: number, backward=lambda loss: loss.backward())
    rows = torch.arange(num_rows, device=advantages.device)
    return accumulate_gradient(policy, rollout, rows, weights, SurrogateConfig(), passes)


def make_trainer(num_steps: int, callbacks: list[L.Callback]) -> L.Trainer:
    """A trainer that writes and prints nothing."""
    return L.Trainer(
        max_steps=num_steps,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )


def quiet() -> None:
    """Leave the screen to the table."""
    warnings.filterwarnings("ignore")
    disable_progress_bar()
    for name in ("lightning.pytorch", "lightning", "transformers", "trl"):
        logging.getLogger(name).setLevel(logging.ERROR)
