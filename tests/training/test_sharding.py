"""Two gloo ranks under FSDP2: gradients stay sharded, and weights changed in place are gathered again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    SingleDeviceXLAStrategy,
    Strategy,
    XLAStrategy,
)
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.objective import AdvantageConfig, SurrogateConfig
from lambda_grpo_pl.policy import LoraSettings, Policy, PolicyConfig, ShardingSettings, load_policy, load_reference
from lambda_grpo_pl.training import sharding
from lambda_grpo_pl.training.offload import OFFLOAD_BACKEND, check_offload
from lambda_grpo_pl.training.optimization import clip_gradient
from lambda_grpo_pl.training.sharding import (
    check_strategy,
    full,
    prepare_strategy,
    shard_policies,
    shard_policy,
    sync_gradients,
    total_norm,
)
from lambda_grpo_pl.training.update import Passes, accumulate_gradient, prepare_rollout, score_rows
from lambda_grpo_pl.training.virtual_step import alignments
from tests.ranks import run_on_two_ranks
from tests.scored import random_policy, scored_batch
from tests.training.test_virtual_step import ROWS, exact_alignments, heldout_batch, prepare


def weights_of(policy: Policy) -> list[Tensor]:
    return [full(parameter.detach()).clone() for parameter in policy.parameters()]


def check_the_validation_rule(policy: Policy, passes: Passes) -> None:
    """Both ranks hold the same rows, so each one's alignments are those of one process."""
    single = random_policy()
    before = weights_of(policy)
    validation = prepare(policy, heldout_batch(), passes)
    (scores,) = score_rows([policy], validation.rollout, ROWS, passes)
    result = alignments(policy, validation, ROWS, SurrogateConfig(), passes)
    (after,) = score_rows([policy], validation.rollout, ROWS, passes)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(policy), before, strict=True))
    assert torch.equal(after, scores)
    expected = exact_alignments(single, validation)
    assert float((result - expected).norm() / expected.norm()) < 0.05


