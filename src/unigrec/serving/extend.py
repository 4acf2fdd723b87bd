"""Items that come or go after the training: a child bundle with another catalogue and the same trained model.

An added item gets an identifier from its text, and a place at the end of the catalogue; items that were there keep
theirs. A removed item that was added is gone. One that was trained stays, withdrawn: it is not recommended any more.

Shapes: N items of the parent, M added items, D content dimensions, E dimensions of the teacher.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.identifiers.extend import free_identifiers
from unigrec.core.models.linear_map import ridge_regression
from unigrec.core.models.recommender import RecommenderConfig
from unigrec.embedding.encoder import load_encoder
from unigrec.serving import manifest as names
from unigrec.serving.assemble import seal
from unigrec.serving.extension import Extension, read_extension, write_extension
from unigrec.serving.manifest import open_bundle
from unigrec.serving.networks import load_tokenizer
from unigrec.serving.ranking_parts import read_neighbours
from unigrec.serving.rules import FIRST_SEEN

if TYPE_CHECKING:
    from unigrec.core.models.tokenizers.residual import Tokenizer

RIDGE = 0.1  # of the map from content to the teacher's part; held-out items of Office are told best by it
SHOWN = 5  # ids in a message
DATE = pa.timestamp("s")  # of `FIRST_SEEN`
UNKNOWN = -62_135_596_800  # the year 1: when an item of a log without days was first seen


class ItemParts(NamedTuple):
    """The parts of a bundle that hold a row per item, and so change with its items."""

    table: pa.Table  # N rows
    codes: np.ndarray  # (N, T) int32
    collaborative: torch.Tensor  # (N, E) what the tokenizer reads of the teacher
    served: pa.Table  # N rows: item_id and the columns that requests filter by
    extension: Extension

    @property
    def trained(self) -> int:
        """Number of items that the model was trained on."""
        return len(self.codes) - self.extension.added

    @property
    def item_ids(self) -> list[str]:
        """Ids in catalogue order."""
        return self.table["item_id"].to_pylist()


def add_items(parent: Path, items: pa.Table, when: int, served: pa.Table | None = None) -> Path:
    """A child of a bundle with more items; returns its folder below `state/bundles`.

    An item that was withdrawn comes back as it was.

    Args:
        items: item_id, and the text columns that the bundle's encoder reads. when: unix seconds from which they count
            as new. served: item_id, and columns that requests filter by; a row per item.

    Raises:
        UnigrecError: an id is missing, twice, or known; an item has no text that the encoder can read; the bundle is of
            an earlier version; there are no free identifiers left.
    """
    manifest, catalogue, content = _open(parent)
    encoder = load_encoder(parent / names.TEXT_ENCODER)
    index = {item: row for row, item in enumerate(catalogue.item_ids)}
    ids = _checked_ids(items, index, set(catalogue.extension.withdrawn.tolist()))
    back = [index[item] for item in ids if item in index]
    fresh = pa.array([item not in index for item in ids])
    items, served = items.filter(fresh), None if served is None else served.filter(fresh)
    vectors = encoder.transform(items)
    text = vectors[:, : len(encoder.standardisers[0].centre)]
    _refuse([id for id, row in zip(items["item_id"].to_pylist(), text, strict=True) if not row.any()], _NO_TEXT)
    codes, part = _placed(parent, catalogue, content, torch.as_tensor(vectors))
    old = catalogue.extension
    extension = Extension(
        torch.cat([old.content, F.normalize(torch.as_tensor(vectors), dim=1)]),
        torch.cat([old.since, torch.full((len(codes),), when)]),
        old.withdrawn[~torch.isin(old.withdrawn, torch.tensor(back, dtype=torch.int64))],
    )
    grown = ItemParts(
        _with_rows(catalogue.table, items),
        np.concatenate([catalogue.codes, codes.astype(np.int32)]),
        torch.cat([catalogue.collaborative, part]),
        _with_columns(catalogue, items["item_id"], served, when),
        extension,
    )
    return _child(parent, manifest, grown)


_NO_TEXT = "items without a word that the bundle's encoder knows; an item is placed by its text"


def remove_items(parent: Path, ids: Collection[str]) -> Path:
    """A child of a bundle without some items; returns its folder below `state/bundles`.

    Raises:
        UnigrecError: an item is not in the catalogue, or withdrawn already; none would be left; as `add_items`.
    """
    manifest, catalogue, _ = _open(parent)
    index, old = {item: row for row, item in enumerate(catalogue.item_ids)}, catalogue.extension
    _refuse([item for item in ids if item not in index], "item ids that are not in the catalogue")
    rows = sorted({index[item] for item in ids})
    gone = set(old.withdrawn.tolist())
    _refuse([catalogue.item_ids[row] for row in rows if row in gone], "items that are removed already")
    trained = catalogue.trained
    withdrawn = sorted(gone | {row for row in rows if row < trained})
    if len(withdrawn) == trained:
        raise UnigrecError("no item that the model was trained on would be left")
    kept = np.setdiff1d(np.arange(len(catalogue.codes)), [row for row in rows if row >= trained])
    added = torch.as_tensor(kept[trained:] - trained)
    extension = Extension(old.content[added], old.since[added], torch.tensor(withdrawn, dtype=torch.int64))
    shrunk = ItemParts(
        catalogue.table.take(kept).set_column(0, catalogue.table.schema.field(0), _numbers(catalogue.table, len(kept))),
        catalogue.codes[kept],
        catalogue.collaborative[torch.as_tensor(kept)],
        _without_dates(catalogue.served.take(kept), extension),
        extension,
    )
    return _child(parent, manifest, shrunk)


def _open(parent: Path) -> tuple[dict[str, Any], ItemParts, torch.Tensor]:
    """The checked parent: its manifest, its parts per item, and the content (trained items, D) of its neighbours."""
    manifest = open_bundle(parent)
    needed = {names.COLLABORATIVE, names.NEIGHBOURS, names.SERVED, names.ENCODER_SETTINGS}
    if needed - set(manifest["files"]):
        raise UnigrecError(
            f"{parent}: lacks {', '.join(sorted(needed - set(manifest['files'])))}: it is of an earlier version; run "
            "the pipeline again"
        )
    codes = files.read_arrays(parent / names.IDENTIFIERS)["codes"]
    nothing = Extension(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    extended = names.EXTENSION in manifest["files"]
    extension = read_extension(parent / names.EXTENSION, len(codes)) if extended else nothing
    content = read_neighbours(parent / names.NEIGHBOURS, len(codes) - extension.added).content
    if not extension.added:
        extension = extension._replace(content=content[:0])
    collaborative = files.read_tensors(parent / names.COLLABORATIVE)["part"]
    table = files.read_table(parent / names.CATALOGUE)
    served = files.read_table(parent / names.SERVED)
    return manifest, ItemParts(table, codes, collaborative, served, extension), content


def _checked_ids(items: pa.Table, index: dict[str, int], withdrawn: set[int]) -> list[str]:
    """The ids of new items. Raises UnigrecError, which names some of the wrong ones."""
    ids = items["item_id"].to_pylist()
    if not ids:
        raise UnigrecError("there is no item to add")
    if items["item_id"].null_count:
        raise UnigrecError(f"{items['item_id'].null_count} of {len(ids)} rows have no item_id")
    _refuse(
        [item for item, times in zip(*np.unique(ids, return_counts=True), strict=True) if times > 1],
        "item ids that come twice",
    )
    known = [item for item in ids if item in index and index[item] not in withdrawn]
    _refuse(known, "item ids that are in the catalogue already; published identifiers never move")
    return ids


def _refuse(ids: list[str], why: str) -> None:
    if ids:
        shown = ", ".join(map(str, ids[:SHOWN])) + (" ..." if len(ids) > SHOWN else "")
        raise UnigrecError(f"{why} ({len(ids)}): {shown}")


def _placed(
    parent: Path, catalogue: ItemParts, content: torch.Tensor, vectors: torch.Tensor
) -> tuple[np.ndarray, torch.Tensor]:
    """Identifiers (M, T) of new items, and what the tokenizer reads of the teacher for them (M, E).

    No teacher knows the new items: a linear map predicts its part from content, fitted to the trained items (N, D).
    """
    tokenizer: Tokenizer = load_tokenizer(parent / names.TOKENIZER, parent / names.TOKENIZER_CONFIG)
    part = catalogue.collaborative[: catalogue.trained]
    predicted = part.new_zeros(len(vectors), part.shape[1])
    if part.shape[1]:
        fitted = ridge_regression(content, part, RIDGE)
        predicted = F.normalize(vectors, dim=1) @ fitted.weight.T + fitted.bias
    sizes = RecommenderConfig(**files.read_json(parent / names.RECOMMENDER_CONFIG)).code_sizes
    read = torch.cat([vectors, predicted], dim=1)
    return free_identifiers(tokenizer, read, catalogue.codes.astype(np.int64), sizes), predicted


def _with_rows(table: pa.Table, items: pa.Table) -> pa.Table:
    """The catalogue with more rows: columns that the items lack are null, and train_count is 0."""
    count = items.num_rows
    columns = {
        field.name: items[field.name].cast(field.type)
        if field.name in items.column_names
        else pa.nulls(count, field.type)
        for field in table.schema
    }
    columns["train_count"] = pa.array(np.zeros(count), table.schema.field("train_count").type)
    grown = pa.concat_tables([table, pa.table(columns, schema=table.schema)])
    return grown.set_column(0, table.schema.field(0), _numbers(table, grown.num_rows))


def _with_columns(catalogue: ItemParts, ids: pa.ChunkedArray, given: pa.Table | None, when: int) -> pa.Table:
    """The served columns with rows for new items, which were first seen now.

    Where the bundle does not know since when it has an item, those that were there count as old: `UNKNOWN`.
    Raises UnigrecError for a given column of another type.
    """
    if not len(ids):
        return catalogue.served
    served = catalogue.served
    if FIRST_SEEN not in served.column_names:
        served = served.append_column(FIRST_SEEN, pa.array([UNKNOWN] * served.num_rows, DATE))
    columns = {"item_id": ids, FIRST_SEEN: pa.array([when] * len(ids), DATE).cast(served[FIRST_SEEN].type)}
    for field in served.schema:
        if field.name not in columns:
            values = None if given is None or field.name not in given.column_names else given[field.name]
            try:
                columns[field.name] = pa.nulls(len(ids), field.type) if values is None else values.cast(field.type)
            except pa.ArrowException as error:
                advice = "; CSV has no lists: give JSON lines or Parquet" if pa.types.is_list(field.type) else ""
                raise UnigrecError(
                    f"column {field.name!r}: expected {field.type}, as in the catalogue{advice}: {error}"
                ) from error
    return pa.concat_tables([served, pa.table(columns, schema=served.schema)])


def _without_dates(served: pa.Table, extension: Extension) -> pa.Table:
    """Without the column that only added items brought in, once they are gone."""
    if not extension.added and FIRST_SEEN in served.column_names:
        seen = served[FIRST_SEEN].cast(DATE).cast(pa.int64())  # files keep milliseconds
        if pc.all(pc.equal(pc.fill_null(seen, UNKNOWN + 1), UNKNOWN)).as_py():
            served = served.drop_columns(FIRST_SEEN)
    return served


def _numbers(table: pa.Table, count: int) -> pa.Array:
    """item_index, the first column of a catalogue."""
    return pa.array(np.arange(count), table.schema.field("item_index").type)


def _child(parent: Path, manifest: dict[str, Any], catalogue: ItemParts) -> Path:
    """The bundle of this catalogue, and otherwise the parent's files."""

    def fill(folder: Path) -> None:
        for name in set(manifest["files"]) - {names.EXTENSION, names.SERVED, names.COMPUTED}:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(parent / name, folder / name)
        files.write_table(folder / names.CATALOGUE, catalogue.table.combine_chunks())
        files.write_tensors(folder / names.IDENTIFIERS, {"codes": catalogue.codes})
        files.write_tensors(folder / names.COLLABORATIVE, {"part": catalogue.collaborative})
        files.write_table(folder / names.SERVED, catalogue.served.combine_chunks())
        if catalogue.extension.added or len(catalogue.extension.withdrawn):
            write_extension(folder / names.EXTENSION, catalogue.extension)

    described = {key: value for key, value in manifest.items() if key not in ("schema", "id", "files")}
    return seal(fill, lambda: described | {"parent": manifest["id"]})
