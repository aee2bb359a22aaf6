"""What only a CUDA device can show. Run with `make test-gpu` where there is one."""

from pathlib import Path

import pytest
import torch

from lambda_grpo_pl.policy import PolicyConfig
from lambda_grpo_pl.policy.exactness import find_exactness
from lambda_grpo_pl.policy.packing import ALL
from tests.policy.architectures import make_config
from tests.policy.test_packing import make_policy, make_rollout
from tests.scored import save_tiny_policy
from tests.training.test_module import assert_same, fit

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("layout", ["packed", "shared_prefix"])
def test_varlen_attention_equals_padded_attention_in_bfloat16(layout: str) -> None:
    from lambda_grpo_pl.policy import lay_out

    policy = make_policy().cuda()
    prompts, completions = (
        type(part)(*(t.cuda() if torch.is_tensor(t) else t for t in part)) for part in make_rollout()
    )
    rows = torch.arange(12, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        _, padded = policy(lay_out(prompts, completions, rows, "padded"))
        _, packed = policy(lay_out(prompts, completions, rows, layout))
    torch.testing.assert_close(packed.logprobs, padded.logprobs, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("made_on", ["cuda", "cpu"])
@pytest.mark.parametrize("name", ["qwen3", "mistral", "gemma2", "gemma3", "granite", "gpt_oss"])
def test_the_kernels_that_train_give_the_models_own_logprobs(name: str, made_on: str) -> None:
    """The check at loading under bfloat16 autocast: varlen attention with its windows, float32 logits.

    DDP makes tensors on the GPU by default, FSDP2 on the CPU.
    """
    with torch.device(made_on):
        found = find_exactness(make_config(name), PolicyConfig(path=name), torch.device("cuda", 0))
    assert found.layouts == ALL


def test_a_fit_on_the_gpu_is_the_fit_on_the_cpu(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path)
    config = PolicyConfig(path=str(folder))
    assert_same(fit(folder, policy=config), fit(folder, policy=config, accelerator="gpu"), tolerance=1e-3)
