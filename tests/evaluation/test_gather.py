"""Scores are gathered whatever the process group can move."""

import subprocess
import sys
import textwrap

SCRIPT = textwrap.dedent("""
    import torch.distributed as dist

    from lambda_grpo_pl.evaluation.metrics import BenchmarkScores
    from lambda_grpo_pl.evaluation.scores import QuestionScores

    dist.init_process_group("cuda:gloo", store=dist.HashStore(), rank=0, world_size=1)  # as NCCL: no CPU tensors
    scores = BenchmarkScores(1)
    scores.update([QuestionScores(i, [i < 1], [1.0], ["4"], [3], [False], ["ok"]) for i in range(4)])
    print(float(scores.compute()["accuracy"]))
    dist.destroy_process_group()
""")


def test_a_process_group_without_a_cpu_backend_is_no_obstacle() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "0.25"
