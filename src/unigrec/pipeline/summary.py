"""The closing report of a run: sizes, metrics next to the baselines, gates, the registered version, next commands.

The terminal shows one screen of it; the flow's artifact has every model, gate and duration.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unigrec.base import files, paths
from unigrec.base.markdown import markdown_table
from unigrec.base.masking import masked
from unigrec.base.paths import Artifacts
from unigrec.core.decisions.gates import gate_rows, is_refusing
from unigrec.core.evaluation.protocol import MODELS, SHIPPED, Protocol
from unigrec.core.retrieval.rank_by import MODEL_OF, RankBy
from unigrec.pipeline.outputs import data_warnings, load_fusion, load_item_ids
from unigrec.pipeline.progress import duration

DEFAULT_STORE = "sqlite:///mlflow.db"  # `mlflow ui` opens it by default
ON_SCREEN = ("popularity", "neighbours", "teacher", "student", SHIPPED)
EXAMPLE_ITEMS = 3  # of a real user's history, for the printed command


class Summary(NamedTuple):
    """The results of a run. `seconds` is None for a stage that was up to date."""

    sizes: dict[str, dict[str, int]]  # before and after filtering: users, items, interactions
    metrics: dict[str, Any]
    ranks_by: str  # what ranks the items of a request
    decision: dict[str, Any]
    model: str  # name and version in the registry
    aliases: list[str]
    verdict: str  # the decision of promotion
    seconds: dict[str, float | None]
    example: list[str]  # the last items of a real user
    tracking_uri: str
    warnings: list[str]  # about the data
    report: str | None  # where the report of the version is, as Markdown

    @property
    def shipped_as(self) -> str:
        """The model of the table that answers requests."""
        return MODEL_OF[RankBy(self.ranks_by)]


def summarise(
    model: str,
    aliases: list[str],
    verdict: str,
    seconds: dict[str, float | None],
    tracking_uri: str,
    report: str | None = None,
) -> Summary:
    """Read the figures from the artifacts of the run. Raises UnigrecError if a stage has not run."""
    artifacts = Artifacts()
    stats = files.read_json(artifacts.prepare_stats)
    return Summary(
        sizes={when: stats[when] for when in ("before", "after")},
        metrics=files.read_json(artifacts.evaluate / paths.METRICS_FILE),
        ranks_by=load_fusion(artifacts).by,
        decision=files.read_json(artifacts.decision),
        model=model,
        aliases=aliases,
        verdict=verdict,
        seconds=seconds,
        example=_example_history(),
        tracking_uri=masked(tracking_uri),
        warnings=data_warnings(artifacts),
        report=report,
    )


def print_summary(summary: Summary) -> None:
    """Print one screen of the report on the terminal: of the gates, only those that refuse."""
    console = Console(highlight=False, soft_wrap=not Console().is_terminal)
    console.print()
    _print_table(console, *_data(summary))
    _print_table(console, *_quality(summary, ON_SCREEN))
    if summary.warnings:
        _print_line(console, "Warnings", f"{len(summary.warnings)} about the data; they are in the report")
    _print_line(console, "Gates", _gates(summary.decision["gates"]))
    for gate in filter(is_refusing, summary.decision["gates"]):
        _print_line(console, "", f"{gate['name']}: {gate['reason']}")
    _print_line(console, "Registered", f"{summary.model}, {_aliases(summary)}: {summary.verdict}")
    _print_line(console, "Time", f"{_time(summary.seconds)}\n")
    console.print("[bold]Where to look next[/bold]  (the programs are in .venv/bin)")
    for what, command in next_steps(summary):
        console.print(f"  {what:<16}", end="")
        console.print(command, markup=False, soft_wrap=True)


def _print_table(console: Console, title: str, header: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _print_line(console: Console, label: str, text: str) -> None:
    console.print(Text.assemble((f"{label:<12}", "bold"), text))


def _time(seconds: dict[str, float | None]) -> str:
    """`12:40; cached: ingest, validate`."""
    cached = [name for name, took in seconds.items() if took is None]
    whole = duration(sum(took for took in seconds.values() if took is not None))
    return whole + (f"; cached: {', '.join(cached)}" if cached else "")


def _gates(gates: list[dict[str, Any]]) -> str:
    """`9 passed`; `1 of 9 refused`; `9 passed; 1 of 4 targets missed`."""
    targets = [gate for gate in gates if gate.get("informational", False)]
    refused, missed = sum(map(is_refusing, gates)), sum(not target["passed"] for target in targets)
    asked = len(gates) - len(targets)
    line = f"{refused} of {asked} refused" if refused else f"{asked} passed"
    return line + (f"; {missed} of {len(targets)} targets missed" if missed else "")


def markdown(summary: Summary) -> str:
    """The report as Markdown, for the flow's artifact."""
    parts = []
    for title, header, rows in _sections(summary):
        parts.append(f"## {title}\n\n{markdown_table(header, rows)}")
    if summary.warnings:
        parts.append("## Warnings about the data\n\n" + "\n".join(f"- {warning}" for warning in summary.warnings))
    parts.append(f"## Registered\n\n{summary.model}, {_aliases(summary)}: {summary.verdict}")
    if summary.report is not None:
        parts.append(f"## Report\n\n{summary.report}")
    return "\n\n".join(parts) + "\n"


