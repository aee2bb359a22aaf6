"""The trained policy as a Hugging Face folder, which `AutoModelForCausalLM` and vLLM load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from lambda_grpo_pl.sampling import policy_weights


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
        model: Any = pl_module.policy.causal_lm
        state = {name: tensor.detach().cpu() for name, tensor in policy_weights(pl_module.policy.model)}
        if model.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)  # transformers ties it again when it loads the folder
        if trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / self.folder
            attention, model.config._attn_implementation = model.config._attn_implementation, "sdpa"
            model.save_pretrained(path, state_dict=state)
            model.config._attn_implementation = attention
            trainer.datamodule.tokenizer.save_pretrained(path)  # type: ignore[attr-defined]
