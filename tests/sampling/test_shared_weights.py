"""Memory for weights is reserved before it is written, in the engine's type."""

import os
import resource

import pytest
import torch

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.process.shared_weights import map_slots, open_memory, plan_slots

LAYOUT = [("a", torch.Size([3, 5]), torch.float32), ("b", torch.Size([7]), torch.int64)]


def test_what_is_written_is_read_through_another_mapping():
    memory = open_memory()
    slots = plan_slots(LAYOUT)
    ours, others = map_slots(memory, slots), map_slots(memory, slots)
    ours["a"].copy_(torch.arange(15.0).view(3, 5))
    ours["b"].copy_(torch.arange(7))
    assert all(torch.equal(ours[name], others[name]) for name in ours)
    assert others["a"].sum() == 105
    assert all(slot.offset % 64 == 0 for slot in slots)
    os.close(memory)


def test_floating_point_tensors_are_stored_in_the_engines_type():
    slots = plan_slots(LAYOUT, torch.bfloat16)
    assert [slot.dtype for slot in slots] == [torch.bfloat16, torch.int64]
    assert slots[0].num_bytes == 30


def test_memory_is_reserved_or_refused_in_words():
    """Without it, writing past what /dev/shm holds ends the process with a bus error."""
    memory = open_memory()
    map_slots(memory, plan_slots([("a", torch.Size([2**18]), torch.float32)]))
    assert os.fstat(memory).st_blocks * 512 >= 2**20
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**21, hard))
    try:
        with pytest.raises(UserError, match=r"needs 0\.02 GiB of shared memory .*--shm-size.*rollout\.engine\.dtype"):
            map_slots(memory, plan_slots([("a", torch.Size([2**22]), torch.float32)]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    os.close(memory)
