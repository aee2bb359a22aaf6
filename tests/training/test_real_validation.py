"""The `validation` rule on a real model: finite differences against exact inner products, in bf16 and under FSDP2."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from lambda_grpo_pl.batch import Completions, Prompts, Rewards, RolloutBatch
from lambda_grpo_pl.builtin import smollm2
from lambda_grpo_pl.builtin.models import resolve_model_path
from lambda_grpo_pl.objective import AdvantageConfig, SurrogateConfig
from lambda_grpo_pl.policy import Policy, PolicyConfig, ShardingSettings, load_policy
from lambda_grpo_pl.training.sharding import shard_policy
from lambda_grpo_pl.training.update import Passes, prepare_rollout
from lambda_grpo_pl.training.virtual_step import Validation, alignments, prepare_validation
from tests.ranks import run_on_two_ranks
from tests.training.parts import products_of_gradients

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not smollm2.is_installed(), reason="needs the extra real-model"),
]
PASSES = Passes(budget=256, agree=lambda number: number, backward=lambda loss: loss.backward())
ROWS = torch.arange(8)
BOUND = 0.05
"""Largest relative error of the alignments."""
QUESTIONS = {
    "train": [
        "What is 59 plus 63? Reply with the number only.",
        "Ana has 24 shells and buys 17. How many has she now?",
    ],
    "heldout": ["What is 41 plus 38? Reply with the number only.", "Ben had 52 nuts and ate 19. How many are left?"],
}
ANSWERS = {
    "train": [
        ("122", 1), ("59 + 63 = 122", 1), ("The sum of 59 and 63 is 112.", 0), ("I would say that it is 59.", 0),
        ("24 + 17 = 41", 1), ("She has 31 shells: she had 24 and bought 17 more of them.", 0), ("41", 1), ("7", 0),
    ],
    "heldout": [
        ("79", 1), ("41 + 38 = 69", 0), ("It is 79, because 41 and 38 are 79 in all.", 1), ("3", 0),
        ("52 - 19 = 33", 1), ("There are 43 nuts left.", 0), ("33 nuts", 1), ("He has no nuts left after that.", 0),
    ],
}  # fmt: skip


def read_batch(path: str, which: str) -> RolloutBatch:
    """Two questions in the model's chat template with four answers each, right and wrong, short and long."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    questions = [
        torch.tensor(
            tokenizer(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
                ),
                add_special_tokens=False,
            )["input_ids"]
        )
        for question in QUESTIONS[which]
    ]
    answers = [torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id]) for text, _ in ANSWERS[which]]
    rewards = torch.tensor([float(right) for _, right in ANSWERS[which]])
    lengths = torch.tensor([len(answer) for answer in answers])
    ids = pad_sequence(answers, batch_first=True)
    prompt_ids = pad_sequence(questions, batch_first=True, padding_side="left")
    return RolloutBatch(
        Prompts(prompt_ids, torch.tensor([len(question) for question in questions]), ({},) * 2),
        index=0,
        completions=Completions(ids, lengths, lengths < 0, torch.zeros(ids.shape)),
        rewards=Rewards(rewards, rewards > 0, rewards >= 0, {"exact": rewards}),
    )


def prepare(policy: Policy, path: str) -> Validation:
    rollout = prepare_rollout(policy, [], read_batch(path, "train"), AdvantageConfig(), PASSES, needs_old=False)
    return prepare_validation(policy, [], rollout, read_batch(path, "heldout"), AdvantageConfig(), PASSES)


def relative_error(policy: Policy, path: str, mixed: bool, expected: Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False):
        result = alignments(policy, prepare(policy, path), ROWS, SurrogateConfig(), PASSES)
    return float((result - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def path() -> str:
    return resolve_model_path("builtin:smollm2-135m")


@pytest.fixture(scope="module")
def expected(path: str) -> Tensor:
    """Inner products of whole float32 gradients."""
    policy = load_policy(path, PolicyConfig(path=path))
    exact = products_of_gradients(policy, prepare(policy, path), read_batch(path, "heldout"))
    assert exact.norm() > 0
    return exact


@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "bf16-mixed"])
def test_one_process(path: str, expected: Tensor, mixed: bool) -> None:
    error = relative_error(load_policy(path, PolicyConfig(path=path)), path, mixed, expected)
    print(f"relative error {error:.2%}")
    assert error < BOUND


def on_one_of_two_ranks(rank: int, path: str, expected: Tensor, folder: Path) -> None:
    policy = load_policy(path, PolicyConfig(path=path))
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    shard_policy(policy, mesh, ShardingSettings(), None)
    errors = [relative_error(policy, path, mixed, expected) for mixed in (False, True)]
    (folder / f"rank{rank}").write_text(" ".join(map(str, errors)), encoding="utf-8")


def test_two_ranks_under_fsdp2(path: str, expected: Tensor, tmp_path: Path) -> None:
    run_on_two_ranks(on_one_of_two_ranks, path, expected, tmp_path)
    for rank in range(2):
        errors = [float(error) for error in (tmp_path / f"rank{rank}").read_text(encoding="utf-8").split()]
        print(f"rank {rank}: relative errors {errors}")
        assert len(errors) == 2
        assert max(errors) < BOUND
