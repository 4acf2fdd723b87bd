"""`unigrec export-features`: what a bundle knows, as columns for another model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base.errors import UnigrecError
from unigrec.commands.histories import read_histories

if TYPE_CHECKING:
    from unigrec.config.schema import Params


def export_features(params: Params, model: str, out: Path, histories: Path | None, temperature: float) -> str:
    """Write the features of a model's items, and of the users of a file of interactions; returns a line.

    Args:
        model: alias, version number, or a bundle's folder. temperature: of the soft codes.

    Raises:
        UnigrecError: the file cannot be read, the bundle is of an earlier version, or the temperature is not above 0.
    """
    from unigrec.registry.versions import load_bundle
    from unigrec.serving.features import item_features, user_features, write_features

    if not temperature > 0.0:
        raise UnigrecError(f"--temperature {temperature:g}: expected a number above 0")
    users = None
    bundle = load_bundle(params.register_, model)
    if histories is not None:
        users = user_features(bundle, *read_histories(histories, params))
    items = item_features(bundle, temperature)
    write_features(out, items, users)
    told = "" if users is None else f", {users.num_rows} users"
    return f"{out}: {items.num_rows} items{told}"
