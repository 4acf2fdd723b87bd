"""Saves the results: one JSON file per part, one Markdown page, and a description of the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.speed.harness import ROOT, Table
from unigrec.base import files
from unigrec.base.git import git


def machine() -> dict[str, Any]:
    """The kind of machine, its load, and the versions of Python, torch and the project."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": version("torch"),
        "commit": _commit(),
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    return git(ROOT, "describe", "--always", "--dirty").stdout.decode().strip() or "no git"


def save_part(out: Path, part: str, tables: Sequence[Table], seconds: float, command: str) -> None:
    """Save the figures of a part with the machine and the command."""
    figures = {
        "part": part,
        "command": command,
        "seconds": round(seconds, 1),
        "machine": machine(),
        "tables": [table.to_dict() for table in tables],
    }
    files.write_json(out / f"{part}.json", figures)


def page(out: Path, parts: Sequence[str]) -> str:
    """Write the parts that a folder holds as `speed.md` there; returns the Markdown."""
    pieces = []
    for part in parts:
        if (out / f"{part}.json").exists():
            pieces.append(_part(files.read_json(out / f"{part}.json")))
    text = "\n\n".join(pieces) + "\n"
    with files.atomic_path(out / "speed.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _part(figures: dict[str, Any]) -> str:
    where = figures["machine"]
    lines = [
        f"## {figures['part']}",
        f"`{figures['command']}`, {figures['seconds']:.0f} s; commit {where['commit']}; {where['processor']}, "
        f"{where['cores']} cores, {where['memory_gib']} GiB, load {where['load_average']}; Python {where['python']}, "
        f"torch {where['torch']}",
    ]
    for table in figures["tables"]:
        lines += [f"### {table['title']}", markdown(table), *(f"- {note}" for note in table["notes"])]
    return "\n\n".join(lines)


def markdown(table: dict[str, Any]) -> str:
    """A Markdown table from the result of `Table.to_dict`."""
    columns = table["columns"]
    rows = [[_cell(row.get(column, "")) for column in columns] for row in table["rows"]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [columns, ["---"] * len(columns), *rows])


def _cell(value: Any) -> str:
    """A number with three significant digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
