"""A rank whose gloo threads still hold tensors when it exits does so with status 0."""

import subprocess
import sys
from pathlib import Path

EXIT_WHILE_A_THREAD_WAITS_FOR_THE_INTERPRETER = """
import sys, time
import torch, torch.distributed as dist
from lambda_grpo_pl.training.leaving import leave_calmly

torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
leave_calmly()
sys.setswitchinterval(1000)  # while this thread computes, no other one gets the interpreter
dist.all_reduce(torch.ones(4), async_op=True)  # gloo's thread holds the last reference
end = time.monotonic() + 0.3
while time.monotonic() < end:
    pass
"""


def test_a_rank_that_exits_lets_the_threads_of_gloo_finish(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXIT_WHILE_A_THREAD_WAITS_FOR_THE_INTERPRETER, str(tmp_path / "rendezvous")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
