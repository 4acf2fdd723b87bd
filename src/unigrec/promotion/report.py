"""A judgement as JSON, as Markdown (for a pull request's comment and the flow's artifact), and on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from unigrec.base import files, paths
from unigrec.base.markdown import markdown_table
from unigrec.core.decisions.comparison import CHALLENGER, CHAMPION, OVER_CHAMPION, SLICE
from unigrec.core.decisions.gates import Outcome, gate_rows, gate_verdict
from unigrec.core.evaluation.protocol import SHIPPED

if TYPE_CHECKING:
    from unigrec.base.errors import UnigrecError
    from unigrec.core.decisions.gates import Gate
    from unigrec.promotion.judge import Judgement

OUTCOMES = {
    Outcome.PROMOTE: "PASSED: it may become champion",
    Outcome.KEEP: "NOT PROMOTED: nothing is wrong with it, but it did not prove better than the champion",
    Outcome.REFUSE: "REFUSED",
}
MODELS = {SHIPPED: CHALLENGER, CHAMPION: CHAMPION, "cooccurrence": "co-occurrence", "popularity": "popularity"}


def write(folder: Path, judgement: Judgement, report: str | None = None) -> None:
    """Write comparison.json and comparison.md; each replaces the file of an earlier comparison. report: as below."""
    files.write_json(folder / paths.COMPARISON_FILE, judgement.as_dict())
    files.write_text(folder / paths.COMPARISON_PAGE, markdown(judgement, report))


def write_undecided(folder: Path, challenger: str, champion: str, error: UnigrecError) -> None:
    """Write the same files if no decision was possible."""
    reason = " ".join(str(error).split())
    found = {"outcome": "undecided", "passed": False, "challenger": challenger, "champion": champion, "reason": reason}
    files.write_json(folder / paths.COMPARISON_FILE, found)
    files.write_text(folder / paths.COMPARISON_PAGE, f"## Gate: could not decide on {challenger}\n\n{reason}\n")


def print_judgement(judgement: Judgement) -> None:
    """Print the gates as a table, and the outcome."""
    print_decision(judgement.decision.as_dict())
    print(f"{_title(judgement)}\n{judgement.reason}")


def markdown(judgement: Judgement, report: str | None = None) -> str:
    """Outcome and reason, the setting, a table of the models, a table of the gates.

    report: where the challenger's own report is, if that is known.
    """
    parts = [f"## Gate: {_title(judgement)}", judgement.reason, _setting(judgement)]
    metrics = judgement.facts.get("metrics")
    if metrics:
        rows = [
            [label, f"{metrics[model]['recall_at_10']:.4f}", f"{metrics[model]['ndcg_at_10']:.4f}"]
            for model, label in MODELS.items()
            if model in metrics
        ]
        parts.append(markdown_table(["model", "Recall@10", "NDCG@10"], rows))
    parts.append(markdown_table(["gate", "", "reason"], [_row(gate) for gate in _ordered(judgement.decision.gates)]))
    if report is not None:
        parts.append(f"Report of {judgement.challenger}: {report}")
    return "\n\n".join(parts) + "\n"


def _title(judgement: Judgement) -> str:
    against = f"against {judgement.champion}" if judgement.champion else "as the first model"
    return f"{judgement.challenger} {against}: {OUTCOMES[judgement.outcome]}"


def _setting(judgement: Judgement) -> str:
    facts = judgement.facts
    used, existing = facts["users"], facts["users_there_are"]
    sample = f"{used:,} of {existing:,} (a sample)" if used < existing else f"all {used:,}"
    lines = [f"Measured on {sample} test users of the prepared data (until {facts['data_until']}), "]
    lines.append(
        f"{facts['protocol']}; seed {facts['seed']}, {facts['resamples']:,} resamples, mode `{facts['mode']}`."
    )
    if facts.get("challenger_of_this_data") is False:
        lines.append(" The challenger was trained on other data than this.")
    if facts.get("churn_per_level"):
        levels = " / ".join(f"{share:.1%}" for share in facts["churn_per_level"])
        lines.append(f" Codes that changed, per level: {levels}.")
    return "".join(lines)


def _ordered(gates: list[Gate]) -> list[Gate]:
    """Gates that refuse, then the margin over the champion, then the others in their order, slices last."""
    return sorted(gates, key=lambda gate: (not gate.refuses, gate.name != OVER_CHAMPION, SLICE in gate.name))


def _row(gate: Gate) -> list[str]:
    return [gate.name, gate_verdict(gate._asdict()), gate.reason]


def print_decision(decision: dict[str, Any]) -> None:
    """Print the gates as a table."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("gate", "", "reason"):
        table.add_column(name, overflow="fold")
    for row in gate_rows(decision):
        table.add_row(*row)
    Console(highlight=False).print(table)
