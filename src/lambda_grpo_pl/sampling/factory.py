"""Which sampler a configuration names, and how to build it in this process or in a separate one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import nn
from transformers import PretrainedConfig

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.adapters import AdapterPlan
from lambda_grpo_pl.sampling.protocol import ReceivingSampler
from lambda_grpo_pl.sampling.server.sampler import ServerSampler
from lambda_grpo_pl.sampling.server.settings import ServerSettings
from lambda_grpo_pl.sampling.transformers_sampler import TransformersSampler
from lambda_grpo_pl.sampling.vllm.compat import installed_vllm, require_vllm
from lambda_grpo_pl.sampling.vllm.sampler import VllmSampler
from lambda_grpo_pl.sampling.vllm.settings import VllmSettings
from lambda_grpo_pl.sampling.weights import is_distributed

SamplerName = Literal["auto", "vllm", "transformers", "server"]


def uses_vllm(name: SamplerName) -> bool:
    """Return whether `rollout.sampler` means vLLM on this machine. Raises `UserError` if that vLLM cannot be used."""
    version = installed_vllm()
    if name in ("transformers", "server") or (name == "auto" and version is None):
        return False
    require_vllm(version)
    return True


def engine_settings(name: SamplerName, settings: VllmSettings) -> VllmSettings | None:
    """Return the settings of the engine that `rollout.sampler` means, here or on servers; None for transformers."""
    return settings if name in ("vllm", "server") or (name == "auto" and installed_vllm() is not None) else None


def runs_remote_code(model: nn.Module) -> bool:
    """Return whether `model` came with its own code, which the user has allowed (`model.policy.trust_remote_code`)."""
    return type(model).__module__.startswith("transformers_modules.")


@dataclass(kw_only=True)
class SamplerBuilder:
    """Everything a sampler is built from except weights; picklable.

    A new sampler is one module that implements the `ReceivingSampler` protocol and one line in `build`.
    """

    name: SamplerName
    """`auto` is vLLM where it is installed."""
    config: PretrainedConfig
    """The policy's configuration, as loaded: `model.policy.revision` has had its effect."""
    eos_token_ids: tuple[int, ...]
    """Every token that ends a response."""
    pad_token_id: int
    """Fills the end of rows."""
    engine: VllmSettings
    """Read by vLLM only."""
    server: ServerSettings = field(default_factory=ServerSettings)
    """Read by the server sampler only."""
    adapters: AdapterPlan | None = None
    """Send a LoRA policy's adapters separately; read by vLLM only."""
    context_length: int | None = None
    """Longest prompt plus response (`check_context`), for `rollout.engine.max_model_len: null`; read by vLLM only."""
    trust_remote_code: bool = False
    """Let the engine run model code that comes with the checkpoint (`runs_remote_code`)."""

    @property
    def merges_adapters(self) -> bool:
        """Whether the sampler expects adapters merged into the weights."""
        return self.adapters is None or not uses_vllm(self.name)

    def check_process(self) -> None:
        """Raise `UserError` if the sampler cannot be in a separate process of each rank, as one of several ranks."""
        if self.name == "server" and self.server.transfer != "folder" and is_distributed():
            raise UserError(
                f"rollout.server.transfer is {self.server.transfer}, which sends weights from one process, but with "
                "one_step_off.enabled every rank samples in a process of its own: set rollout.server.transfer to "
                "folder, train on one rank, or set one_step_off.enabled to false."
            )

    def build(self, with_model: bool = False) -> ReceivingSampler:
        """Return the sampler. With `with_model` the transformers sampler holds a model that `receive` fills.

        Raises `UserError` if vLLM is required and cannot run.
        """
        if self.name == "server":
            return ServerSampler(
                self.config, self.eos_token_ids, self.pad_token_id, self.server, self.engine.torch_dtype
            )
        if uses_vllm(self.name):
            return VllmSampler(
                self.config,
                self.eos_token_ids,
                self.pad_token_id,
                self.engine,
                self.adapters,
                self.context_length,
                self.trust_remote_code,
            )
        config = self.config if with_model else None
        return TransformersSampler(self.eos_token_ids, self.pad_token_id, config=config)
