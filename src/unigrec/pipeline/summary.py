"""The closing report of a run: sizes, metrics next to the baselines, gates, the registered version, next commands."""

from __future__ import annotations

import json
import shlex
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from unigrec.base import files, paths
from unigrec.base.markdown import markdown_table
from unigrec.base.masking import masked
from unigrec.base.paths import Artifacts
from unigrec.core.decisions.gates import gate_rows
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.retrieval.rank_by import MODEL_OF, RankBy
from unigrec.pipeline.outputs import load_fusion, load_item_ids

MODELS = {
    "popularity": "popularity",
    "cooccurrence": "co-occurrence",
    "last_item": "last item",
    "neighbours": "neighbours",
    "teacher": "teacher",
    "student": "student",
    "fused": "fused",
}
DEFAULT_STORE = "sqlite:///mlflow.db"  # `mlflow ui` opens it by default
SHOWN_WARNINGS = 3
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
    warnings: list[str]  # of the data: signs that it was misread


def summarise(
    model: str, aliases: list[str], verdict: str, seconds: dict[str, float | None], tracking_uri: str
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
        warnings=[*files.read_json(artifacts.source).get("warnings", []), *stats.get("warnings", [])],
    )


def print_summary(summary: Summary) -> None:
    """Print the report on the terminal."""
    console = Console(highlight=False, soft_wrap=not Console().is_terminal)
    console.print()
    for title, header, rows in _sections(summary):
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, name in enumerate(header):
            table.add_column(name, justify="right" if _is_number(rows, index) else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in _warnings(summary):
        console.print(line, markup=False)
    console.print(f"[bold]Registered[/bold]  {summary.model}, {_aliases(summary)}: {summary.verdict}\n")
    console.print("[bold]Where to look next[/bold]  (the programs are in .venv/bin)")
    for what, command in next_steps(summary):
        console.print(f"  {what:<16}", end="")
        console.print(command, markup=False, soft_wrap=True)


def markdown(summary: Summary) -> str:
    """The report as Markdown, for the flow's artifact."""
    parts = []
    for title, header, rows in _sections(summary):
        parts.append(f"## {title}\n\n{markdown_table(header, rows)}")
    if summary.warnings:
        parts.append("## Warnings about the data\n\n" + "\n".join(f"- {line}" for line in summary.warnings))
    parts.append(f"## Registered\n\n{summary.model}, {_aliases(summary)}: {summary.verdict}")
    return "\n\n".join(parts) + "\n"


def _warnings(summary: Summary) -> list[str]:
    """The number of warnings and the first few, or nothing."""
    count = len(summary.warnings)
    if not count:
        return []
    rest = [f"  and {count - SHOWN_WARNINGS} more: {Artifacts().prepare_stats}"] * (count > SHOWN_WARNINGS)
    return [
        f"Warnings about the data: {count}",
        *(f"  {line}" for line in summary.warnings[:SHOWN_WARNINGS]),
        *rest,
        "",
    ]


def next_steps(summary: Summary) -> list[tuple[str, str]]:
    """(what to look at, its command or path) for each next step."""
    history = shlex.quote(json.dumps(summary.example, ensure_ascii=False))
    model = "champion" if "champion" in summary.aliases else summary.model.rsplit(" ", 1)[-1]
    option = "" if model == "champion" else f" --model {model}"
    return [
        ("experiments", _experiments(summary.tracking_uri)),
        ("data checks", f"{Artifacts().data_docs}/index.html"),
        ("metrics", "dvc metrics show"),
        ("plots", "dvc plots show"),
        ("recommendations", f"unigrec recommend --history {history} -k 10{option}"),
    ]


def _experiments(uri: str) -> str:
    if uri.startswith("http"):
        return uri
    return "mlflow ui" if uri == DEFAULT_STORE else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def _sections(summary: Summary) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of every table."""
    return [
        (
            "Data",
            ["", "users", "items", "interactions"],
            [
                [label, *(f"{summary.sizes[when][name]:,}" for name in ("users", "items", "interactions"))]
                for label, when in (("as read", "before"), ("after filtering", "after"))
            ],
        ),
        (
            "Recall@10 and NDCG@10 over the whole catalogue (unmasked: seen items may be recommended again; "
            "*: what answers requests)",
            ["", *(f"{protocol} {name}" for protocol in Protocol for name in ("R@10", "NDCG@10"))],
            [
                [
                    label + (" *" if MODEL_OF[RankBy(summary.ranks_by)] == model else ""),
                    *(
                        f"{summary.metrics[model][protocol][name]:.4f}"
                        for protocol in Protocol
                        for name in ("recall_at_10", "ndcg_at_10")
                    ),
                ]
                for model, label in MODELS.items()
            ],
        ),
        ("Gates", ["gate", "", "reason"], gate_rows(summary.decision)),
        (
            "Time",
            ["stage", "seconds"],
            [[stage, "cached" if s is None else f"{s:.1f}"] for stage, s in summary.seconds.items()],
        ),
    ]


def _is_number(rows: list[list[str]], column: int) -> bool:
    return column > 0 and all(row[column][:1].isdigit() or row[column] == "cached" for row in rows)


def _aliases(summary: Summary) -> str:
    return "alias " + ", ".join(summary.aliases) if summary.aliases else "without alias"


def _example_history() -> list[str]:
    """The last items of the first user."""
    artifacts = Artifacts()
    arrays = files.read_arrays(artifacts.sequences)
    items = arrays["items"][: arrays["offsets"][1]][-EXAMPLE_ITEMS:]
    ids = load_item_ids(artifacts)
    return [ids[item] for item in items]
