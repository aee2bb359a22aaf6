"""The trained policy as a Hugging Face folder, which `AutoModelForCausalLM` and vLLM load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.distributed.tensor import DTensor


class HuggingFaceExport(L.Callback):
    """Writes weights (LoRA merged, shards gathered), config and tokenizer to `<default_root_dir>/<folder>`."""

    def __init__(self, folder: str | None = "policy") -> None:
        """Keep the setting.

        Args:
            folder: Folder under trainer.default_root_dir; null writes nothing.
        """
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Gather on every rank, write on the first."""
        if self.folder is None:
            return
        path = Path(trainer.default_root_dir) / self.folder
        model = pl_module.policy.model
        merged = hasattr(model, "merge_adapter")
        if merged:
            model.merge_adapter()
        state = {name: _whole(value) for name, value in pl_module.policy.causal_lm.state_dict().items()}
        if merged:
            model.unmerge_adapter()
            state = {name.replace(".base_layer", ""): value for name, value in state.items() if ".lora_" not in name}
        if trainer.is_global_zero:
            config = pl_module.policy.causal_lm.config
            attention, config._attn_implementation = config._attn_implementation, "sdpa"
            pl_module.policy.causal_lm.save_pretrained(path, state_dict=state)
            config._attn_implementation = attention
            trainer.datamodule.tokenizer.save_pretrained(path)  # type: ignore[attr-defined]


def _whole(value: torch.Tensor) -> torch.Tensor:
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.detach().cpu()
