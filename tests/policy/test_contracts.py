"""What the policy takes for granted of other libraries, read from what is installed."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.gemma2 import modeling_gemma2
from transformers.models.gpt_oss import modeling_gpt_oss
from transformers.models.mistral import modeling_mistral

from lambda_grpo_pl.policy import attention
from lambda_grpo_pl.policy.segments import AttentionLayout

ADVICE = "changed its interface: adapt policy/attention.py to it"


def test_varlen_attention_takes_what_we_pass() -> None:
    from torch.nn.attention.varlen import varlen_attn

    parameters = inspect.signature(varlen_attn).parameters
    assert list(parameters)[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"], ADVICE
    assert {"scale", "window_size"} <= parameters.keys(), f"torch's varlen_attn {ADVICE}"
    assert parameters["window_size"].default == (-1, -1), f"torch's varlen_attn {ADVICE}"


def test_cuda_products_can_return_float32() -> None:
    assert "dtype" in torch.ops.aten.mm.overloads(), "torch.mm lost out_dtype: adapt policy/logits.py"


def test_transformers_attention_takes_what_we_pass() -> None:
    names = ["module", "query", "key", "value", "attention_mask", "dropout", "scaling"]
    assert list(inspect.signature(sdpa_attention_forward).parameters)[:7] == names, f"transformers {ADVICE}"
    assert list(inspect.signature(attention.packed_attention).parameters)[:7] == names
    assert {"q_length", "kv_length"} <= inspect.signature(sdpa_mask).parameters.keys(), f"transformers {ADVICE}"


@pytest.mark.parametrize(
    ("attention_class", "argument"),
    [
        (modeling_mistral.MistralAttention, "sliding_window="),
        (modeling_gemma2.Gemma2Attention, "softcap="),
        (modeling_gpt_oss.GptOssAttention, "s_aux="),
    ],
)
def test_models_hand_their_scores_to_the_attention(attention_class: type, argument: str) -> None:
    source = inspect.getsource(attention_class.forward)
    assert argument in source, f"{attention_class.__name__} no longer passes {argument} to its attention"
    assert "**kwargs" in source, f"{attention_class.__name__} no longer passes packed_layout on"


def test_configurations_reach_their_text_part() -> None:
    assert callable(PretrainedConfig.get_text_config)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("num_prefix", [0, 5])
def test_varlen_attention_gets_the_keys_that_blocks_attend_to(
    monkeypatch: pytest.MonkeyPatch, grouped: bool, window: int | None, num_prefix: int
) -> None:
    """The CUDA path with a stand-in kernel that follows flash attention's definitions equals the blocks."""

    def kernel(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seq_q: Tensor,
        cu_seq_k: Tensor,
        max_q: int,
        max_k: int,
        *,
        scale: float | None = None,
        window_size: tuple[int, int] = (-1, -1),
        enable_gqa: bool = False,
    ) -> Tensor:
        assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
        assert enable_gqa == (query.shape[1] != key.shape[1])
        outputs = []
        for segment in range(len(cu_seq_q) - 1):
            q = query[cu_seq_q[segment] : cu_seq_q[segment + 1]].transpose(0, 1)
            k, v = (part[cu_seq_k[segment] : cu_seq_k[segment + 1]].transpose(0, 1) for part in (key, value))
            behind = torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1] - torch.arange(k.shape[1])
            left = window_size[0] if window_size[0] >= 0 else k.shape[1]
            mask = (behind <= left) & (behind >= -window_size[1])
            attended = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, mask, scale=scale, enable_gqa=enable_gqa
            )
            outputs.append(attended.transpose(0, 1))
        return torch.cat(outputs)

    def kernel_of_torch_2_11(*tensors: Any, scale: float, window_size: tuple[int, int]) -> Tensor:
        return kernel(*tensors, scale=scale, window_size=window_size)

    import torch.nn.attention.varlen as varlen

    monkeypatch.setattr(varlen, "varlen_attn", kernel if grouped else kernel_of_torch_2_11)
    torch.manual_seed(0)
    start, length = torch.tensor([0, 5, 8]), torch.tensor([5, 3, 20])
    prefix_length = torch.tensor([0, num_prefix, num_prefix])
    layout = AttentionLayout(torch.zeros_like(start), prefix_length, start, length)
    query, key, value = (torch.randn(28, heads, 8) for heads in (4, 2, 2))
    scores = attention.Scores(scaling=0.3, dropout=0.0, window=window)
    expected = attention._attend_blocks(query, key, value, layout, scores)
    torch.testing.assert_close(attention._attend_varlen(query, key, value, layout, scores), expected)


def test_the_layout_builds_blocks_only_when_asked() -> None:
    start, length = torch.tensor([0, 5]), torch.tensor([5, 3])
    layout = AttentionLayout(torch.zeros_like(start), torch.tensor([0, 5]), start, length)
    assert not layout._blocks
    assert layout.blocks(None) is layout.blocks(100)
    assert layout.blocks(4) is not layout.blocks(None)
