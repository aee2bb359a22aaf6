"""The trained policy as a Hugging Face folder, which `AutoModelForCausalLM` and vLLM load, with a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lambda_grpo_pl.callbacks.context import ResultWriter, datamodule, trained
from lambda_grpo_pl.callbacks.model_card import write_model_card
from lambda_grpo_pl.sampling import policy_weights

ExportDtype = Literal["float32", "bfloat16", "auto"]


class HuggingFaceExport(ResultWriter):
    """Writes weights, config, tokenizer and a model card to `<default_root_dir>/<folder>` when the fit ends.

    An interrupted fit exports what it has reached, unless it was interrupted inside an update.

    LoRA adapters are merged into the weights, and also written in PEFT's format to `<folder>-adapter`. Sharded weights
    are gathered one at a time; only the first rank keeps them.
    """

    def __init__(self, folder: str | None = "policy", dtype: ExportDtype | None = None) -> None:
        """Keep the settings.

        Args:
            folder: Folder under trainer.default_root_dir; null writes nothing.
            dtype: Type of the weights on disk: `float32` as trained, `bfloat16` for half the size, or `auto`: that of
                the checkpoint that training started from. null: bfloat16 after training on a GPU, else float32.
        """
        self.folder, self.dtype = folder, dtype

    @override
    def write_results(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather on every rank, write on the first."""
        if self.folder is None:
            return
        policy = trained(pl_module).policy
        dtype = self._dtype(policy.causal_lm.config, trained(pl_module).policy_config, pl_module.device.type)
        state = _on_first_rank(trainer, policy_weights(policy.model), dtype)
        adapters = ((name, tensor) for name, tensor in policy.model.state_dict().items() if "lora_" in name)
        adapter_state = _on_first_rank(trainer, adapters, torch.float32)
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / self.folder
        save_model(policy.causal_lm, state, path)
        folders = [path]
        if adapter_state:
            folders.append(path.with_name(f"{path.name}-adapter"))
            wrapped: Any = policy.model
            wrapped.save_pretrained(folders[1], state_dict=adapter_state, save_embedding_layers=False)
        for folder, what in zip(folders, ("policy", "adapter"), strict=False):
            datamodule(trainer).tokenizer.save_pretrained(folder)
            write_model_card(folder, trainer, pl_module, is_adapter=what == "adapter")
            print(f"{what:>11}  {folder} (update {trainer.global_step})")

    def _dtype(self, config: Any, policy_config: Any, device: str) -> torch.dtype:
        name = self.dtype or ("float32" if device == "cpu" else "bfloat16")
        if name != "auto":
            return torch.float32 if name == "float32" else torch.bfloat16
        stored = type(config).from_pretrained(config.name_or_path, revision=policy_config.revision)
        return stored.dtype or torch.float32


def save_model(model: Any, state: dict[str, Tensor], path: Path) -> None:
    """Write a transformers model's config, and `state` in its own type, as a folder that any attention can load."""
    if model.config.tie_word_embeddings:
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}  # tied again on loading
    attention, model.config._attn_implementation = model.config._attn_implementation, "sdpa"
    try:
        model.save_pretrained(path, state_dict=state)
    finally:
        model.config._attn_implementation = attention
    config_file = path / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["dtype"] = str(next(iter(state.values())).dtype).removeprefix("torch.")  # transformers writes the model's
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _on_first_rank(trainer: L.Trainer, tensors: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return whole tensors on the CPU, floating ones as `dtype`; empty on the other ranks, which help to gather."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors:
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if trainer.is_global_zero:
            kept = whole.detach().to("cpu", dtype if whole.is_floating_point() else None)
            state[name] = kept.contiguous()
    return state
