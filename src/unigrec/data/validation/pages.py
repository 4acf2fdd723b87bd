"""Great Expectations' Data Docs without a network: the pages' style and scripts are put beside them.

The library writes pages that load everything from the network. What they need lies in this package, in
`assets/data_docs`; the rest (plots that our pages do not have, a dark theme, a newsletter line) is left out.
"""

from __future__ import annotations

import os
import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path

ASSETS = files("unigrec.data.validation") / "assets" / "data_docs"
OWN_NAMES = {  # of a file that the pages ask for: the one that stands in for it
    "all.min.css": "icons.css",
    "bootstrap.min.js": "bootstrap.bundle.min.js",
    "bootstrap-table-filter-control.css": "bootstrap-table-filter-control.min.css",
    "jquery-3.7.1.min.js": "jquery.min.js",
}
KEPT_IMAGES = ("favicon.ico", "logo-long.png")

_LOADING_TAG = re.compile(r"<script\b[^>]*\bsrc=[^>]*></script>|<link\b[^>]*>|<img\b[^>]*>", re.DOTALL)
_ADDRESS = re.compile(r'(?<=[\s"])(?:src|href)="([^"]*)"')
_NETWORK_BACKGROUND = re.compile(r"background: url\('https?://[^']*'\)[^;]*;")
_NO_ASSET = "Data asset: None<br>"  # the page looks for the name in a place that the library no longer fills
_NEWSLETTER = re.compile(r"<footer>.*?</footer>", re.DOTALL)


def make_offline(folder: Path) -> None:
    """Make the Data Docs site in `folder` readable without a network, in place.

    Its `static` folder then holds exactly the files that the pages load; a tag whose file is not among them is removed.
    """
    static = folder / "static"
    images = [(name, (static / "images" / name).read_bytes()) for name in KEPT_IMAGES]
    shutil.rmtree(static)
    with as_file(ASSETS) as assets:
        shutil.copytree(assets, static)
    for name, content in images:
        (static / name).write_bytes(content)
    held = {path.name for path in static.iterdir()}
    for page in folder.rglob("*.html"):
        to_static = os.path.relpath(static, page.parent)
        html = page.read_text(encoding="utf-8")
        html = _LOADING_TAG.sub(lambda tag, there=to_static: _local_tag(tag[0], there, held), html)  # type: ignore[misc]
        html = _NEWSLETTER.sub("", _NETWORK_BACKGROUND.sub("", html.replace(_NO_ASSET, "")))
        page.write_text(html, encoding="utf-8")


def _local_tag(tag: str, to_static: str, held: set[str]) -> str:
    """The tag with its file taken from the static folder, or nothing where that folder does not hold it."""
    address = _ADDRESS.search(tag)
    name = Path(address[1].partition("?")[0]).name if address else ""
    name = OWN_NAMES.get(name, name)
    if name not in held:
        return ""
    local = f"{to_static}/{name}"
    if tag.startswith("<script"):
        return f'<script src="{local}"></script>'
    if tag.startswith("<img"):
        return f'<img src="{local}" alt="Great Expectations" style="width: auto; height: 50px"/>'
    return f'<link rel="{"shortcut icon" if name.endswith(".ico") else "stylesheet"}" href="{local}">'
