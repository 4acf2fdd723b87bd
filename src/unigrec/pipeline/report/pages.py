"""The pages of a run's report, from its facts: `report.html` for people, and a model card for the registry.

The stage `report` knows the run. Registration and promotion know more (`Registered`), and write both pages again.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, NamedTuple

from unigrec.base import files, pages, paths
from unigrec.base.markdown import markdown_table
from unigrec.core.decisions.gates import gate_verdict, is_refusing
from unigrec.core.evaluation.protocol import MODELS, SHIPPED, Protocol
from unigrec.data.validation.pages import TEMPLATES as EXPECTATIONS

TEMPLATES = Path(__file__).parent
OF_SLICES = (SHIPPED, "teacher", "neighbours", "popularity")
CARD_LENGTH = 4900  # characters; the registry's column for a description has 5000
HEALTH = {
    "collision_rate": "items that share all codes with another",
    "codebook_utilisation": "codewords in use, per level",
    "entropy_share": "entropy of the codes as a share of log2 K, per level",
    "gini_of_prefixes": "Gini of the items per prefix, per level",
    "largest_collision": "items in the largest group with equal codes",
    "hit_rate_item_embedding": "co-occurring items found by item embeddings",
    "hit_rate_quantized": "co-occurring items found by identifiers",
    "soft_hard_disagreement": "items whose soft and hard codes differ",
}
COUNTS = {"largest_collision"}  # the other figures are shares


class Registered(NamedTuple):
    """What registration and promotion know of a run, and its own stages do not."""

    model: str
    version: str
    aliases: list[str]
    bundle: str
    commit: str
    verdict: str | None  # the last decision of promotion
    comparison: dict[str, Any] | None  # comparison.json against the champion

    @property
    def name(self) -> str:
        """`unigrec version 3`."""
        return f"{self.model} version {self.version}"


def write(folder: Path, facts: dict[str, Any], registered: Registered | None = None) -> None:
    """Write both pages. Raises UnigrecError when the disk cannot be written."""
    files.write_text(folder / paths.MODEL_CARD, card(facts, registered))
    files.write_text(folder / paths.REPORT_PAGE, page(facts, registered))


def page(facts: dict[str, Any], registered: Registered | None = None) -> str:
    """HTML of the report. Every text of the shop is escaped, and a picture is an image, in which no script runs."""
    pictures = {name: _data_address(svg) for name, svg in facts["pictures"].items()}
    return pages.render(
        "report.html.jinja",
        [TEMPLATES, EXPECTATIONS],
        facts=facts,
        registered=registered,
        pictures=pictures,
        quality=_quality_rows(facts),
        champion=_champion_rows(registered),
        slices={protocol: _slice_rows(facts["slices"], protocol) for protocol in Protocol},
        of_slices=[_label(model, facts["shipped_as"]) for model in OF_SLICES],
        health=_health_rows(facts["identifiers"]),
        churn=_churn(facts["identifiers"]),
        gates=_gate_rows(facts["decision"]),
        compared=_gate_rows(registered.comparison) if registered and registered.comparison else [],
        protocols=list(Protocol),
    )


def card(facts: dict[str, Any], registered: Registered | None = None) -> str:
    """The model card as Markdown: what the model is, how good, on which data, and what it is not made for."""
    data, sizes = facts["data"], facts["data"]["sizes"]["after"]
    name = registered.name if registered else "A model that is not registered"
    decision = "passed" if facts["decision"]["passed"] else "refused"
    rows = [
        [row["label"], *(f"{cell['value']} {cell['interval']}".strip() for cell in row["cells"])]
        for row in _quality_rows(facts)
        if row["model"] in ("popularity", "own_items", "neighbours", "teacher", "student", SHIPPED)
    ]
    header = ["", *(f"{protocol} {metric}" for protocol in Protocol for metric in ("Recall@10", "NDCG@10"))]
    refusing = [f"- {gate['name']}: {gate['reason']}" for gate in facts["decision"]["gates"] if is_refusing(gate)]
    parts = [
        f"# {name}",
        "Recommends the next items from the items that a user had, by semantic identifiers and, where that ranked "
        f"better on validation users, together with its teacher, neighbours and the user's own items. Requests are "
        f"answered by: "
        f"{facts['shipped_as']}.",
        f"**Data**: {data['name']}, {data['from']} to {data['until']}: {sizes['users']:,} users, {sizes['items']:,} "
        f"items, {sizes['interactions']:,} interactions. Data version `{data['version'][:16]}`.",
        f"**Quality** on the users' last items, over the whole catalogue (95 % intervals over users)\n\n"
        f"{markdown_table(header, rows)}",
        f"**Gates of its run**: {decision}" + "".join(f"\n{line}" for line in refusing),
    ]
    if registered:
        parts.append(f"**Promotion**: {registered.verdict or 'not judged yet'}")
        parts.append(f"**Made by** commit `{registered.commit[:16]}`, bundle `{registered.bundle}`.")
    if facts["warnings"]:
        parts.append("**Warnings about the data**\n\n" + "\n".join(f"- {_plain(line)}" for line in facts["warnings"]))
    parts.append(
        "**Limits**: it knows the items and the tastes of its data only. Items that came later have no identifier. The "
        "figures are of held-out past interactions, not of what users do when they see the recommendations."
    )
    text = "\n\n".join(parts) + "\n"
    return text if len(text) <= CARD_LENGTH else text[: CARD_LENGTH - 2] + "…\n"


def _plain(line: str) -> str:
    """A sentence with no character that Markdown could take for HTML, a link or a picture."""
    return "".join(f"\\{character}" if character in "<>[]()`*_!" else character for character in " ".join(line.split()))


def _data_address(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _label(model: str, shipped_as: str) -> str:
    return f"shipped: {MODELS.get(shipped_as, shipped_as)}" if model == SHIPPED else MODELS.get(model, model)


def _quality_rows(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per model: its label and, for each protocol and metric, the value and its interval."""
    rows = []
    for model in (*MODELS, SHIPPED):
        if model not in facts["metrics"] or (model == facts["shipped_as"] and SHIPPED in facts["metrics"]):
            continue  # what is shipped has a row of its own
        cells = []
        for protocol in Protocol:
            for metric in ("recall_at_10", "ndcg_at_10"):
                bounds = facts["intervals"].get(model, {}).get(protocol, {}).get(metric)
                interval = "" if bounds is None else f"[{bounds[0]:.4f}, {bounds[1]:.4f}]"
                cells.append({"value": f"{facts['metrics'][model][protocol][metric]:.4f}", "interval": interval})
        rows.append({"model": model, "label": _label(model, facts["shipped_as"]), "cells": cells})
    return rows


