"""The benchmark of indexes over the teacher's items."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import nearest


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "COUNT", 5)
    monkeypatch.setattr(nearest, "BATCH", 7)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_the_exact_search_is_that_of_a_sort(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nearest, "SCORES_OF_A_BLOCK", 7 * 40)  # several blocks
    vectors, states = drawn(300, 6), drawn(7, 6)
    ((_, search),) = nearest.exact(vectors)
    assert search(states).tolist() == np.argsort(-states @ vectors.T, axis=1)[:, :5].tolist()


def test_rows_say_what_of_the_exact_search_is_found(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "READ", (1, 6))
    exact, one, all_lists = nearest.measured(["exact", "lists"], drawn(300, 6), drawn(20, 6))
    assert exact["of the items"] == exact["of their mass"] == all_lists["of the items"] == 1.0
    assert 0 < one["of the items"] < 1
    assert one["of the items"] <= one["of their mass"] < 1


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nearest.importlib, "import_module", lambda name: __import__("no_such_module"))
    rows = nearest.measured(["exact", "usearch"], drawn(50, 6), drawn(7, 6))
    assert [row["search"] for row in rows] == ["exact"]


def test_a_grown_catalogue_has_items_near_the_given_ones():
    given = drawn(10, 64)
    rows = nearest.grown(given, 95)
    distances = np.linalg.norm(rows[:, None] - given[None], axis=2)
    assert rows.shape == (95, 64)
    assert (distances.argmin(1) == np.arange(95) % 10).all()
    assert np.linalg.norm(rows - given[np.arange(95) % 10], axis=1) == pytest.approx(
        nearest.MOVED * np.linalg.norm(given, axis=1)[np.arange(95) % 10], rel=0.4
    )
