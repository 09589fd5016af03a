"""The benchmark measures what it says: all events, durable, with the commits it promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapini.bench.spool import STORES, Shape, measure


@pytest.mark.parametrize("make", STORES, ids=lambda make: make.name)
def test_a_round_commits_as_often_as_its_shape_says(tmp_path: Path, make: type) -> None:
    figure = measure(make, Shape(events=10, records=40, commit_every=8), tmp_path)
    assert figure.commits_per_s / figure.events_per_s == pytest.approx(5 / 400)
    assert figure.megabytes_per_s == pytest.approx(figure.events_per_s * 120 / 1e6)
    beside = measure(make, Shape(events=1, records=500, commit_every=0), tmp_path)
    assert 0.001 < beside.commits_per_s / beside.events_per_s <= 1
    assert list(tmp_path.iterdir()) == []
