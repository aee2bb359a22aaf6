"""The chunked head is the naive head: same numbers, same gradients, whatever the chunk."""

import weakref

import pytest
import torch
from torch import Tensor

from lambda_grpo_pl.policy.head import chunked_logprobs, fused_token_loss
from lambda_grpo_pl.policy.logits import Head

M, H, V = 23, 16, 41


def make_inputs(bias: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(M, H, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, H, dtype=dtype, requires_grad=True)
    offset = torch.randn(V, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, offset, torch.randint(V, (M,))


def token_loss(logprobs: Tensor, place: slice) -> Tensor:
    """Clipped, so that its derivative is not constant, and different for each token."""
    weights = torch.linspace(-1, 1, M, dtype=logprobs.dtype)[place]
    return (weights * (logprobs + 3).exp().clamp(max=1.5)).sum()


def naive(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    temperature: float,
    scale: float = 1.0,
    soft_cap: float | None = None,
) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias) * scale
    logits = logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
    logits = logits / temperature
    return logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize(("scale", "soft_cap"), [(1.0, None), (0.25, None), (1.0, 3.0), (2.0, 5.0)])
def test_fused_and_chunked_heads_equal_the_naive_head(
    bias: bool, temperature: float, chunk: int, scale: float, soft_cap: float | None
) -> None:
    hidden, weight, offset, labels = make_inputs(bias)
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    logprobs = naive(hidden, weight, offset, labels, temperature, scale, soft_cap)
    loss = token_loss(logprobs, slice(0, M))
    expected = torch.autograd.grad(3 * loss, leaves)

    head = Head(weight, offset, temperature, chunk, scale, soft_cap)
    fused, scores = fused_token_loss(hidden, labels, head, token_loss)
    torch.testing.assert_close(fused, loss)
    torch.testing.assert_close(scores.logprobs, logprobs.detach())
    for ours, theirs in zip(torch.autograd.grad(3 * fused, leaves), expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    scores = chunked_logprobs(hidden, labels, head)
    for ours, theirs in zip(
        torch.autograd.grad(3 * token_loss(scores.logprobs, slice(0, M)), leaves), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_entropy_is_that_of_the_distribution() -> None:
    hidden, weight, _, labels = make_inputs(False)
    scores = chunked_logprobs(hidden, labels, Head(weight, None, 1.0, 4))
    expected = torch.distributions.Categorical(logits=hidden @ weight.T).entropy()
    torch.testing.assert_close(scores.entropy, expected.detach())


def test_a_frozen_head_costs_no_weight_gradient() -> None:
    hidden, weight, _, labels = make_inputs(False)
    head = Head(weight.detach(), None, 1.0, 4)
    loss, _ = fused_token_loss(hidden, labels, head, token_loss)
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_no_logits_larger_than_a_chunk_are_made() -> None:
    """The largest tensor with a vocabulary axis that the fused pass creates is chunk × V (the weight itself, [V,
    H], aside).
    """
    hidden, weight, _, labels = make_inputs(False, torch.float32)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, Tensor) and tensor.ndim == 2 and tensor.shape[1] == V and tensor.shape[0] != H:
                    largest = max(largest, tensor.numel())
            return out

    with Watch():
        loss, _ = fused_token_loss(hidden, labels, Head(weight, None, 1.0, 4), token_loss)
        loss.backward()
    assert largest == 4 * V


def test_at_most_two_tensors_of_a_chunks_logits_live_at_a_time() -> None:
    """Logits and log-probabilities, or log-probabilities and probabilities; none is left over from the chunk before."""
    hidden, weight, _, labels = make_inputs(False, torch.float32)
    alive: list[weakref.ref] = []
    most = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape == (4, V) and not any(out is ref() for ref in alive):
                alive.append(weakref.ref(out))
                storages = {ref().untyped_storage().data_ptr() for ref in alive if ref() is not None}
                most = max(most, len(storages))
            return out

    with Watch():
        fused_token_loss(hidden, labels, Head(weight, None, 1.0, 4), token_loss)
    assert most == 2
