"""The command that starts a vLLM server which fits a configuration."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.sampling.server.settings import TransferName, is_loopback
from lambda_grpo_pl.sampling.vllm.settings import VllmSettings


@dataclass(kw_only=True)
class ServerLaunch:
    """What a server is started with."""

    model: str
    """Folder or hub id of the policy."""
    revision: str | None = None
    """Of a hub id."""
    context_length: int
    """Longest prompt plus response in tokens."""
    engine: VllmSettings
    """The section `rollout.engine`."""
    host: str = "127.0.0.1"
    port: int = 8000
    tensor_parallel: int = 1
    """GPUs that one copy of the model is split over."""
    data_parallel: int = 1
    """Copies of the model behind this address."""
    trust_remote_code: bool = False
    transfer: TransferName = "folder"
    """How it gets new weights: `rollout.server.transfer`."""

    def __post_init__(self) -> None:
        if self.transfer == "ipc" and not is_loopback(self.host):
            raise UserError(
                f"--host is {self.host}, but with rollout.server.transfer: ipc the server runs code that it is sent: "
                "use 127.0.0.1, where the trainer is too."
            )

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the server needs: without the first it does not take new weights."""
        unpickles = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"} if self.transfer == "ipc" else {}
        return {"VLLM_SERVER_DEV_MODE": "1"} | unpickles

    @property
    def command(self) -> list[str]:
        """The command as a list of words; the API key, if any, comes in the variable VLLM_API_KEY."""
        engine = self.engine
        words = [
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", self.model, "--host", self.host, "--port", str(self.port)),
            *("--dtype", str(engine.torch_dtype).removeprefix("torch.")),
            *("--max-model-len", str(engine.max_model_len or self.context_length)),
            *("--max-num-seqs", str(engine.max_num_seqs)),
            *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm", "--seed", "0"),
        ]
        if self.revision is not None:
            words += ["--revision", self.revision]
        if engine.kv_cache_bytes is not None:
            words += ["--kv-cache-memory-bytes", str(engine.kv_cache_bytes)]
        if self.transfer != "folder":
            words += ["--weight-transfer-config", json.dumps({"backend": self.transfer})]
        if self.transfer == "ipc":  # the trainer needs the rest of the GPU
            words += ["--gpu-memory-utilization", str(engine.gpu_memory_utilization)]
        if engine.eager:
            words.append("--enforce-eager")
        if self.tensor_parallel > 1:
            words += ["--tensor-parallel-size", str(self.tensor_parallel)]
        if self.data_parallel > 1:
            words += ["--data-parallel-size", str(self.data_parallel)]
        if self.trust_remote_code:
            words.append("--trust-remote-code")
        return words
