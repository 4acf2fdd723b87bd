"""`unigrec export-features`: what a bundle knows, as columns for another model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    from unigrec.config.schema import Params


def export_features(params: Params, model: str, out: Path, histories: Path | None, temperature: float) -> str:
    """Write the features of a model's items, and of the users of a file of interactions; returns a line.

    Args:
        model: alias, version number, or a bundle's folder. temperature: of the soft codes.

    Raises:
        UnigrecError: the file cannot be read, the bundle is of an earlier version, or the temperature is not above 0.
    """
    from unigrec.data.histories import histories_of
    from unigrec.data.sources.folder import read_interactions
    from unigrec.registry.versions import load_bundle
    from unigrec.serving.features import item_features, user_features, write_features

    if not temperature > 0.0:
        raise UnigrecError(f"--temperature {temperature:g}: expected a number above 0")
    users = None
    bundle = load_bundle(params.register_, model)
    if histories is not None:
        interactions, notes = read_interactions(histories, params.ingest)
        for note in notes:
            print(f"{histories}: {note}", file=sys.stderr)
        users = user_features(bundle, *histories_of(interactions))
    items = item_features(bundle, temperature)
    write_features(out, items, users)
    told = "" if users is None else f", {users.num_rows} users"
    return f"{out}: {items.num_rows} items{told}"
