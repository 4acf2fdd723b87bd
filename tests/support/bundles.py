"""Changes to bundles, made on purpose."""

from __future__ import annotations

import json
from pathlib import Path

from unigrec.base import files
from unigrec.serving import manifest as bundle_files


def resign(folder: Path) -> None:
    """Make the manifest agree with the files, as a forger of a bundle would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    manifest["files"] = {name: files.sha256(folder / name) for name in sorted(names) if name != "manifest.json"}
    manifest["id"] = bundle_files._identity(manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
