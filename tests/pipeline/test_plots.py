"""Plots: what the stages wrote is what is drawn, gaps in the rows do no harm, and nothing to draw is an error."""

from __future__ import annotations

import subprocess
import sys

import pytest
from matplotlib.figure import Figure

from unigrec.base.errors import UnigrecError
from unigrec.core.evaluation.protocol import MODELS
from unigrec.pipeline import plots

HISTORY: list[dict] = [
    {"epoch": 0, "step": 0, "validation_ndcg_at_10": 0.01},
    {"epoch": 1, "step": 10, "loss": 4.0, "recommendation_loss": 3.0, "temperature": 0.01, "collision_rate": 0.5},
    {"epoch": 2, "step": 20, "loss": 3.0, "uniformity_loss": -16.0, "temperature": 0.001, "collision_rate": 0.1},
    {"epoch": 3, "step": 30, "loss": 2.0, "validation_ndcg_at_10": 0.02, "temperature": None, "collision_rate": 0.2},
]
USAGE = [
    *({"level": 1, "rank": rank, "usage": usage} for rank, usage in [(3, 0.0), (1, 0.7), (2, 0.3), (4, 0.0)]),
    *({"level": 2, "rank": rank, "usage": 0.25} for rank in range(1, 5)),
]
SLICES = [
    {"slice": name, "users": 10, "model": model, "protocol": protocol, "ndcg_at_10": ndcg, "recall_at_10": 0.5}
    for name in ("all", "cold targets")
    for model, ndcg in (("teacher", 0.02), ("student", 0.03))
    for protocol in ("unmasked", "masked")
]
METRICS = {
    model: {protocol: {"recall_at_10": recall, "ndcg_at_10": recall / 2} for protocol in ("unmasked", "masked")}
    for model, recall in (("student", 0.4), ("popularity", 0.1))
}
CURVE = [
    {
        "epoch": epoch,
        "temperature": 0.01 / (1 + epoch),
        "collision_rate": 0.1 * epoch,
        "soft_hard_disagreement": disagreement,
        "churn_level_1": 0.01 * epoch,
        "churn_level_10": 0.02 * epoch,
        "churn_level_2": None,
        "changed_at_most_one_level": 1 - 0.001 * epoch,
        "entropy_level_1": 2.5,
        "entropy_level_2": 2.0 + 0.1 * epoch,
    }
    for epoch, disagreement in enumerate([0.5, 0.01, 0.0])
]


def annealing(history, path):
    plots.annealing(history, 8, path)


def identifiers_over_epochs(history, path):
    plots.identifiers_over_epochs(history, 8, path)


