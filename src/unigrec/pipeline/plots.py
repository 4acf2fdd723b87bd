"""Pictures of a run: each function draws one, as PNG or SVG by the path's suffix, from the JSON that a stage wrote.

`dvc plots` draws the same data in a browser, but its pages load a script from the network; these files need none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base.errors import UnigrecError
from unigrec.base.files import atomic_path
from unigrec.core.decisions.comparison import CHALLENGER, CHAMPION
from unigrec.core.evaluation.protocol import GATED_CUTOFF, SELECTED, Protocol
from unigrec.promotion.online import WAYS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]

# Each model has one colour in all pictures; none relies on red against green (Okabe and Ito's palette).
MODEL_COLOURS = {
    "popularity": "#999999",
    "cooccurrence": "#56B4E9",
    "last_item": "#CCCCCC",
    "own_items": "#F0E442",
    "neighbours": "#009E73",
    "teacher": "#E69F00",
    "student": "#0072B2",
    "fused": "#D55E00",
}
LINE_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": "#e5e5e5",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}
# In an SVG, text stays text, and names of parts are the same in every run.
STYLE |= {"svg.fonttype": "none", "svg.hashsalt": "unigrec"}
METADATA = {"png": ("Software",), "svg": ("Creator", "Date", "Format", "Type")}  # what a file would say of its making
LINEAR_BELOW = 0.001  # share of items where a logarithmic axis becomes linear
METRIC_NAMES = {f"{name.lower()}_at_{GATED_CUTOFF}": f"{name}@{GATED_CUTOFF}" for name in ("Recall", "NDCG")}


def training_curves(history: Rows, path: Path, title: str = "Training") -> None:
    """Draw one panel per loss over the steps, and one for the validation NDCG@10.

    Args:
        history: rows with "step" and any of "loss", "..._loss", "validation_ndcg_at_10".
        path: the file to write.
        title: title of the whole picture.

    Raises:
        NothingToDraw: no row holds a value to draw.
    """
    losses = sorted({key for row in history for key in row if key == "loss" or key.endswith("_loss")}, key=_loss_order)
    keys = [key for key in (*losses, SELECTED) if _points(history, "step", key)[0]]
    _require(keys, path, f"a loss or {SELECTED}")
    columns = min(len(keys), 3)
    lines = -(-len(keys) // columns)
    first, last = (end(_points(history, "step", "step")[0]) for end in (min, max))
    margin = 0.03 * (last - first) or 1
    with _figure(path, (4 * columns, 2.8 * lines), title) as figure:
        for place, key in enumerate(keys, start=1):
            axes = figure.add_subplot(lines, columns, place)
            validation = key.startswith("validation")
            steps, values = _points(history, "step", key)
            marker = "o" if validation else _marker(values)
            axes.plot(steps, values, color=LINE_COLOURS[1 if validation else 0], marker=marker, markersize=3.5)
            axes.set_title("validation NDCG@10" if validation else key.replace("_", " "))
            axes.set_xlabel("step")
            axes.set_xlim(first - margin, last + margin)  # equal in all panels: some losses begin late
            if validation:
                axes.set_ylim(0, max(1.1 * max(values), 1e-6))


def annealing(history: Rows, codebook_size: int, path: Path) -> None:
    """Draw the tokenizer's training: collisions by temperature, entropy per level and disagreement by epoch.

    Args:
        history: rows with "epoch", "temperature" and the figures of `identifier_curve`; other rows are ignored.
        codebook_size: K.
        path: the file to write.

    Raises:
        NothingToDraw: no row holds both temperature and collision_rate.
    """
    temperatures, rates = _points(history, "temperature", "collision_rate")
    _require(temperatures, path, "temperature and collision_rate")
    with _figure(path, (12, 3.6), "Annealing: the identifiers as the temperature falls") as figure:
        axes = figure.add_subplot(1, 3, 1)
        _collision_panel(axes, temperatures, rates)
        axes.invert_xaxis()  # time runs from left to right
        axes.set_xlabel("temperature")
        _entropy_panel(figure.add_subplot(1, 3, 2), history, codebook_size)
        _disagreement_panel(figure.add_subplot(1, 3, 3), history)


def identifiers_over_epochs(history: Rows, codebook_size: int, path: Path) -> None:
    """Draw the joint phase: churn and entropy per level, collisions and disagreement, by epoch.

    Args:
        history: rows with "epoch" and the figures of `identifier_curve`.
        codebook_size: K.
        path: the file to write.

    Raises:
        NothingToDraw: no row holds collision_rate.
    """
    epochs, rates = _points(history, "epoch", "collision_rate")
    _require(epochs, path, "epoch and collision_rate")
    with _figure(path, (9, 6.4), "Identifiers in joint training") as figure:
        churn = figure.add_subplot(2, 2, 1)
        kept, shares = _points(history, "epoch", "changed_at_most_one_level")
        churn.plot(kept, [1 - share for share in shares], color="#555555", linestyle="--", label="more than one level")
        _lines_per_level(churn, history, "churn_level_")
        churn.set_title("items whose code is not their first one")
        churn.yaxis.set_major_formatter(_percent)
        churn.set_ylim(bottom=0)
        _entropy_panel(figure.add_subplot(2, 2, 2), history, codebook_size)
        collisions = figure.add_subplot(2, 2, 3)
        _collision_panel(collisions, epochs, rates)
        _epochs(collisions)
        _disagreement_panel(figure.add_subplot(2, 2, 4), history)


def _lines_per_level(axes: Axes, history: Rows, prefix: str) -> None:
    """Draw a line per level over the epochs, from the rows' keys `prefix` + level."""
    keys = sorted({key for row in history for key in row if key.startswith(prefix)}, key=_level)
    for key, colour in zip(keys, _cycle(LINE_COLOURS, len(keys)), strict=True):
        axes.plot(*_points(history, "epoch", key), color=colour, label=f"level {_level(key)}")
    _epochs(axes)
    if keys:
        axes.legend()


