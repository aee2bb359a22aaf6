"""Text, files and settings that mean harm: nothing runs, nothing breaks, and no secret is written anywhere."""

import csv
import json
import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from lambda_grpo_pl.cli import entry
from lambda_grpo_pl.data.printable import STAND_IN
from lambda_grpo_pl.evaluation.records import read_records
from lambda_grpo_pl.reporting.command import write_report
from tests.callbacks.test_checkpoint import Payload
from tests.integration.runs import arguments, run
from tests.reporting.test_page import Elements
from tests.sampling.fake_server import KEY, FakeServer

OBEYED = "\x00\x07\x1b\x9b\r\u202e\u2066"
"""Characters that terminals obey."""
HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)><!-- "
    "\x1b[2J\x1b]0;title\x07\x9b31m\x00\r\u202e\u2066"
    "<|im_end|><|im_start|>system ]]> \\u0000 \ud800 "
    "\"',=cmd|'/C calc'!A1\n\t[red]{{ x }} %s $(touch executed) \\boxed{4}"
)
SHARED = HOSTILE.split("\ud800")[0]
"""The text up to half of a surrogate pair, which no UTF-8 file can hold."""
LONG = 1_000_000


# ------------------------------------------------------------------------------------------------ text


@pytest.fixture(scope="module")
def hostile(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose questions and responses are hostile; every third response has a million characters."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [
        {"id": f"{n}\x1b[2J<b>", "question": f"{n} {HOSTILE.replace(chr(0xD800), '')}", "answer": "4"} for n in range(8)
    ]
    questions = folder / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    calls = count()

    def decode(self: Any, token_ids: Any, *_: Any, **__: Any) -> str:
        return HOSTILE + "x" * LONG * (next(calls) % 3 == 0)

    kinds = [
        f"{{class_path: lambda_grpo_pl.callbacks.{kind}, init_args: {{save_dir: {folder / 'run'}}}}}"
        for kind in ("RunCSVLogger", "RunWandbLogger")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedTokenizerFast, "decode", decode)
        patch.chdir(folder)
        run(
            "fit",
            policy,
            folder / "run",
            "--trainer.callbacks=null",
            "--trainer.max_steps=2",
            "--trainer.val_check_interval=2",
            "--data.batch_size=2",
            "--rollout.sampling.num_samples=2",
            "--rollout.sampling.max_tokens=3",
            f"--data.train.path={questions}",
            f"--data.val=[{{path: {questions}, name: mine}}]",
            "--table.every=1",
            f"--trainer.logger=[{', '.join(kinds)}]",
        )
    assert not (folder / "executed").exists()
    return folder / "run"


def test_rollouts_and_evaluations_are_read_again(hostile: Path) -> None:
    rows = pandas.read_parquet(hostile / "rollouts")
    assert len(rows) == 2 * 2 * 2
    (records,) = (read_records(path.parent) for path in hostile.rglob("records.parquet"))
    assert len(records) == 8
    texts = [text for record in records for text in record.completions]
    assert all(text.startswith(SHARED) for text in texts)
    assert max(map(len, texts)) > LONG
    assert records[0].id == "0\x1b[2J<b>"


def test_metrics_have_their_columns(hostile: Path) -> None:
    with (hostile / "csv" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in rows)
    assert [row["update"] for row in rows if row["reward/mean"]] == ["1", "2"]


def test_tables_on_weights_and_biases_hold_the_text_as_it_is(hostile: Path) -> None:
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in hostile.rglob("completions*.table.json")]
    assert tables
    column = tables[0]["columns"].index("completion")
    texts = [row[column] for table in tables for row in table["data"]]
    assert all(text.startswith(SHARED + "?") for text in texts)


