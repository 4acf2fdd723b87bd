"""Items that are hidden, and added by their texts: what the benchmark takes away, and that it runs on a tiny rung."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from benchmarks.new_items import __main__ as new_items
from benchmarks.new_items import hide

from benchmarks.quality import __main__ as quality
from support import tiny_pipeline
from support.small import random_sequences
from support.tiny_ladder import tiny_arguments

ITEMS = 40


def test_hidden_items_are_gone_and_the_others_keep_their_order():
    sequences = random_sequences(30, ITEMS, 9)
    hidden = hide.hide(sequences, share=0.25, seed=3)
    assert (~hidden.kept).sum() == 10
    assert hidden.sequences.catalogue_size == 30
    left = np.flatnonzero(hidden.kept)
    for user in range(30):
        before = sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]]
        after = hidden.sequences.items[hidden.sequences.offsets[user] : hidden.sequences.offsets[user + 1]]
        assert left[after].tolist() == before[hidden.kept[before]].tolist()
    assert np.array_equal(hide.hide(sequences, 0.25, 3).kept, hidden.kept)


@pytest.mark.slow
def test_a_tiny_rung_is_measured(tmp_path, monkeypatch, capsys):
    project, out = tmp_path / "project", tmp_path / "hidden"
    tiny_pipeline.write_shop(project)
    with tiny_pipeline.inside(project):
        tiny_pipeline.run(*tiny_pipeline.DATA_STAGES)
    artifacts = project / "artifacts"
    monkeypatch.setattr(sys, "argv", ["hide", "--artifacts", str(artifacts), "--out", str(out), "--share", "0.2"])
    hide.run()
    assert quality.run(tiny_arguments(out / "artifacts", out / "rungs", "--rungs", "M14")) == 0
    (rung,) = (out / "rungs/seed-1/M14").iterdir()
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["new_items", "--artifacts", str(artifacts), "--hidden", str(out), str(rung)])
    assert new_items.run() == 0
    text = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in text.splitlines() if line.startswith("|")}
    assert {"shipped: predicted vector and texts", "random", "left out", *"0123"} <= set(rows)
    new_at_10 = [float(rows[str(places)][0]) for places in new_items.PLACES]
    assert new_at_10[0] == 0.0  # without places, a new item is never in a list
    assert new_at_10 == sorted(new_at_10)
