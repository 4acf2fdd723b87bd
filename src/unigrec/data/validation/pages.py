"""Data Docs: one page that shows what validation found, readable offline, without script."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from unigrec.base import files
from unigrec.data.validation.checks import CRITICAL, WARNING, percent

TEMPLATE = resources.files(__package__) / "page.html.jinja"


def write_page(folder: Path, result: dict[str, Any]) -> None:
    """Replace `folder` by one with `index.html`, which shows what result.json holds. Raises UnigrecError."""
    with files.atomic_folder(folder) as temporary:
        (temporary / "index.html").write_text(render(result), encoding="utf-8")


def render(result: dict[str, Any]) -> str:
    """HTML of a result. Every value of the data is escaped: an id that is HTML is shown as its text."""
    from jinja2 import Environment, StrictUndefined

    shown = [_shown(finding) for finding in result["expectations"]]
    groups = {success: [each for each in shown if each["success"] is success] for success in (False, True, None)}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        data=result["data"],
        passed=result["passed"],
        rows=result["rows"],
        counts={severity: _counts(groups, severity) for severity in (CRITICAL, WARNING)},
        failed=sorted(groups[False], key=lambda finding: finding["severity"] != CRITICAL),
        met=groups[True],
        unchecked=groups[None],
    )


def _counts(groups: dict[bool | None, list[dict[str, Any]]], severity: str) -> dict[str, int]:
    """How many expectations of a severity failed, passed and were not checked."""
    names = {False: "failed", True: "passed", None: "unchecked"}
    return {
        name: sum(finding["severity"] == severity for finding in groups[success]) for success, name in names.items()
    }


def _shown(finding: dict[str, Any]) -> dict[str, Any]:
    """A finding with the words that the page has for its result, its figures and its examples."""
    words = {True: "passed", None: "not checked", False: "failed" if finding["severity"] == CRITICAL else WARNING}
    found = finding["reason"] or ""
    if not found and finding["unexpected_count"] is not None:
        found = f"{finding['observed']} ({percent(finding['unexpected_share'])})"
    elif not found:
        found = _text(finding["observed"])
    examples = [_text(example) for example in finding["examples"]]
    return finding | {"result": words[finding["success"]], "found": found, "examples": examples}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
