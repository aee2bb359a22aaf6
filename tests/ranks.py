"""Two processes on this machine that are ranks of one group, as the trainer's processes are."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import multiprocessing

from lambda_grpo_pl.sampling.server.addresses import free_port
from lambda_grpo_pl.training.leaving import leave_calmly


def run_on_two_ranks(work: Callable[..., None], *arguments: object) -> None:
    """Call `work(rank, *arguments)` on both ranks of a gloo group; an error on either is raised here."""
    multiprocessing.spawn(_run_on_rank, args=(free_port("127.0.0.1"), work, arguments), nprocs=2)


def _run_on_rank(rank: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    # As Lightning starts a process: without RANK, which only torchrun sets, so an engine has to ask the group for it.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    leave_calmly()
    work(rank, *arguments)
    dist.destroy_process_group()