def next_steps(summary: Summary) -> list[tuple[str, str]]:
    """(what to look at, its command or path) for each next step."""
    history = shlex.quote(json.dumps(summary.example, ensure_ascii=False))
    version = summary.model.rsplit(" ", 1)[-1]
    model = "champion" if "champion" in summary.aliases else version
    option = "" if model == "champion" else f" --model {model}"
    published = paths.REPORTS / version / paths.REPORT_PAGE
    return [
        ("report", str(Artifacts().report / paths.REPORT_PAGE if summary.report is None else published)),
        ("experiments", _experiments(summary.tracking_uri)),
        ("data checks", f"{Artifacts().data_docs}/index.html"),
        ("metrics", "dvc metrics show"),
        ("plots", "dvc plots show"),
        ("recommendations", f"unigrec recommend --history {history} -k 10{option}"),
        ("serve it", f"unigrec serve{option}"),
    ]


def _experiments(uri: str) -> str:
    if uri.startswith("http"):
        return uri
    return "mlflow ui" if uri == DEFAULT_STORE else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def _sections(summary: Summary) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of every table."""
    return [
        _data(summary),
        _quality(summary, MODELS),
        ("Gates", ["gate", "", "reason"], gate_rows(summary.decision)),
        (
            "Time",
            ["stage", "seconds"],
            [[stage, "cached" if s is None else f"{s:.1f}"] for stage, s in summary.seconds.items()],
        ),
    ]


def _data(summary: Summary) -> tuple[str, list[str], list[list[str]]]:
    names = ("users", "items", "interactions")
    rows = [
        [label, *(f"{summary.sizes[when][name]:,}" for name in names)]
        for label, when in (("as read", "before"), ("after filtering", "after"))
    ]
    return "Data", ["", *names], rows


def _quality(summary: Summary, models: Collection[str]) -> tuple[str, list[str], list[list[str]]]:
    """A row per model. What answers requests is a row of its own, or else has a star."""
    title = "Ranking of the whole catalogue (unmasked: seen items may be recommended again"
    star = "" if SHIPPED in models else "; *: what answers requests"
    labels = MODELS | {SHIPPED: f"shipped: {summary.shipped_as}"}
    rows = [
        [
            labels[model] + (" *" if star and model == summary.shipped_as else ""),
            *(
                f"{summary.metrics[model][protocol][name]:.4f}"
                for protocol in Protocol
                for name in ("recall_at_10", "ndcg_at_10")
            ),
        ]
        for model in models
    ]
    header = ["", *(f"{protocol} {name}" for protocol in Protocol for name in ("R@10", "NDCG@10"))]
    return f"{title}{star})", header, rows


def _aliases(summary: Summary) -> str:
    return "alias " + ", ".join(summary.aliases) if summary.aliases else "without alias"


def _example_history() -> list[str]:
    """The last items of the first user."""
    artifacts = Artifacts()
    arrays = files.read_arrays(artifacts.sequences)
    items = arrays["items"][: arrays["offsets"][1]][-EXAMPLE_ITEMS:]
    ids = load_item_ids(artifacts)
    return [ids[item] for item in items]
