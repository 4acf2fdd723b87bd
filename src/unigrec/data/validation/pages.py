"""Data Docs: one page that shows what validation found, readable offline, without script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unigrec.base import files, pages
from unigrec.data.validation.checks import CRITICAL, WARNING, percent

TEMPLATES = Path(__file__).parent  # the page, and tables of expectations for other pages


def write_page(folder: Path, result: dict[str, Any]) -> None:
    """Replace `folder` by one with `index.html`, which shows what result.json holds. Raises UnigrecError."""
    with files.atomic_folder(folder) as temporary:
        (temporary / "index.html").write_text(render(result), encoding="utf-8")


def render(result: dict[str, Any]) -> str:
    """HTML of a result. Every value of the data is escaped: an id that is HTML is shown as its text."""
    about = {name: result[name] for name in ("data", "passed", "rows")}
    return pages.render("checks.html.jinja", [TEMPLATES], **about, **grouped(result))


def grouped(result: dict[str, Any]) -> dict[str, Any]:
    """What the tables of expectations show: `counts` per severity, and the findings `failed`, `met`, `unchecked`."""
    shown = [_shown(finding) for finding in result["expectations"]]
    groups = {success: [each for each in shown if each["success"] is success] for success in (False, True, None)}
    return {
        "counts": {severity: _counts(groups, severity) for severity in (CRITICAL, WARNING)},
        "failed": sorted(groups[False], key=lambda finding: finding["severity"] != CRITICAL),
        "met": groups[True],
        "unchecked": groups[None],
    }


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
