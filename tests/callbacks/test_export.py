"""The exported policy loads in transformers and peft and gives the trained policy's logits."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lambda_grpo_pl.callbacks import HuggingFaceExport
from lambda_grpo_pl.cli.main import LambdaGRPOCLI
from tests.integration.runs import run
from tests.scored import save_tiny_policy

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def fit(policy: Path, folder: Path, *options: str) -> LambdaGRPOCLI:
    return run(
        "fit",
        policy,
        folder,
        "--trainer.callbacks=null",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=1",
        "--data.val=[{split: test, limit: 4}]",
        "--reward.functions=[{name: tests.integration.runs.digit_share}]",
        "--model.optimizer.lr=0.05",
        "--plan.show=false",
        *options,
    )


def trained_logits(cli: LambdaGRPOCLI) -> torch.Tensor:
    policy = cli.model.policy.eval()
    policy.causal_lm.set_attn_implementation("sdpa")
    with torch.no_grad():
        return policy.model(input_ids=IDS).logits


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_the_exported_policy_is_the_trained_one(policy: Path, tmp_path: Path) -> None:
    cli = fit(policy, tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto")
    assert exported.dtype == torch.float32
    torch.testing.assert_close(logits(exported), trained_logits(cli))
    assert not torch.allclose(logits(exported), logits(AutoModelForCausalLM.from_pretrained(policy)), atol=1e-3)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "policy")) == len(cli.datamodule.tokenizer)
    assert not (tmp_path / "policy-adapter").exists()


def test_adapters_are_exported_merged_and_separately(policy: Path, tmp_path: Path) -> None:
    cli = fit(policy, tmp_path, "--model.policy.lora.rank=4")
    expected = trained_logits(cli)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    base = AutoModelForCausalLM.from_pretrained(policy)
    assert not torch.allclose(logits(base), expected, atol=1e-3)
    adapted = PeftModel.from_pretrained(base, tmp_path / "policy-adapter")
    torch.testing.assert_close(logits(adapted), expected, atol=1e-4, rtol=1e-4)
    state = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    policy_state = [name for name in state if name.startswith("policy.")]
    assert policy_state
    assert all("lora_" in name for name in policy_state), "the base's weights are in the base's folder"
    card = (tmp_path / "policy-adapter/README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"


@pytest.mark.parametrize(("dtype", "expected"), [("bfloat16", torch.bfloat16), ("auto", torch.bfloat16)])
def test_the_type_of_the_weights_is_chosen(tmp_path: Path, dtype: str, expected: torch.dtype) -> None:
    base = save_tiny_policy(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base).to(torch.bfloat16).save_pretrained(base)
    cli = fit(base, tmp_path, f"--export.dtype={dtype}")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype="auto")
    assert exported.dtype == expected
    torch.testing.assert_close(logits(exported.float()), trained_logits(cli), atol=0.1, rtol=0.1)
    size = (tmp_path / "policy/model.safetensors").stat().st_size
    assert size < 3 * sum(parameter.numel() for parameter in cli.model.policy.parameters())


@pytest.mark.parametrize(
    ("chosen", "device", "expected"),
    [(None, "cpu", torch.float32), (None, "cuda", torch.bfloat16), ("float32", "cuda", torch.float32)],
)
def test_half_the_size_is_the_default_after_training_on_a_gpu(chosen: Any, device: str, expected: torch.dtype) -> None:
    assert HuggingFaceExport(dtype=chosen)._dtype(None, None, device) == expected


def test_the_card_says_how_the_policy_was_made_and_how_it_scores(policy: Path, tmp_path: Path) -> None:
    fit(policy, tmp_path)
    card = (tmp_path / "policy/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    assert "base_model" not in front  # a local folder has no address
    assert front["tags"] == ["lambda-grpo", "lambda"]
    assert "| Policy updates | 2 |" in card
    assert "| Rewards | 1 × " in card
    assert "digit_share" in card
    assert "| Training prompts | arithmetic, template 'none' |" in card
    assert "Scores of this policy, with 95 % intervals" in card
    assert "| arithmetic: accuracy | 4 | " in card
    assert "[" in card.rpartition("arithmetic: accuracy")[2]
    (command,) = [line.strip() for line in card.splitlines() if line.startswith("    lambda-grpo ")]
    assert {"fit", "--trainer.max_steps=2", "--config=preset:preference/lambda"} <= set(shlex.split(command))


def test_a_card_names_the_update_of_older_scores(policy: Path, tmp_path: Path) -> None:
    fit(policy, tmp_path, "--trainer.val_check_interval=2", "--trainer.max_steps=3")
    assert "Scores of update 2, not of the final policy" in (tmp_path / "policy/README.md").read_text()


def test_a_run_without_evaluation_has_a_card_and_null_exports_nothing(policy: Path, tmp_path: Path) -> None:
    fit(policy, tmp_path / "one", "--trainer.val_check_interval=1000", "--trainer.max_steps=1")
    assert "The policy was not evaluated." in (tmp_path / "one/policy/README.md").read_text()
    fit(policy, tmp_path / "two", "--export.folder=null", "--trainer.max_steps=1")
    assert not list((tmp_path / "two").glob("policy*"))
