"""Two ranks: each samples by itself, with its own engine and whole weights, inside the trainer's process group."""

import copy

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from lambda_grpo_pl.sampling import (
    SamplingSettings,
    TransformersSampler,
    VllmSampler,
    VllmSettings,
    check_sync,
    policy_weights,
    probe_sequences,
)
from tests.ranks import run_on_two_ranks

from .parts import EOS, PAD, VOCAB, random_prompts, tiny_policy


def sample_on_one_of_two_ranks(rank: int) -> None:
    settings = SamplingSettings(max_tokens=12, num_samples=2)
    prompts = random_prompts([3, 9, 5, 7])
    policy = tiny_policy(tied=True)
    state = copy.deepcopy(policy.state_dict())
    whole = TransformersSampler(eos_token_ids=[EOS, 2, 3], pad_token_id=PAD)
    whole.sync(copy.deepcopy(policy))
    for layer in policy.model.layers:
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
    fully_shard(policy, mesh=init_device_mesh("cpu", (2,)))

    gathered = dict(policy_weights(policy))
    assert gathered.keys() == state.keys()
    assert all(torch.equal(gathered[name], state[name]) for name in state)

    sharded = TransformersSampler(eos_token_ids=[EOS, 2, 3], pad_token_id=PAD)
    assert sharded.sync(policy).num_bytes > 0
    engine = VllmSampler(policy.config, [EOS, 2, 3], PAD, VllmSettings(max_model_len=64, kv_cache_gib=0.125))
    engine.sync(policy)
    assert check_sync(engine, whole.probe, probe_sequences(VOCAB), tolerance=1e-4) < 1e-4
    if rank == 0:  # rank 1 does nothing meanwhile: no step of sampling waits for it
        assert torch.equal(
            sharded.generate(prompts, settings, seed=0).ids, whole.generate(prompts, settings, seed=0).ids
        )
        assert len(engine.generate(prompts, settings, seed=0).lengths) == 8
    engine.close()
    dist.barrier()  # the trainer's process group outlives the engine


def test_two_ranks_with_a_sharded_policy():
    run_on_two_ranks(sample_on_one_of_two_ranks)