def _epochs(axes: Axes) -> None:
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)


def _collision_panel(axes: Axes, places: Sequence[float], rates: Sequence[float]) -> None:
    axes.plot(places, rates, color=LINE_COLOURS[0], marker=_marker(rates), markersize=3.5)
    axes.set_ylim(0, max(0.05, 1.1 * max(rates)))
    axes.yaxis.set_major_formatter(_percent)
    axes.set_title("items that share all codes")


def _entropy_panel(axes: Axes, history: Rows, codebook_size: int) -> None:
    axes.axhline(math.log2(codebook_size), color="#555555", linestyle=":", linewidth=1.2)
    _lines_per_level(axes, history, "entropy_level_")
    axes.set_title("entropy of the codes, bits (dotted: even use)")


def _disagreement_panel(axes: Axes, history: Rows) -> None:
    epochs, shares = _points(history, "epoch", "soft_hard_disagreement")
    axes.plot(epochs, shares, color=LINE_COLOURS[0], marker=_marker(shares), markersize=3.5)
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW)  # shows zero
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_title("soft and hard codes differ")
    _epochs(axes)


def codebook_usage(rows: Rows, path: Path) -> None:
    """Draw the share of items per codeword, most used first, one line per level.

    Args:
        rows: {"level", "rank", "usage"}, usage a share of the items.
        path: the file to write.

    Raises:
        NothingToDraw: there are no rows.
    """
    _require(rows, path, "level, rank and usage")
    levels = sorted({row["level"] for row in rows})
    width = max(row["rank"] for row in rows)
    with _figure(path, (6, 3.6), "Codebook usage, most used codeword first") as figure:
        axes = figure.add_subplot()
        for level, colour in zip(levels, _cycle(LINE_COLOURS, len(levels)), strict=True):
            at_level = sorted((row for row in rows if row["level"] == level), key=_rank)
            used = [row for row in at_level if row["usage"] > 0]  # the line ends where the unused codewords begin
            label = f"level {level}: {len(used) / len(at_level):.0%} of codewords used"
            axes.plot(*_points(used, "rank", "usage"), color=colour, label=label)
        axes.axhline(1 / width, color="#555555", linestyle=":", linewidth=1.2, label="even use")
        axes.set_xlim(0, width + 1)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_percent)
        axes.set_xlabel("codeword, by rank")
        axes.set_ylabel("share of items (log scale)")
        axes.legend()


