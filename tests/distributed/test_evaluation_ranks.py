"""Two gloo ranks end with the table of one, with sets that neither batches nor ranks divide."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lambda_grpo_pl.evaluation.records import MERGED, read_records
from tests.distributed.evaluate_known import main
from tests.known_answers import write_questions
from tests.scored import save_tiny_policy

ROOT = Path(__file__).parents[2]
STEP = "evaluation/step-000000"


def evaluate_on_two(folder: Path, out: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "tests.distributed.evaluate_known"]
    done = subprocess.run(
        [*command, str(folder / "policy"), str(folder), str(out), "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    save_tiny_policy(folder / "policy")
    write_questions(folder / "gsm8k.jsonl", 11)
    write_questions(folder / "amc23.jsonl", 5)
    return folder


@pytest.fixture(scope="module")
def single(folder: Path) -> dict[str, Any]:
    (folder / "one").mkdir()
    main(str(folder / "policy"), str(folder), str(folder / "one"), "1")
    result: dict[str, Any] = json.loads((folder / "one/rank0.json").read_text())
    return result


def test_two_ranks_end_with_the_table_of_one(folder: Path, single: dict[str, Any]) -> None:
    both = evaluate_on_two(folder, folder / "two")
    assert both[0]["logged"] == both[1]["logged"] == single["logged"]
    assert single["logged"]["val/gsm8k/accuracy"] == pytest.approx(4 / 11)
    assert set(both[0]["asked"]) | set(both[1]["asked"]) == set(single["asked"])
    tables = [json.loads((folder / name / STEP / "scores.json").read_text()) for name in ("one", "two")]
    assert tables[0] == tables[1]
    for benchmark in ("gsm8k", "amc23"):
        one, two = (folder / name / STEP / benchmark for name in ("one", "two"))
        assert [file.name for file in two.iterdir()] == [MERGED]
        assert read_records(one) == read_records(two)


def test_two_ranks_go_on_where_one_stopped(folder: Path, single: dict[str, Any]) -> None:
    """And the second benchmark, whose records are lost, is the only one asked."""
    out = folder / "fewer"
    shutil.copytree(folder / "one" / "evaluation", out / "evaluation")
    shutil.rmtree(out / STEP / "amc23")
    both = evaluate_on_two(folder, out)
    asked = [question for rank in both for question in rank["asked"]]
    assert {question.split("-")[0] for question in asked} == {"amc23"}
    assert both[0]["logged"] == single["logged"]
