"""`unigrec add-items` and `remove-items`: a model with another catalogue, without a training."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base import files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unigrec.config.schema import Params


def add_items(params: Params, file: Path, model: str, registered: bool) -> int:
    """Add the items of a file to a model, print what was made, and return the exit code.

    Args:
        file: Parquet, CSV or JSON lines, with the columns of the shop's items. model: alias, version number, or a
            bundle's folder. registered: register the new bundle too.

    Raises:
        UnigrecError: the file cannot be read, an item cannot be added, or there is no such model.
    """
    from unigrec.config.schema import OWN_COLUMNS
    from unigrec.data.sources.folder import read_items
    from unigrec.serving import extend, manifest

    def child(parent: Path) -> tuple[Path, str]:
        columns = files.read_json(parent / manifest.ENCODER_SETTINGS)["text_columns"]
        served = parent / manifest.SERVED
        schema = files.read_table(served).schema if served.is_file() else ()
        kept = {field.name: field.type for field in schema if field.name not in OWN_COLUMNS}
        read = read_items(file, params.ingest, columns, kept)
        for note in read.notes:
            print(note)
        folder = extend.add_items(parent, read.items, int(time.time()), read.served)
        return folder, _counted(read.items.num_rows, "added")

    return _made(params, model, child, registered)


def remove_items(params: Params, items: Sequence[str], model: str, registered: bool) -> int:
    """As `add_items`. items: each is an id, or a file with one id per line."""
    from unigrec.commands.recommend import read_ids
    from unigrec.serving import extend, manifest

    def child(parent: Path) -> tuple[Path, str]:
        known = set(files.read_table(parent / manifest.CATALOGUE, ["item_id"])["item_id"].to_pylist())
        ids = sorted(read_ids("ITEMS", items, known))
        return extend.remove_items(parent, ids), _counted(len(ids), "removed")

    return _made(params, model, child, registered)


def _counted(items: int, verb: str) -> str:
    return f"{items} item{'s' * (items != 1)} {verb}"


def _made(params: Params, model: str, child: Callable[[Path], tuple[Path, str]], registered: bool) -> int:
    from unigrec.base.errors import EXIT_OK
    from unigrec.commands import bundles
    from unigrec.registry.versions import locate

    with tempfile.TemporaryDirectory(prefix="unigrec-") as scratch:
        subject = locate(params.register_, model, Path(scratch))
        folder, done = child(subject.folder)
    print(f"{subject.name}: {done}; the new bundle is {folder}")
    return bundles.register(params, Path(), folder) if registered else EXIT_OK
