"""Tests of the search: its space, its criterion, and its resume after a kill."""

from __future__ import annotations

import pytest

from benchmarks import search
from support.tiny_ladder import tiny_arguments, tiny_artifacts
from unigrec.base.errors import UnigrecError
from unigrec.config.profiles import with_values


@pytest.fixture
def space(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("joint.recommender_lr: {low: 0.001, high: 0.01, log: true}\njoint.batch_size: {choices: [8, 16]}\n")
    return file


@pytest.fixture
def arguments(tmp_path, monkeypatch, space):
    monkeypatch.chdir(tmp_path)
    given = tiny_arguments(tiny_artifacts(tmp_path), tmp_path / "out", "--space", str(space), "--rung", "M0")
    place = given.index("--seeds")
    del given[place : place + 2]
    return given


def read_study(tmp_path):
    return search.open_study(tmp_path / "out", 1)


@pytest.mark.slow
def test_trials_are_ranked_by_validation_and_the_test_items_are_never_ranked(arguments, tmp_path, capsys):
    assert search.run([*arguments, "--trials", "2"]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "out/search.md").read_text() == printed
    values = [float(line.split("|")[-2]) for line in printed.splitlines()[2:]]
    assert len(values) == 2
    assert values == sorted(values, reverse=True)
    assert not list((tmp_path / "out").rglob("evaluate"))
    for trial in read_study(tmp_path).trials:
        assert 0.001 <= trial.params["joint.recommender_lr"] <= 0.01
    assert search.run([*arguments, "--trials", "2"]) == 0  # all wanted trials are already finished
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_a_trial_that_was_killed_is_taken_up_again(arguments, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search, "work_through", die)
        with pytest.raises(KeyboardInterrupt):
            search.run([*arguments, "--trials", "1"])
    (killed,) = read_study(tmp_path).trials[:1]
    assert search.run([*arguments, "--trials", "1"]) == 0
    assert read_study(tmp_path).best_params == killed.params


def test_a_training_that_fails_counts_as_a_trial(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(search, "work_through", lambda *_: ["joint: the loss is not finite"])
    assert search.run([*arguments, "--trials", "2"]) == 0
    assert [trial.state.name for trial in read_study(tmp_path).trials] == ["PRUNED", "PRUNED"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("joint.epochs: 3", "joint.epochs: expected choices"),
        ("joint.epochs: {low: 3}", "joint.epochs: expected choices"),
        ("joint.epochs: {low: 3, high: 3}", "is not below"),
        ("joint.epochs: {choices: []}", "must be a list"),
    ],
)
def test_a_space_that_says_nothing_is_refused(tmp_path, text, message):
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(UnigrecError, match=message):
        search.read_space(file)


def test_the_committed_space_names_keys_of_params():
    values = search.profile_params(search.ROOT, "small")
    for key, entry in search.read_space(search.SPACE).items():
        with_values(values, {key: entry})


def test_whole_bounds_are_whole_numbers():
    found = search.distributions({"a": {"low": 1, "high": 4}, "b": {"low": 1.0, "high": 4}})
    assert [type(kind).__name__ for kind in found.values()] == ["IntDistribution", "FloatDistribution"]
