"""What a run shows: the plan before it, the bar and the responses during it; and what `predict` writes."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from lambda_grpo_pl.batch import Completions, Prompts, Rewards, RolloutBatch
from lambda_grpo_pl.builtin.tokenizer import character_tokenizer
from lambda_grpo_pl.callbacks import RolloutProgressBar, completions, startup
from lambda_grpo_pl.callbacks.completions import ShownResponse, select_responses
from lambda_grpo_pl.callbacks.predictions import describe_predictions, join_parts
from lambda_grpo_pl.sampling import VllmSettings
from tests.integration.runs import run

TOKENIZER = character_tokenizer()


def batch_of(texts: list[list[str]], rewards: list[list[float]]) -> RolloutBatch:
    """A sampled and scored batch whose responses are these texts."""
    tokens = [TOKENIZER(text, add_special_tokens=False)["input_ids"] for group in texts for text in group]
    lengths = torch.tensor([len(row) for row in tokens])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in tokens], batch_first=True)
    total = torch.tensor(rewards).flatten()
    examples = tuple(
        {"id": f"q{n}", "index": n, "prompt": f"{n}+{n}=", "answer": str(2 * n)} for n in range(len(texts))
    )
    width = torch.ones(len(texts), 1, dtype=torch.long)
    return RolloutBatch(
        Prompts(width, width[:, 0], examples),
        completions=Completions(ids, lengths, lengths > 2, ids.float()),
        rewards=Rewards(total, total > 0, total > -1, {}),
    )


BATCH = batch_of([["1", "23"], ["4", "567"], ["8", "9"]], [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])


def test_the_best_and_the_worst_response_are_shown_and_equal_ones_once() -> None:
    assert select_responses(BATCH, TOKENIZER, 2) == [
        ShownResponse("0+0=", "23", "0", 1.0, 2),
        ShownResponse("0+0=", "1", "0", 0.0, 1),
        ShownResponse("1+1=", "4", "2", 0.5, 1),
    ]
    assert len(select_responses(BATCH, TOKENIZER, 9)) == 5


def test_the_terminal_obeys_nothing_that_a_model_or_a_data_set_wrote(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb\x00\rc"
    rows = [ShownResponse(hostile, hostile, hostile, 1.0, 3)]
    Console(width=120, force_terminal=True, no_color=True).print(completions._terminal_table(rows, "title"))
    shown = capsys.readouterr().out
    assert not set("\x07\x9b\u202e\x00\r") & set(shown)
    assert "\x1b[2J" not in shown
    assert "\x1b]" not in shown
    assert "\N{REPLACEMENT CHARACTER}[2J" in shown


def test_the_terminal_shows_a_prompt_once_and_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [ShownResponse("Ask [b]me[/b]", text, "[7]", 1.0, 3) for text in (r"[red]x \[z\]", "y")]
    Console(width=120).print(completions._terminal_table(rows, "title"))
    shown = capsys.readouterr().out
    assert shown.count("Ask [b]me[/b]") == 1
    assert r"[red]x \[z\]" in shown
    assert shown.count("[7]") == 2


def test_the_table_comes_every_few_rollouts_on_the_first_rank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completions, "datamodule", lambda trainer: SimpleNamespace(tokenizer=TOKENIZER))

    def shows(index: int, rank_zero: bool = True, **settings: Any) -> bool:
        BATCH.index = index
        trainer: Any = SimpleNamespace(is_global_zero=rank_zero, global_step=7, loggers=[])
        settings = {"every": 2} | settings
        completions.CompletionsTable(**settings).on_train_batch_end(trainer, None, None, BATCH, 0)  # type: ignore[arg-type]
        return "update 7" in capsys.readouterr().out

    assert [shows(index) for index in range(4)] == [True, False, True, False]
    assert not shows(0, every=0)
    assert not shows(0, rank_zero=False)
    assert not shows(0, to_terminal=False)


def test_predictions_are_grouped_by_question() -> None:
    assert describe_predictions(BATCH, TOKENIZER)[1] == {
        "id": "q1",
        "index": 1,
        "prompt": "1+1=",
        "answer": "2",
        "completions": ["4", "567"],
        "lengths": [1, 3],
        "truncated": [False, True],
    }


def test_the_ranks_parts_are_joined_in_order_and_each_question_once(tmp_path: Path) -> None:
    parts = [tmp_path / "rank0", tmp_path / "rank1"]
    rows = [[("b", 0), ("a", 1)], [("a", 0), ("b", 0)]]
    for rank, (part, keys) in enumerate(zip(parts, rows, strict=True)):
        lines = [json.dumps({"set": name, "index": index, "rank": rank}) for name, index in keys]
        part.write_text("".join(line + "\n" for line in lines))
    assert join_parts(parts, ["a", "b"], tmp_path / "all.jsonl") == 3
    joined = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [(row["set"], row["index"], row["rank"]) for row in joined] == [("a", 0, 1), ("a", 1, 0), ("b", 0, 0)]
    assert not parts[0].exists()
    assert not parts[1].exists()


def test_the_bar_shows_registered_metrics_and_counts_no_epochs() -> None:
    bar = RolloutProgressBar()
    trainer: Any = SimpleNamespace(callback_metrics={"reward/mean": torch.tensor(0.123456), "policy/entropy": 1.0})
    assert bar.get_metrics(trainer, None) == {"reward": 0.1235}  # type: ignore[arg-type]
    assert bar._get_train_description(0) == "training"


def test_the_bar_shows_lambda_only_of_methods_that_have_one() -> None:
    bar = RolloutProgressBar()
    fixed: Any = SimpleNamespace(callback_metrics={"preference/lambda": torch.tensor(0.0)})
    learned: Any = SimpleNamespace(callback_metrics={"preference/lambda": 0.5, "preference/grpo_lambda": -1.0})
    assert bar.get_metrics(fixed, None) == {}  # type: ignore[arg-type]
    assert bar.get_metrics(learned, None) == {"λ": 0.5}  # type: ignore[arg-type]


@pytest.mark.parametrize(("max_steps", "expected"), [(12, (12, 7)), (-1, (50, 3))])
def test_the_bar_counts_updates_of_the_whole_run(
    monkeypatch: pytest.MonkeyPatch, max_steps: int, expected: tuple[int, int]
) -> None:
    """After a resume too, where Lightning counts those that were left; without max_steps it counts batches."""
    bar = RolloutProgressBar()
    trainer: Any = SimpleNamespace(max_epochs=-1, max_steps=max_steps, global_step=7, num_training_batches=50)
    bar._trainer = trainer
    shown: list[int] = []
    monkeypatch.setattr(bar, "_update", lambda bar_id, current: shown.append(current))
    for other in ("_initialize_train_progress_bar_id", "_update_metrics", "refresh"):
        monkeypatch.setattr(bar, other, lambda *arguments: None)
    bar.on_train_batch_end(trainer, None, None, None, 2)  # type: ignore[arg-type]
    assert (bar.total_train_batches, *shown) == expected


def test_the_plan_names_data_rewards_rates_sampler_and_memory(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    run(
        "fit",
        policy,
        tmp_path,
        "--trainer.max_steps=1",
        "--trainer.callbacks=null",
        "--trainer.val_check_interval=1000",
        "--data.train.limit=9",
        "--export.folder=null",
        "--summary.show=false",
        "--model.optimizer.lr=0.003",
        "--model.optimizer.warmup_steps=4",
    )
    shown = capsys.readouterr().out
    for part in (
        "builtin:arithmetic, 9 prompts, template 'none'",
        "arithmetic; every 1000 rollouts",
        "1 × numeric",
        "4 × 4 = 16 responses per rollout, on 1 rank(s)",
        "1 epoch(s) × 1 mini-batch(es) = 1 per rollout, 16 responses each; 1 in all",
        "at most 8 per response, 128 per rollout; 2,048 per micro-batch",
        "transformers 5.",
        "on-policy, sampled in this process",
        "power_softmax, λ surrogate",
        "AdamW, learning rate 0.003 after 4 warm-up updates, constant; λ: SGD, learning rate ",
        "and 1 for λ:",
    ):
        assert part in shown, part
    assert "chosen by" not in shown


@pytest.mark.parametrize(
    ("name", "installed", "expected"),
    [
        ("auto", "0.30.0", "vLLM 0.30.0 in float32, chosen by rollout.sampler: auto"),
        ("vllm", "0.30.0", "vLLM 0.30.0 in float32"),
        (
            "auto",
            None,
            f"transformers {startup.importlib.metadata.version('transformers')}, chosen by rollout.sampler: auto",
        ),
    ],
)
def test_the_plan_names_the_sampler_that_auto_chose(
    monkeypatch: pytest.MonkeyPatch, name: str, installed: str | None, expected: str
) -> None:
    """And the type that the engine's own `auto` stands for on this machine."""
    monkeypatch.setattr(startup, "installed_vllm", lambda: installed)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rollouts: Any = SimpleNamespace(sampler=SimpleNamespace(name=name, vllm=VllmSettings(dtype="auto")))
    assert startup._sampler(rollouts) == expected


def test_the_engines_memory_counts_its_weights_and_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    automatic = startup._engine_memory(VllmSettings(), 2**30)
    assert automatic == "4,096 MiB of weights and 1 GiB of key-value cache"  # float32 on CPUs
    settings = VllmSettings(dtype="bfloat16", kv_cache_gib=0.5)
    assert startup._engine_memory(settings, 2**30) == "2,048 MiB of weights and 0.5 GiB of key-value cache"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 * 2**30))
    assert startup._engine_memory(VllmSettings(), 2**30) == "24.0 GiB of each GPU (30%)"