def metrics_by_slice(rows: Rows, path: Path, protocol: str = Protocol.UNMASKED) -> None:
    """Draw a bar of NDCG@10 per slice of the test users and model.

    Args:
        rows: {"slice", "users", "model", "protocol", "ndcg_at_10"}.
        path: the file to write.
        protocol: unmasked or masked; one picture shows one protocol.

    Raises:
        NothingToDraw: no row of that protocol holds the metric.
    """
    metric = f"ndcg_at_{GATED_CUTOFF}"
    wanted = [row for row in rows if row.get("protocol") == protocol and row.get(metric) is not None]
    _require(wanted, path, f"protocol '{protocol}' with {metric}")
    users = {row["slice"]: row["users"] for row in wanted}  # in the order of the rows
    models = [model for model in MODEL_COLOURS if any(row["model"] == model for row in wanted)]
    value = {(row["slice"], row["model"]): row[metric] for row in wanted}
    height = 0.8 / len(models)
    title = f"{METRIC_NAMES[metric]} by slice, {protocol}"
    with _figure(path, (8, 1.2 + len(users) * (0.25 + 0.16 * len(models))), title) as figure:
        axes = figure.add_subplot()
        for place, model in enumerate(models):
            at = [line - 0.4 + (place + 0.5) * height for line in range(len(users))]
            widths = [value.get((name, model), 0.0) for name in users]
            axes.barh(at, widths, height, color=MODEL_COLOURS[model], label=model)
        axes.set_yticks(range(len(users)), [f"{_literal(name)}\n{count:,} users" for name, count in users.items()])
        axes.set_ylim(len(users) - 0.4, -0.6)  # the first slice on top
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(METRIC_NAMES[metric])
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def quality_bars(metrics: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Draw student, teacher and baselines side by side: a panel per metric, a group of bars per protocol.

    Args:
        metrics: {model: {protocol: {"recall_at_10": ..., "ndcg_at_10": ...}}}, as in evaluate/metrics.json.
        path: the file to write.

    Raises:
        NothingToDraw: none of the known models is in the metrics.
    """
    models = [model for model in MODEL_COLOURS if model in metrics]
    _require(models, path, f"any of {', '.join(MODEL_COLOURS)}")
    protocols = [protocol for protocol in Protocol if protocol in metrics[models[0]]]  # a file sorts its keys
    with _figure(path, (10, 3.8), "Test users, ranking over the full catalogue") as figure:
        for panel, metric in enumerate(METRIC_NAMES, start=1):
            axes = figure.add_subplot(1, len(METRIC_NAMES), panel)
            _grouped_bars(axes, metrics, models, protocols, metric)
        figure.axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))


def intervals(against: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Draw by how much what is shipped ranks better than each model, with 95 % intervals: a panel per protocol.

    Args:
        against: {protocol: {model: {"difference", "low", "high"}}}, as in evaluate/shipped_against.json.
        path: the file to write.

    Raises:
        NothingToDraw: there is no difference.
    """
    protocols = [protocol for protocol in Protocol if against.get(protocol)]
    _require(protocols, path, "a difference")
    models = [model for model in MODEL_COLOURS if any(model in against[protocol] for protocol in protocols)]
    height = 1.2 + 0.3 * len(models)
    with _figure(path, (8, height), "NDCG@10 of what is shipped, less that of ... (95 % interval)") as figure:
        for panel, protocol in enumerate(protocols, start=1):
            axes = figure.add_subplot(1, len(protocols), panel)
            axes.axvline(0.0, color="#555555", linewidth=1.2)
            for place, model in enumerate(models):
                found = against[protocol].get(model)
                if found is not None:
                    _interval(axes, found, found["difference"], place, MODEL_COLOURS[model])
            axes.set_yticks(range(len(models)), models if panel == 1 else [""] * len(models))
            axes.set_ylim(len(models) - 0.5, -0.5)  # in the order of the tables
            axes.grid(axis="y", visible=False)
            axes.set_title(protocol)


def experiment(report: dict[str, Any], path: Path) -> None:
    """Draw an experiment online: the rates of both versions and their difference, with 95 % intervals, in two ways.

    Args:
        report: as `unigrec.promotion.online.report_of` makes it.
        path: the file to write.
    """
    labels = {name: f"{name}\nversion {_literal(report[name]['version'])}" for name in (CHAMPION, CHALLENGER)}
    with _figure(path, (9.5, 4.4), f"Experiment {_literal(report['experiment'])}: {report['finding']}") as figure:
        panels = figure.subplots(2, 2, sharex="col")
        for (rates, gain), (way, title) in zip(panels, WAYS.items(), strict=True):
            found = report[way]
            for place, name in enumerate(labels):
                _interval(rates, found[name], found[name]["rate"], place, LINE_COLOURS[place])
            rates.set_yticks(range(2), labels.values())
            rates.set_ylim(1.5, -0.5)
            rates.set_title(f"{title} (95 % interval)")
            rates.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
            gain.axvline(0.0, color="#555555", linewidth=1.2)
            _interval(gain, found, found["difference"], 0, LINE_COLOURS[1])
            gain.set_yticks([])
            gain.set_ylim(1.0, -1.0)
            gain.set_title(f"challenger less champion, in points: p {found['p']:.3g}")
            gain.xaxis.set_major_formatter(lambda value, _: f"{100 * value:+.3g}" if value else "0")
            for axes in (rates, gain):
                axes.grid(axis="y", visible=False)
                axes.tick_params(labelbottom=True)
                axes.margins(x=0.15)
        smallest = report["power"]["smallest"]
        panels[0][1].axvspan(-smallest, smallest, color="#eeeeee", zorder=0)
        note = "found in less than 80 %"
        panels[0][1].text(0.0, 0.85, note, ha="center", va="center", fontsize=8, color="#555555")


def _interval(axes: Axes, bounds: dict[str, float], middle: float, place: int, colour: str) -> None:
    axes.plot([bounds["low"], bounds["high"]], [place, place], color=colour, linewidth=2.5)
    axes.plot(middle, place, color=colour, marker="o", markersize=6)


def _grouped_bars(axes: Axes, metrics: dict, models: list[str], protocols: list[Protocol], metric: str) -> None:
    width = 0.8 / len(models)
    for place, model in enumerate(models):
        at = [group - 0.4 + (place + 0.5) * width for group in range(len(protocols))]
        bars = axes.bar(
            at, [metrics[model][name][metric] for name in protocols], width, color=MODEL_COLOURS[model], label=model
        )
        axes.bar_label(bars, fmt="%.3f", fontsize=7.5, padding=1.5)
    axes.set_xticks(range(len(protocols)), protocols)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.12)
    axes.set_title(METRIC_NAMES[metric])


