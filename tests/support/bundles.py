"""Changes to bundles, made on purpose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.tiny_model import ITEMS
from unigrec.base import files
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.serving import computed, parts
from unigrec.serving import manifest as bundle_files


def resign(folder: Path) -> None:
    """Make the manifest agree with the files, as a forger of a bundle would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    manifest["files"] = {name: files.sha256(folder / name) for name in sorted(names) if name != "manifest.json"}
    manifest["id"] = bundle_files.identity(manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))


@contextmanager
def bundles_are_large() -> Iterator[None]:
    """Treat a tiny bundle as one of a large catalogue, when it is written and when it is loaded."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (computed, parts):
            patch.setattr(module, "SCANNED", ITEMS - 1)
        patch.setattr(DenseRetriever.__init__, "__defaults__", (ITEMS - 1, None))
        yield
