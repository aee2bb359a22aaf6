"""Bad input ends before any weight is loaded, with one sentence that says what to change, and exit status 2."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from lambda_grpo_pl.cli import entry as cli
from lambda_grpo_pl.sampling import factory
from lambda_grpo_pl.training import module

ROOT = Path(__file__).parents[2]
Fails = Callable[..., str]
PLACE = r"(?:on the command line|[^()]*\.yaml:\d+|preset:[^()]*:\d+)"
"""Where the key before it is set; `test_the_place_of_what_is_wrong` looks at it."""


@pytest.fixture
def fails(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run `lambda-grpo fit` with arguments that must fail; returns the sentence on stderr, without its places."""
    loaded: list[str] = []
    monkeypatch.setattr(module, "load_policy", lambda path, *rest: loaded.append(path))
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> str:
        base = ["--config", "configs/base.yaml", "--trainer.accelerator", "cpu", "--trainer.logger", "false"]
        small = ["--data.batch_size", "4", "--rollout.sampler", "transformers", "--model.policy.path", str(policy)]
        folder = ["--trainer.default_root_dir", str(tmp_path / "run")]
        monkeypatch.setattr("sys.argv", ["lambda-grpo", "fit", *base, *small, *folder, *arguments])
        assert cli.main() == 2
        assert not loaded, "weights were loaded before the error"
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lambda-grpo: ")]
        assert len(lines) == 1
        return re.sub(rf" \({PLACE}\)", "", lines[0])

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., str]:
    """Write a JSONL file; returns its path."""

    def write(*rows: dict[str, str]) -> str:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model.optimizer.learning_rate", "1"], "model.optimizer.learning_rate.*has the keys lr"),
        (["--data.batch_size", "many"], "data.batch_size.*is many, but must be an integer"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--ckpt_path", "README.md"], "README.md.*not a complete checkpoint"),
        (["--model.updates.num_minibatches", "3"], "num_minibatches = 3.*set data.batch_size"),
        (["--trainer.devices", "3"], "3 ranks.*set it to a multiple of 3"),
        (["--trainer.precision", "bf16-true"], "bf16-true.*set it to bf16-mixed"),
        (["--trainer.accelerator", "warp"], "trainer.accelerator is warp: use one of auto, gpu, .*cpu"),
        (["--trainer.strategy", "dpp"], "trainer.strategy is dpp: use auto .*ddp"),
        (["--rollout.sampling.num_samples", "1"], "num_samples is 1.*set it to 2 or more"),
        (["--rollout.sampling.temperature", "0"], "temperature is 0.*set it to 1.0"),
        (["--model.preference.family", "quadratic"], "quadratic.*power_softmax"),
        (["--model.optimizer.lr", "-1"], "lr is -1.0: set it above 0"),
        (["--model.policy.path", "./nowhere"], r"\./nowhere.*folder does not exist"),
        (["--model.policy.path", "builtin:huge"], "builtin:huge.*builtin:arithmetic-tiny"),
        (["--model.preference.learn", "validation"], "data.heldout"),
        (["--heldout.every", "5"], "heldout.every is 5, but there are no held-out prompts: set data.heldout"),
        (
            ["--heldout.every", "5", "--data.heldout.split", "validation", "--model.lens.methods", "[]"],
            "nothing reads held-out batches.*model.lens.methods",
        ),
        (["--model.lens.methods", "[ppo]"], "model.lens.methods names 'ppo': choose grpo"),
        (["--heldout.length_cost", "-1"], "heldout.length_cost is -1.0: set it to 0"),
        (["--model.preference.correlation.gain", "0"], "model.preference.correlation.gain is 0"),
        (["--data.train.path", "nowhere.jsonl"], "data.train.path is nowhere.jsonl, but there is no file"),
        (["--data.val", "[{benchmark: gsm9k}]"], "gsm9k.*gsm8k"),
        (["--reward.functions", "[{name: maths}]"], "reward.functions names 'maths'.*'math'"),
        (["--data.rules", "{max_prompt_tokens: 2, on_long_prompt: error}"], "max_prompt_tokens is 2: *raise it"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_cannot_work(fails: Fails, arguments: list[str], sentence: str) -> None:
    assert re.search(sentence, fails(*arguments))


def test_the_place_of_what_is_wrong(fails: Fails, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A value that its section refuses is named with the line that sets it, like one that the parser refuses."""
    path = tmp_path / "over.yaml"
    path.write_text("model:\n  optimizer:\n    lr: -1\n", encoding="utf-8")
    words = ["lambda-grpo", "fit", f"--config={ROOT}/configs/base.yaml", f"--config={path}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", words)
        assert cli.main() == 2
    assert f"model.optimizer.lr ({path}:3) is -1.0: set it above 0." in capsys.readouterr().err


def test_an_unknown_key_in_a_file(fails: Fails, tmp_path: Path) -> None:
    path = tmp_path / "over.yaml"
    path.write_text("model: {optimiser: {lr: 1.0e-3}}\n", encoding="utf-8")
    assert "model.optimiser" in fails("--config", str(path))


def test_a_missing_column_is_named_with_its_line_and_the_columns_that_are_there(
    fails: Fails, rows: Callable[..., str]
) -> None:
    path = rows({"q": "1+1=", "answer": "2"})
    assert re.search(r"rows.jsonl:1: no column 'question', only q, answer", fails("--data.train.path", path))


def test_a_gold_that_the_reward_cannot_judge(fails: Fails, rows: Callable[..., str]) -> None:
    path = rows({"question": "1+1=", "answer": "2"}, {"question": "Capital?", "answer": "Paris"})
    assert re.search(r"rows.jsonl:2: .*numeric requires a number.*'Paris'", fails("--data.train.path", path))
    val = [f"--data.val={path}"]
    assert re.search(r"rows.jsonl:2: .*numeric requires a number.*'Paris'", fails(*val))


def test_an_empty_data_set(fails: Fails, rows: Callable[..., str]) -> None:
    assert re.search("No usable prompt.*empty.*Check data.train.path", fails("--data.train.path", rows()))


def test_every_prompt_longer_than_the_limit(fails: Fails, rows: Callable[..., str]) -> None:
    path = rows({"question": "1+1=" * 50, "answer": "2"})
    limit = ["--data.rules.max_prompt_tokens", "60", "--data.val", "[{split: test, limit: 4}]"]
    assert re.search("all 1 rows were skipped.*raise data.rules.max_prompt", fails("--data.train.path", path, *limit))


def test_a_tokenizer_without_an_end_token(fails: Fails, policy: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.eos_token = None
    assert re.search(
        "no end-of-sequence.*set eos_token", fails("--model.policy.path", _checkpoint(policy, tmp_path, tokenizer))
    )


def test_a_tokenizer_with_more_tokens_than_the_model(fails: Fails, policy: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_tokens(["<extra>"])
    assert re.search(
        "tokens but the model has only.*matching pair",
        fails("--model.policy.path", _checkpoint(policy, tmp_path, tokenizer)),
    )


@pytest.mark.parametrize("version", [None, "0.27.0", "0.33.0", "1.0.0"])
def test_vllm_absent_or_out_of_range(fails: Fails, monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    monkeypatch.setattr(factory, "installed_vllm", lambda: version)
    sentence = fails("--rollout.sampler", "vllm")
    assert "0.27.1" in sentence
    assert "pip install" in sentence


def test_a_folder_without_a_model(fails: Fails, tmp_path: Path) -> None:
    assert re.search("a folder without config.json.*save_pretrained", fails("--model.policy.path", str(tmp_path)))


def test_a_folder_that_cannot_be_written(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "run")
    for impossible in (folder, "/proc/run"):
        said = fails("--trainer.default_root_dir", impossible)
        assert re.search("default_root_dir is .*cannot be written", said)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seed_everything", "-5"], "seed_everything is -5: set it between 0 and"),
        (["--trainer.accumulate_grad_batches", "2"], "leave it at 1.*tokens_per_micro_batch"),
        (["--trainer.gradient_clip_val", "1"], "set model.optimizer.max_grad_norm"),
        (["--trainer.max_steps", "-3"], "trainer.max_steps is -3"),
        (["--reward.functions", "[]"], "reward.functions is empty"),
        (["--reward.functions", "[{name: math, weight: .nan}]"], "weight of 'math' must be finite"),
        (["--reward.functions", "[{name: nowhere.score}]"], "no module 'nowhere'.*PYTHONPATH"),
        (["--config", "preset:lamda"], "did you mean preset:lambda"),
        (["--ckpt_path", "configs"], "configs.*not a complete checkpoint"),
        (["--ckpt_path", "nowhere.ckpt"], "no such checkpoint: fix the path"),
        (["--resume"], "nothing to resume"),
        (["--data.train.limit", "0"], "^lambda-grpo: data.train.limit is 0: set it to 1 or more"),
        (["--data.train.path", "null"], "^lambda-grpo: data.train has no path and no benchmark: set one"),
        (["--data.val", "[{split: test, limit: 0}]"], r"^lambda-grpo: data.val\[0\].limit is 0"),
        (["--data.rules.max_prompt_tokens", "0"], "^lambda-grpo: data.rules.max_prompt_tokens is 0: set it"),
        (["--model.policy.lora.rank", "0"], "^lambda-grpo: model.policy.lora.rank is 0: set it to 1 or more"),
        (["--data.val", "[{split: test}, {split: test}]"], "data.val has 2 sets of the name 'arithmetic'"),
        (["--data.val", "[{benchmark: gsm8k, template: qwen_box}]"], "qwen_box.*qwen_boxed"),
        (["--data.train.template", "chat"], "data.train.template: .*has none: choose 'plain'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_further_mistakes_are_one_sentence(fails: Fails, arguments: list[str], sentence: str) -> None:
    assert re.search(sentence, fails(*arguments))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("fti", "did you mean fit"),
        ("complare", "did you mean compare"),
        ("paln", "did you mean plan"),
        ("train", "is not a command: use one of fit"),
    ],
)
def test_an_unknown_command(
    word: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["lambda-grpo", word])
    assert cli.main() == 2
    assert re.search(f"{sentence}.*compare", capsys.readouterr().err)


def test_stale_rollouts_that_nothing_corrects_for(fails: Fails) -> None:
    assert re.search("is_correction to truncate or mask", fails("--one_step_off.enabled", "true"))


def test_a_gpu_that_is_not_there(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert re.search("no working CUDA device.*set trainer.accelerator to cpu", fails("--trainer.accelerator", "gpu"))


def test_a_traceback_for_those_who_ask(fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_GRPO_DEBUG", "1")
    with pytest.raises(ValueError, match="above 0"):
        fails("--model.optimizer.lr", "-1")


def _checkpoint(policy: Path, folder: Path, tokenizer: AutoTokenizer) -> str:
    """The configuration of `policy` beside another tokenizer; no weights, since none may be read."""
    path = folder / "checkpoint"
    AutoConfig.from_pretrained(policy).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)
