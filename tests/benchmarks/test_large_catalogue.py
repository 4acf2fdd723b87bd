"""The benchmark of large catalogues: each part runs and says what it is to say."""

from __future__ import annotations

from benchmarks import large_catalogue


def test_a_row_of_the_teacher_has_the_time_of_a_step_and_the_same_loss_for_both():
    full, sampled = (large_catalogue.teacher_steps(300, loss, 200) for loss in ("full", "sampled"))
    assert full["step, CPU ms"] > 0
    assert abs(full["loss at the end"] - sampled["loss at the end"]) < 0.2


def test_ranks_of_a_user_take_time(monkeypatch):
    monkeypatch.setattr(large_catalogue, "RANKED_AMONG", 60)
    assert large_catalogue.ranking_milliseconds(300)["ranks of a user, CPU ms"] > 0