class NothingToDraw(UnigrecError):
    """No row holds what a picture shows."""


@contextmanager
def _figure(path: Path, size: tuple[float, float], title: str) -> Iterator[Figure]:
    """A figure that is written to `path` when the block ends, without global state, display, or clock in the file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        yield figure
        kind = path.suffix.removeprefix(".")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=130, metadata=dict.fromkeys(METADATA[kind]))


def _literal(text: str) -> str:
    """A text from the data: a pair of dollar signs is no formula."""
    return text.replace("$", r"\$")


def _points(rows: Rows, x: str, y: str) -> tuple[list[float], list[float]]:
    pairs = [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _marker(values: Sequence) -> str | None:
    return "o" if len(values) < 30 else None  # more markers would merge into a thick line


def _require(found: Sequence, path: Path, what: str) -> None:
    if not found:
        raise NothingToDraw(f"{path}: nothing to draw: no row holds {what}")


def _loss_order(key: str) -> tuple[bool, str]:
    return key != "loss", key


def _rank(row: dict[str, Any]) -> int:
    return row["rank"]


def _level(key: str) -> int:
    return int(key.rsplit("_", 1)[-1])


def _cycle(colours: list[str], count: int) -> list[str]:
    return [colours[place % len(colours)] for place in range(count)]


def _percent(value: float, _position: float) -> str:
    return f"{100 * value:.3g} %"