def test_the_report_shows_it_as_text(hostile: Path, tmp_path: Path) -> None:
    write_report([str(hostile)], str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    elements = Elements(page)
    assert [dict(attrs) for tag, attrs in elements.found if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert not [tag for tag, _ in elements.found if tag == "img"]
    items = json.loads(elements.scripts[0])["responses"]["items"]
    assert items
    assert all(item["text"].startswith(SHARED) for item in items)


def test_the_terminal_is_told_nothing(
    hostile: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of responses, and the prompts as sent."""
    questions = str(hostile.parent / "questions.jsonl")
    monkeypatch.setattr(PreTrainedTokenizerFast, "decode", lambda *_, **__: HOSTILE)
    options = ["--trainer.max_steps=1", f"--data.train.path={questions}", "--table.every=1", "--data.batch_size=2"]
    run("fit", policy, tmp_path, "--trainer.callbacks=null", "--trainer.val_check_interval=9", *options)
    shown = capsys.readouterr()
    assert STAND_IN in shown.out
    assert not set(OBEYED) & set(shown.out + shown.err.replace("\r", ""))  # of progress bars


# ------------------------------------------------------------------------------------------------ files and settings


@pytest.fixture
def refused(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run `lambda-grpo fit`, which must end with one sentence and execute nothing; returns the sentence."""
    monkeypatch.chdir(tmp_path)

    def fit(*options: str) -> str:
        words = arguments("fit", policy, tmp_path / "run", "--trainer.max_steps=1", *options)
        monkeypatch.setattr("sys.argv", ["lambda-grpo", *words])
        assert entry.main() == 2
        assert not (tmp_path / "executed").exists()
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("lambda-grpo: "))
        return line

    return fit


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.mkdir [executed]",
        "model: {policy: !!python/object/new:pathlib.PosixPath [executed]}",
        "trainer: {callbacks: [{class_path: subprocess.Popen, init_args: {args: [mkdir, executed]}}]}",
        "trainer: {strategy: {class_path: subprocess.Popen, init_args: {args: [mkdir, executed]}}}",
        "model: {policy: {class_path: subprocess.Popen, init_args: {args: [mkdir, executed]}}}",
    ],
    ids=lambda text: text[:60],
)
def test_a_configuration_builds_declared_classes_only(refused: Callable[..., str], tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    refused("--config", str(path))


def test_a_checkpoint_is_data(refused: Callable[..., str], tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "payload": Payload()}, tmp_path / "bad.ckpt")
    assert re.search(r"bad\.ckpt", refused("--ckpt_path", str(tmp_path / "bad.ckpt")))


def test_code_beside_a_model_is_not_run(refused: Callable[..., str], policy: Path, tmp_path: Path) -> None:
    """`trust_remote_code` is off unless it is set."""
    folder = tmp_path / "model"
    config = AutoConfig.from_pretrained(policy)
    config.auto_map = {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(policy).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"model_type": "theirs"}))
    (folder / "theirs.py").write_text("import os\nos.mkdir('executed')\n")
    assert "trust_remote_code" in refused("--model.policy.path", str(folder))


# ------------------------------------------------------------------------------------------------ secrets

SECRETS = {"SERVER_KEY": KEY, "WANDB_API_KEY": "0" * 8 + "5ecre7" * 6, "HF_TOKEN": "hf_5ecre7token"}


def holds(path: Path, secret: str) -> bool:
    return secret.encode() in path.read_bytes()


def test_no_secret_is_written(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The server refuses whoever lacks its key, so the run had it."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    config, tokenizer = AutoConfig.from_pretrained(policy), AutoTokenizer.from_pretrained(policy)
    server = FakeServer(config, tokenizer.eos_token_id, tokenizer.pad_token_id, key=KEY)
    folder = tmp_path / "run"
    kinds = [
        f"{{class_path: lambda_grpo_pl.callbacks.{kind}, init_args: {{save_dir: {folder}}}}}"
        for kind in ("RunCSVLogger", "RunWandbLogger")
    ]
    options = [
        "--trainer.callbacks=null",
        "--trainer.max_steps=2",
        "--trainer.val_check_interval=2",
        "--data.val=[{split: test, limit: 2}]",
        "--rollout.sampler=server",
        f"--rollout.server.urls=[{server.url}]",
        f"--rollout.server.weights_dir={tmp_path / 'weights'}",
        "--rollout.server.api_key_env=SERVER_KEY",
        "--rollout.engine.dtype=float32",
        f"--trainer.logger=[{', '.join(kinds)}]",
    ]
    run("fit", policy, folder, *options)
    server.stop()
    write_report([str(folder)], str(tmp_path / "report.html"))
    said = capfd.readouterr()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path.name for path in files}
    assert {"config.yaml", "run.json", "metrics.csv", "report.html", "last.ckpt"} <= names
    assert any(name.endswith(".wandb") for name in names)
    assert any(holds(path, "SERVER_KEY") for path in files), "the name of the variable is no secret"
    for name, secret in SECRETS.items():
        assert not [path for path in files if holds(path, secret)], name
        assert secret not in said.out + said.err, name


def test_a_password_in_an_address_is_refused(refused: Callable[..., str]) -> None:
    sentence = refused(
        "--rollout.sampler=server",
        "--rollout.server.urls=[http://me:pa55word@127.0.0.1:8000]",
        f"--rollout.server.weights_dir={os.curdir}",
    )
    assert "rollout.server.api_key_env" in sentence
    assert "pa55word" not in sentence
