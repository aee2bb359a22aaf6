"""`lambda-grpo validate | test | predict`: tables on disk and on screen, a checkpoint's own step, prompts as sent."""

import json
from pathlib import Path

import pytest

from lambda_grpo_pl.errors import UserError
from lambda_grpo_pl.evaluation.records import read_records
from lambda_grpo_pl.sampling import TransformersSampler
from tests.integration.runs import run
from tests.known_answers import write_questions
from tests.scored import save_tiny_policy

BASE, TRAINED = "evaluation/step-000000", "evaluation/step-000002"


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    questions = write_questions(tmp_path / "gsm8k.jsonl", 7)
    sets = f"[{{benchmark: gsm8k, path: {questions}}}, {{split: test, limit: 5}}]"
    return [
        "--trainer.callbacks=null",
        f"--data.val={sets}",
        "--data.val_batch_size=2",
        "--evaluation.overrides.max_tokens=8",
        "--evaluation.benchmarks={gsm8k: {num_samples: 2, temperature: 0.6}}",
    ]


@pytest.fixture
def num_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each call of the sampler."""
    calls: list[int] = []
    generate = TransformersSampler.generate

    def counted(self, prompts, settings, seed, on_group=None):
        calls.append(len(prompts.examples))
        return generate(self, prompts, settings, seed, on_group)

    monkeypatch.setattr(TransformersSampler, "generate", counted)
    return calls


def test_validate_writes_and_prints_the_tables(
    policy: Path, options: list[str], tmp_path: Path, num_calls: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    cli = run("validate", policy, tmp_path, *options)
    shown = capsys.readouterr().out
    assert (tmp_path / BASE / "scores.md").read_text() in shown
    assert "* **gsm8k**: template plain, reward math(), temperature 0.6, n 2, at most 8 tokens" in shown
    assert "* **arithmetic**: template none, reward numeric(), greedy, n 1, at most 8 tokens" in shown
    scores = json.loads((tmp_path / BASE / "scores.json").read_text())
    assert scores["average"] == pytest.approx(float(cli.trainer.callback_metrics["val/average"]))
    assert [scores["benchmarks"][name]["measures"]["num_questions"] for name in ("gsm8k", "arithmetic")] == [7, 5]
    info = json.loads((tmp_path / BASE / "run.json").read_text())
    assert info == {"model": str(policy), "method": "base", "seed": None, "step": 0}
    record = read_records(tmp_path / BASE / "gsm8k")[3]
    assert record.prompt == "Question: Ann has 3 apples and buys 4. How many?\nAnswer:"
    assert sum(num_calls) == 12

    run("test", policy, tmp_path, *options)
    assert sum(num_calls) == 12


def test_a_checkpoint_is_evaluated_as_its_own_step_and_only_once(
    policy: Path, options: list[str], tmp_path: Path, num_calls: list[int]
) -> None:
    checkpoint = (
        "--trainer.callbacks=[{class_path: lightning.pytorch.callbacks.ModelCheckpoint, "
        f"init_args: {{dirpath: {tmp_path}, monitor: val/average, mode: max, filename: best}}}}]"
    )
    fit = run(
        "fit",
        policy,
        tmp_path,
        *options[1:],
        checkpoint,
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--trainer.num_sanity_val_steps=-1",
        "--export.folder=null",
        "--summary.show=false",
    )
    assert fit.trainer.checkpoint_callback.best_model_path == str(tmp_path / "best.ckpt")
    infos = [json.loads((tmp_path / step / "run.json").read_text()) for step in (BASE, TRAINED)]
    assert [(info["method"], info["seed"], info["step"]) for info in infos] == [("base", None, 0), ("lambda", 0, 2)]
    table = (tmp_path / TRAINED / "scores.json").read_text()
    before = len(num_calls)
    run("validate", policy, tmp_path, *options, f"--ckpt_path={tmp_path / 'best.ckpt'}")
    assert len(num_calls) == before
    assert (tmp_path / TRAINED / "scores.json").read_text() == table


def test_predict_writes_every_question_with_its_responses(policy: Path, options: list[str], tmp_path: Path) -> None:
    run("predict", policy, tmp_path, *options)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [(row["set"], row["index"]) for row in rows] == [
        *(("gsm8k", index) for index in range(7)),
        *(("arithmetic", index) for index in range(5)),
    ]
    assert {len(row["completions"]) for row in rows} == {4}
    assert rows[3]["prompt"] == "Question: Ann has 3 apples and buys 4. How many?\nAnswer:"
    assert rows[3]["answer"] == "7"


def test_prompts_are_printed_as_sent_without_a_models_weights(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer_alone = save_tiny_policy(tmp_path / "policy")
    (tokenizer_alone / "model.safetensors").unlink()
    with pytest.raises(SystemExit) as ended:
        run("validate", tokenizer_alone, tmp_path, *options, "--print_prompt=2")
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert shown.count("── gold") == 4
    assert "Question: Ann has 1 apples and buys 2. How many?\nAnswer:\n── token ids [" in shown
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize("command", ["validate", "predict"])
def test_without_a_set_there_is_nothing_to_evaluate(policy: Path, tmp_path: Path, command: str) -> None:
    with pytest.raises(UserError, match=r"data\.val is empty.*set it to a file or a benchmark"):
        run(command, policy, tmp_path, "--trainer.callbacks=null", "--data.val=[]")
