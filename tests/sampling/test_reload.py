"""What vLLM cannot reload is refused in words; errors of the policy's own weights stay what they are."""

from types import SimpleNamespace

import pytest
import torch

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.vllm.reload import prepack_experts, reload_weights


class Engine:
    """Reads all weights, then fails as told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.applied = error, []

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        self.read = dict(kwargs["weights_iterator"])
        if self.error is not None:
            raise self.error

    def apply_model(self, function):
        self.applied.append(function)


@pytest.mark.parametrize("error", [AttributeError("no do_not_compile"), ValueError("no parameter"), KeyError("mlp")])
def test_an_architecture_that_vllm_cannot_reload_is_refused_with_the_way_around(error):
    with pytest.raises(UserError, match=r"cannot reload the weights of phi models.*rollout\.sampler to transformers"):
        reload_weights(Engine(error), [("a", torch.zeros(1))], "phi")


def test_errors_of_the_weights_are_not_vllms():
    def broken():
        yield "a", torch.zeros(1)
        raise ValueError("ours")

    with pytest.raises(ValueError, match=r"^ours$"):
        reload_weights(Engine(), broken(), "phi")


def test_reloaded_experts_are_prepacked_once_and_only_they(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, expected in (("layers.0.mlp.experts.0.up_proj.weight", [prepack_experts]), ("layers.0.norm.weight", [])):
        engine = Engine()
        reload_weights(engine, [(name, torch.zeros(1))] * 2, "qwen3_moe")
        assert engine.applied == expected
        assert list(engine.read) == [name]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # kernels on GPUs read the weights themselves
    engine = Engine()
    reload_weights(engine, [("layers.0.mlp.experts.0.up_proj.weight", torch.zeros(1))], "qwen3_moe")
    assert engine.applied == []


def test_prepacking_asks_each_layer_with_experts():
    packed = []
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    kernel = SimpleNamespace(fused_experts=SimpleNamespace(process_weights_after_loading=packed.append))
    model[1].quant_method, model[1].w13_weight = SimpleNamespace(moe_kernel=kernel), torch.zeros(1)
    prepack_experts(model)
    assert packed == [model[1]]
