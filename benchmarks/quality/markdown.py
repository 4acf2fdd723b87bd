"""The figures of table.json as Markdown."""

from __future__ import annotations

from typing import Any

from unigrec.base.markdown import markdown_table
from unigrec.core.evaluation.protocol import SELECTED, Protocol

METRICS = {"recall_at_5": "Recall@5", "recall_at_10": "Recall@10", "ndcg_at_5": "NDCG@5", "ndcg_at_10": "NDCG@10"}
NOTHING = "-"


def markdown(figures: dict[str, Any]) -> str:
    """All tables, those of quality and slices by protocol, and notes; or one line if nothing is finished yet."""
    parts = []
    for protocol, rows in figures["protocols"].items():
        if rows:
            parts += [f"## {protocol}", _quality(rows, with_published=protocol == Protocol.UNMASKED)]
        if over := figures["parts"].get(protocol):
            parts += [f"## Over its parts, {protocol}", _over_parts(over)]
    if figures["identifiers"]:
        parts += ["## Identifiers", _identifiers(figures["identifiers"])]
    for protocol, rows in figures["slices"].items():
        if rows:
            parts += [f"## NDCG@10 by slice, {protocol}", _slices(rows)]
    if figures["notes"]:
        parts.append("\n".join(f"- {note}" for note in figures["notes"]))
    return "\n\n".join(parts) or "no rung is finished yet"


def _quality(rows: list[dict[str, Any]], with_published: bool) -> str:
    head = ["", "", *METRICS.values(), "seeds", "NDCG@10 over", "by seeds", "by users", "training s"]
    if with_published:
        head.append(f"published (Beauty, paper-size): {' / '.join(METRICS.values())}")
    lines = []
    for row in rows:
        difference = row.get("difference")
        cells = [row["model"], row["description"], *(_measured(row[metric]) for metric in METRICS)]
        cells.append(str(len(row["seeds"])))
        if difference:
            cells += [f"{row['against']} ({len(difference['seeds'])})", *_differences(difference)]
        else:
            cells += [NOTHING] * 3
        cells.append(NOTHING if row["training_seconds"] is None else f"{row['training_seconds']:.1f}")
        if with_published:
            published = row["published"]
            cells.append(" / ".join(f"{published[m]:.4f}" for m in METRICS) if published else NOTHING)
        lines.append(cells)
    return markdown_table(head, lines)


def _over_parts(rows: list[dict[str, Any]]) -> str:
    head = ["", "over", *(f"{METRICS[m]} by {of}" for m in ("recall_at_10", "ndcg_at_10") for of in ("seeds", "users"))]
    lines = []
    for row in rows:
        cells = [row["model"], row["against"]]
        for metric in ("recall_at_10", "ndcg_at_10"):
            cells += _differences(row[metric]) if row[metric] else [NOTHING] * 2
        lines.append(cells)
    return markdown_table(head, lines)


def _differences(difference: dict[str, Any]) -> list[str]:
    """A difference with its interval over seeds, and with that over users."""
    users = difference["over_users"]
    by_users = f"{users['difference']:+.4f} [{users['low']:+.4f}, {users['high']:+.4f}]"
    return [_measured(difference["over_seeds"], "+"), by_users]


def _identifiers(rows: list[dict[str, Any]]) -> str:
    head = ["", "seeds", "collision rate", "entropy, bits by level", "soft and hard differ", "churn by level"]
    head += ["joint: best validation NDCG@10 (epoch)", "finetune: best (epoch)"]
    lines = []
    for row in rows:
        cells = [row["model"], str(len(row["seeds"])), f"{row['collision_rate']:.4f}"]
        cells += [" / ".join(f"{bits:.2f}" for bits in row["entropy_bits"]), f"{row['soft_hard_disagreement']:.4f}"]
        cells.append(" / ".join(f"{share:.4f}" for share in row["churn"]))
        for phase in ("joint", "finetune"):
            best = row["best"].get(phase)
            epochs = ", ".join(map(str, best["epochs"])) if best else ""
            cells.append(f"{best[SELECTED]:.4f} ({epochs})" if best else NOTHING)
        lines.append(cells)
    return markdown_table(head, lines)


def _slices(rows: list[dict[str, Any]]) -> str:
    models = list(dict.fromkeys(model for row in rows for model in row["ndcg_at_10"]))
    lines = []
    for row in rows:
        values = (row["ndcg_at_10"].get(model) for model in models)
        cells = [NOTHING if value is None else f"{value:.4f}" for value in values]
        lines.append([row["slice"], str(row["users"]), *cells])
    return markdown_table(["", "users", *models], lines)


def _measured(value: dict[str, Any], sign: str = "") -> str:
    """A mean, with its half-width if that is not zero (it is zero for a value that no seed changes)."""
    mean = format(value["mean"], f"{sign}.4f")
    return f"{mean} ± {value['half_width']:.4f}" if value["half_width"] else mean
