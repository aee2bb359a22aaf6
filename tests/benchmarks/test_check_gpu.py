"""The checks of a GPU, rehearsed on the CPU."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import check_gpu  # noqa: E402


@pytest.mark.slow
def test_a_fit_takes_its_steps_and_evaluates(tmp_path: Path) -> None:
    assert "accuracy" in check_gpu.fit_with("transformers")(check_gpu.Machine("cpu", tmp_path))


def test_a_fit_that_evaluates_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step and each evaluation is a row of metrics.csv."""
    asked: list[str] = []
    (tmp_path / "fit-transformers").mkdir()
    metrics = tmp_path / "fit-transformers" / "metrics.csv"
    monkeypatch.setattr(check_gpu, "run", asked.extend)
    steps = "reward/mean,policy/gradient_norm,val/average\n0.5,1.0,\n0.5,1.5,\n"
    metrics.write_text(steps, encoding="utf-8")
    check = check_gpu.fit_with("transformers")
    with pytest.raises(AssertionError, match="0 evaluations were logged"):
        check(check_gpu.Machine("cpu", tmp_path))
    assert asked[asked.index("--trainer.val_check_interval") + 1] == "2"
    metrics.write_text(steps + ",,0.25\n", encoding="utf-8")
    assert check(check_gpu.Machine("cpu", tmp_path)) == "gradient norm 1.5, accuracy 0.25"