def check_gradients(policy: Policy, passes: Passes) -> None:
    """Each micro-batch leaves a gradient of this rank's shard only, and their sum is one process's gradient."""
    rollout = prepare_rollout(policy, [], scored_batch(0), AdvantageConfig(), passes, needs_old=False)
    local_sizes = []

    @contextmanager
    def watch(last: bool) -> Iterator[None]:
        with sync_gradients(ModelParallelStrategy(), last):
            yield
        gradients = [parameter.grad for parameter in policy.parameters()]
        assert all(isinstance(gradient, DTensor) for gradient in gradients), f"last: {last}"
        local_sizes.append(sum(gradient.to_local().numel() for gradient in gradients if gradient is not None))

    weights = torch.linspace(0.01, 0.2, 16)
    accumulate_gradient(policy, rollout, ROWS, weights, SurrogateConfig(), passes._replace(sync=watch))
    total = sum(parameter.numel() for parameter in policy.parameters())
    assert len(local_sizes) > 2
    assert max(local_sizes) <= 0.51 * total

    single, alone = random_policy(), passes._replace(agree=lambda number: number)
    accumulate_gradient(single, rollout, ROWS, weights, SurrogateConfig(), alone)
    for ours, theirs in zip(policy.parameters(), single.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(full(ours.grad), theirs.grad, rtol=1e-4, atol=1e-6)
    sizes = [parameter.grad for parameter in single.parameters() if parameter.grad is not None]
    sharded = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    torch.testing.assert_close(total_norm(sharded), total_norm(sizes))
    torch.testing.assert_close(clip_gradient(policy.parameters(), 1e9), total_norm(sizes))
    policy.zero_grad()


def check_what_the_first_rank_reads(folder: Path, mesh: DeviceMesh, lora: LoraSettings | None) -> None:
    """The second rank, which reads no weights, holds its half of them, and computes what one process does."""
    config = PolicyConfig(path=str(folder), lora=lora)
    policy = load_policy(str(folder), config, read_weights=dist.get_rank() == 0)
    reference = load_reference(str(folder), config, 1.0, torch.float32, read_weights=dist.get_rank() == 0)
    shard_policies(policy, [reference], mesh, ShardingSettings(), None)
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    head, embedding = policy.causal_lm.get_output_embeddings(), policy.causal_lm.get_input_embeddings()
    assert names[id(head.weight)] == names[id(embedding.weight)], "the tie is lost"
    single = load_policy(str(folder), config)
    adapters = {name: full(value) for name, value in policy.state_dict().items() if "lora_" in name}
    single.load_state_dict(adapters, strict=False)  # which each process draws for itself
    for each, alone in ((policy, single), (reference, load_reference(str(folder), config, 1.0, torch.float32))):
        for ours, whole in zip(each.parameters(), alone.parameters(), strict=True):
            assert torch.equal(full(ours.detach()), whole)
            assert ours.requires_grad == whole.requires_grad
        for ours, whole in zip(each.buffers(), alone.buffers(), strict=True):
            assert torch.equal(ours, whole)
    passes = Passes(budget=50, agree=lambda number: number, backward=lambda loss: loss.backward())
    rollout = prepare_rollout(single, [], scored_batch(0), AdvantageConfig(), passes, needs_old=False)
    scores, expected = (score_rows([each], rollout, ROWS, passes)[0] for each in (policy, single))
    torch.testing.assert_close(scores, expected)


def on_one_of_two_ranks(rank: int, folder: Path) -> None:
    policy = random_policy()
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    shard_policy(policy, mesh, ShardingSettings(), None)
    passes = Passes(budget=50, agree=lambda number: number, backward=lambda loss: loss.backward())
    check_gradients(policy, passes)
    check_the_validation_rule(policy, passes)
    for lora in (None, LoraSettings(rank=2)):
        check_what_the_first_rank_reads(folder, mesh, lora)


def test_two_ranks(tmp_path: Path) -> None:
    tied = Qwen2Config.from_dict(random_policy().causal_lm.config.to_dict() | {"tie_word_embeddings": True})
    Qwen2ForCausalLM(tied).save_pretrained(tmp_path)
    run_on_two_ranks(on_one_of_two_ranks, tmp_path)


def test_supported_strategies_are_accepted() -> None:
    for strategy in (SingleDeviceStrategy("cpu"), DDPStrategy(), ModelParallelStrategy()):
        check_strategy(strategy)


@pytest.mark.parametrize("kind", [FSDPStrategy, DeepSpeedStrategy, XLAStrategy, SingleDeviceXLAStrategy])
def test_other_strategies_are_refused(kind: type[Strategy]) -> None:
    """Without what they need to be built, which is not installed here."""
    with pytest.raises(UserError, match=rf"trainer\.strategy is {kind.__name__}.*configs/strategy/fsdp2\.yaml"):
        check_strategy(kind.__new__(kind))


@pytest.mark.parametrize(("strategy", "expected"), [(ModelParallelStrategy(), False), (DDPStrategy(), True)])
def test_a_sharded_policy_is_evaluated_without_inference_mode(strategy: Strategy, expected: bool) -> None:
    """Lightning reads the attribute when the loop runs, after the module's `setup`."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    names = ("validate_loop", "test_loop", "predict_loop")
    loops = {name: getattr(trainer, name) for name in names}
    prepare_strategy(SimpleNamespace(strategy=strategy, world_size=1, **loops))  # type: ignore[arg-type]
    assert [loop.inference_mode for loop in loops.values()] == [expected] * 3


@pytest.mark.parametrize("backend", [None, "nccl", "cuda:nccl"])
def test_offloaded_weights_need_ranks_that_exchange_them(backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm of their gradient is summed on the CPU, which NCCL does not do."""
    offload, device = ShardingSettings(cpu_offload=True), torch.device("cuda", 0)
    strategy = ModelParallelStrategy(process_group_backend=backend)
    monkeypatch.setattr(ModelParallelStrategy, "root_device", property(lambda self: device))
    with pytest.raises(UserError, match=rf"process_group_backend is {backend or 'nccl'}.*{OFFLOAD_BACKEND}"):
        check_offload(offload, strategy)
    check_offload(ShardingSettings(), strategy)
    for good in (OFFLOAD_BACKEND, "gloo"):
        check_offload(offload, ModelParallelStrategy(process_group_backend=good))
    check_offload(offload, DDPStrategy())
    device = torch.device("cpu")
    check_offload(offload, strategy)


def test_ranks_that_split_layers_are_refused() -> None:
    """They would train on different prompts without exchanging gradients."""
    mesh: Any = {"tensor_parallel": SimpleNamespace(size=lambda: 2)}
    with pytest.raises(UserError, match=r"over 2 ranks.*trainer\.strategy\.init_args\.tensor_parallel_size to 1"):
        shard_policy(random_policy(), mesh, ShardingSettings(), None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_each_layer_is_a_group_of_its_own_and_gradients_are_reduced_in_float32(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype | None
) -> None:
    """A model that names no layers is one group."""
    groups: list[tuple] = []
    monkeypatch.setattr(
        sharding, "fully_shard", lambda module, mesh, mp_policy, **_: groups.append((module, mesh, mp_policy))
    )
    mesh: Any = {"tensor_parallel": SimpleNamespace(size=lambda: 1), "data_parallel": "the ranks"}
    policy = random_policy()
    layers = list(policy.causal_lm.model.layers)
    shard_policy(policy, mesh, ShardingSettings(), dtype)
    policy.causal_lm._no_split_modules = None
    shard_policy(policy, mesh, ShardingSettings(), dtype)
    assert [module for module, _, _ in groups] == [*layers, policy, policy]
    for _, ranks, precision in groups:
        assert ranks == "the ranks"
        assert (precision.param_dtype, precision.reduce_dtype) == (dtype, torch.float32 if dtype else None)


def test_ddp_exchanges_gradients_in_the_last_pass_only(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked: list[bool] = []

    @contextmanager
    def block(self: DDPStrategy) -> Iterator[None]:
        blocked.append(True)
        yield

    monkeypatch.setattr(DDPStrategy, "block_backward_sync", block)
    with sync_gradients(DDPStrategy(), last=True), sync_gradients(SingleDeviceStrategy("cpu"), last=False):
        assert blocked == []
    with sync_gradients(DDPStrategy(), last=False):
        assert blocked == [True]
