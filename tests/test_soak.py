"""A long run holds no more at its end than after its warm-up; `python -m tests.soak` makes a longer one."""

import os
from pathlib import Path

import pytest

from tests.soak import MAX_GROWTH, Usage, look, measure_growth, soak

STEADY = [Usage(update, 1000 + 500 * (update < 20), 9, 6) for update in range(100)]


def test_a_leak_is_seen_and_a_warm_up_is_none() -> None:
    assert measure_growth(STEADY) == (0.0, 0, 0)
    leaking = [each._replace(rss=1000 + each.update, files=9 + each.update // 50) for each in STEADY]
    growth = measure_growth(leaking)
    assert growth.rss > MAX_GROWTH
    assert growth.files == 1
    assert measure_growth([each._replace(threads=6 + (each.update > 90)) for each in STEADY]).threads == 1


def test_what_this_process_holds_is_counted() -> None:
    before = look(1)
    kept, descriptor = b"x" * (64 << 20), os.open("/", os.O_RDONLY)
    after = look(2)
    os.close(descriptor)
    assert len(kept) * 0.9 < after.rss - before.rss
    assert after.files == before.files + 1
    assert after.threads == before.threads > 0


@pytest.mark.slow
def test_five_hundred_updates_leak_nothing(tmp_path: Path) -> None:
    growth = measure_growth(soak(500, tmp_path))
    assert growth.rss < MAX_GROWTH
    assert growth.files <= 0
    assert growth.threads <= 0