EVERY_PLOT = [
    (plots.training_curves, HISTORY),
    (annealing, HISTORY),
    (identifiers_over_epochs, HISTORY),
    (plots.codebook_usage, USAGE),
    (plots.metrics_by_slice, SLICES),
    (plots.quality_bars, METRICS),
]


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were to be written, in order. They are laid out, but no pixel is computed."""
    figures = []

    def savefig(figure, path, **settings):
        figure.draw_without_rendering()
        figures.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def lines(axes) -> list[tuple[list, list]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


@pytest.mark.parametrize(("plot", "data"), EVERY_PLOT, ids=lambda value: getattr(value, "__name__", ""))
def test_a_png_is_written_and_again_with_the_same_bytes(plot, data, tmp_path):
    for name in ("once.png", "twice.png"):
        plot(data, tmp_path / "folder" / name)
    once, twice = ((tmp_path / "folder" / name).read_bytes() for name in ("once.png", "twice.png"))
    assert once.startswith(b"\x89PNG")
    assert once == twice


@pytest.mark.parametrize(("plot", "data"), EVERY_PLOT, ids=lambda value: getattr(value, "__name__", ""))
def test_nothing_to_draw_is_an_error_and_leaves_no_file(plot, data, tmp_path):
    with pytest.raises(UnigrecError, match="nothing to draw"):
        plot(type(data)(), tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_each_loss_has_a_panel_and_steps_without_it_are_passed_over(tmp_path, drawn):
    plots.training_curves(HISTORY, tmp_path / "plot.png")
    panels = {axes.get_title(loc="left"): lines(axes) for axes in drawn[0].axes}
    assert panels == {
        "loss": [([10, 20, 30], [4.0, 3.0, 2.0])],
        "recommendation loss": [([10], [3.0])],
        "uniformity loss": [([20], [-16.0])],
        "validation NDCG@10": [([0, 30], [0.01, 0.02])],
    }
    assert len({axes.get_xlim() for axes in drawn[0].axes}) == 1


def test_a_validation_that_hardly_moves_lies_inside_its_panel(tmp_path, drawn):
    rows = [{"step": step, "validation_ndcg_at_10": value} for step, value in ((0, 0.187), (110, 0.188), (220, 0.199))]
    plots.training_curves(rows, tmp_path / "plot.png")
    low, high = drawn[0].axes[0].get_ylim()
    assert low == 0.0
    assert high > 0.2


def test_collisions_are_drawn_with_the_temperature_falling(tmp_path, drawn):
    annealing(HISTORY, tmp_path / "plot.png")
    axes = drawn[0].axes[0]
    assert lines(axes) == [([0.01, 0.001], [0.5, 0.1])]
    assert axes.xaxis_inverted()


def test_annealing_holds_entropy_against_even_use_and_shows_a_disagreement_of_zero(tmp_path, drawn):
    annealing(CURVE, tmp_path / "plot.png")
    _, entropy, disagreement = drawn[0].axes
    assert lines(entropy) == [([0, 1], [3.0, 3.0]), ([0, 1, 2], [2.5, 2.5, 2.5]), ([0, 1, 2], [2.0, 2.1, 2.2])]
    assert lines(disagreement) == [([0, 1, 2], [0.5, 0.01, 0.0])]


def test_churn_is_drawn_level_by_level(tmp_path, drawn):
    identifiers_over_epochs(CURVE, tmp_path / "plot.png")
    churn, entropy, collisions, disagreement = drawn[0].axes
    labels = [text.get_text() for text in churn.get_legend().get_texts()]
    assert labels == ["more than one level", "level 1", "level 2", "level 10"]
    assert [ends[-1] for _, ends in lines(churn) if ends] == pytest.approx([0.002, 0.02, 0.04])
    assert lines(collisions) == [([0, 1, 2], [0.0, 0.1, 0.2])]
    assert len(entropy.lines) == 3
    assert lines(disagreement) == [([0, 1, 2], [0.5, 0.01, 0.0])]


def test_usage_is_sorted_and_stops_at_the_unused_codewords(tmp_path, drawn):
    plots.codebook_usage(USAGE, tmp_path / "plot.png")
    (axes,) = drawn[0].axes
    assert lines(axes)[:2] == [([1, 2], [0.7, 0.3]), ([1, 2, 3, 4], [0.25] * 4)]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["level 1: 50% of codewords used", "level 2: 100% of codewords used", "even use"]


def test_protocols_are_never_mixed(tmp_path, drawn):
    rows = [row | {"ndcg_at_10": 0.9} if row["protocol"] == "masked" else row for row in SLICES]
    plots.metrics_by_slice(rows, tmp_path / "plot.png", protocol="unmasked")
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == [0.02, 0.02, 0.03, 0.03]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all\n10 users", "cold targets\n10 users"]
    with pytest.raises(UnigrecError, match="protocol 'filtered'"):
        plots.metrics_by_slice(rows, tmp_path / "other.png", protocol="filtered")


def test_dollars_in_the_name_of_a_slice_are_no_formula(tmp_path, drawn):
    plots.metrics_by_slice([row | {"slice": "target price: $5_$9^"} for row in SLICES], tmp_path / "plot.png")
    assert drawn[0].axes[0].get_yticklabels()[0].get_text() == "target price: \\$5_\\$9^\n10 users"


def test_quality_bars_draw_the_models_that_are_there(tmp_path, drawn):
    plots.quality_bars(METRICS, tmp_path / "plot.png")
    recall, ndcg = drawn[0].axes
    assert [bar.get_height() for bar in recall.patches] == [0.1, 0.1, 0.4, 0.4]
    assert [bar.get_height() for bar in ndcg.patches] == [0.05, 0.05, 0.2, 0.2]
    assert [text.get_text() for text in ndcg.get_legend().get_texts()] == ["popularity", "student"]


def test_quality_bars_show_unmasked_first_as_the_tables_do(tmp_path, drawn):
    figures = {"recall_at_10": 0.1, "ndcg_at_10": 0.05}
    plots.quality_bars({"student": {"masked": figures, "unmasked": figures}}, tmp_path / "plot.png")
    assert [text.get_text() for text in drawn[0].axes[0].get_xticklabels()] == ["unmasked", "masked"]


def test_what_is_shipped_is_one_of_the_models_and_is_not_drawn_twice(tmp_path, drawn):
    plots.quality_bars(METRICS | {"shipped": METRICS["student"]}, tmp_path / "plot.png")
    slices = [*SLICES, *(row | {"model": "shipped"} for row in SLICES if row["model"] == "student")]
    plots.metrics_by_slice(slices, tmp_path / "other.png")
    bars, by_slice = (figure.axes[0].get_legend_handles_labels()[1] for figure in drawn)
    assert (bars, by_slice) == (["popularity", "student"], ["teacher", "student"])


def test_every_model_of_the_closing_report_has_a_colour_of_its_own():
    assert list(plots.MODEL_COLOURS) == list(MODELS)
    assert len(set(plots.MODEL_COLOURS.values())) == len(MODELS)


def test_importing_the_module_loads_no_matplotlib():
    code = "import sys, unigrec.pipeline.plots; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
