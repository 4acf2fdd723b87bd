"""Pages of HTML: one file each, without script and without any address of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FRAME = Path(__file__).parent  # holds page.html.jinja, which every page extends


def render(template: str, folders: list[Path], **values: Any) -> str:
    """HTML of a template. Every value is escaped: an id or title that is HTML is shown as its text.

    folders: where the template, and those that it extends or imports, are looked up.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([FRAME, *folders]), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values)