def _champion_rows(registered: Registered | None) -> list[list[str]]:
    """Name, Recall@10 and NDCG@10 of challenger and champion on the same users."""
    metrics = (registered.comparison or {}).get("metrics", {}) if registered else {}
    labels = {SHIPPED: "this model", "champion": "champion at that time", "popularity": "popularity"}
    return [
        [label, f"{metrics[model]['recall_at_10']:.4f}", f"{metrics[model]['ndcg_at_10']:.4f}"]
        for model, label in labels.items()
        if model in metrics and "champion" in metrics
    ]


def _slice_rows(slices: list[dict[str, Any]], protocol: str) -> list[list[str]]:
    """Name, users, and NDCG@10 of each model of `OF_SLICES`."""
    of_slice: dict[str, dict[str, dict[str, Any]]] = {}
    for row in slices:
        if row["protocol"] == protocol:
            of_slice.setdefault(row["slice"], {})[row["model"]] = row
    return [
        [
            name,
            f"{next(iter(found.values()))['users']:,}",
            *(f"{found[model]['ndcg_at_10']:.4f}" if model in found else "" for model in OF_SLICES),
        ]
        for name, found in of_slice.items()
    ]


def _health_rows(identifiers: dict[str, Any]) -> list[list[str]]:
    """Figure, its value before and after the joint phase."""
    before, after = identifiers["before"], identifiers["after"]
    return [
        [label, *(_figure(values.get(name), name in COUNTS) for values in (before, after))]
        for name, label in HEALTH.items()
        if name in before or name in after
    ]


def _figure(value: Any, count: bool) -> str:
    if isinstance(value, list):
        return " / ".join(_figure(each, count) for each in value)
    return "" if value is None else f"{value:,}" if count else f"{value:.1%}"


def _churn(identifiers: dict[str, Any]) -> list[str]:
    """Sentences about the identifiers that changed."""
    churn, after = identifiers["churn"], identifiers["after"]
    levels = [
        f"{churn[name]:.1%}" for name in sorted(churn) if name.startswith("churn_level_") and churn[name] is not None
    ]
    lines = [f"In joint training, the codes of {' / '.join(levels)} of the items changed, per level."] if levels else []
    if after.get("start_items"):
        changed = after["start_changed"]
        lines.append(
            f"Of {after['start_items']:,} items of the bundle that this training continued from, "
            f"{'none' if changed is None else f'{changed:.1%}'} have another identifier."
        )
    return lines


def _gate_rows(decision: dict[str, Any]) -> list[dict[str, str]]:
    """Name, verdict, reason and the look of each gate; those that refuse come first."""
    gates = sorted(decision.get("gates", []), key=lambda gate: not is_refusing(gate))
    return [
        {
            "name": gate["name"],
            "verdict": gate_verdict(gate),
            "reason": gate["reason"],
            "look": "failed" if is_refusing(gate) else "passed" if gate["passed"] else "warning",
        }
        for gate in gates
    ]
