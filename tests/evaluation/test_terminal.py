"""The table in a terminal can be read at 80 columns, names and numbers whole."""

from rich.console import Console

from lambda_grpo_pl.evaluation.report import RunInfo, tabulate_records
from lambda_grpo_pl.evaluation.terminal import scores_table


def test_every_name_and_number_is_whole_at_80_columns(tmp_path, evaluate):
    evaluate(tmp_path, "olympiadbench", [[i < 557] for i in range(1000)])
    evaluate(tmp_path, "gaokao2023en", [[i < 557] for i in range(1000)])
    evaluate(tmp_path, "aime24", [[True] * 32 for i in range(30)])
    console = Console(width=80, record=True, file=(tmp_path / "shown").open("w"))
    console.print(scores_table(RunInfo(step=7), tabulate_records(tmp_path), average=0.7046))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(line for line in lines if "reads" not in line and "else" not in line)
    (row,) = (line.split() for line in lines if line.strip().startswith("olympiadbench "))
    assert row[:3] == ["olympiadbench", "1000", "55.7"]
    assert row[4:] == ["11", "0.0", "0.0", "0.0"]
    (row,) = (line.split() for line in lines if line.strip().startswith("aime24 "))
    assert row[:4] == ["aime24", "30", "×32", "100.0"]
    (row,) = (line.split() for line in lines if line.strip().startswith("average "))
    assert row == ["average", "70.5"]
    notes = " ".join(" ".join(lines).split())
    assert "gaokao2023en, olympiadbench: template plain, reward math(), temperature 0.6, n 1" in notes
    assert r"math reads what follows the last </think>: the last \boxed{…}, else" in notes
