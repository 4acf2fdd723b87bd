"""Columns of the items that requests filter by (`serve.columns`), with their types: numbers, dates, lists, texts.

In the text columns of `items` everything is text, since they describe an item to the text encoder. Here a price stays a
number. CSV and JSON lines have no types: there, a column holds numbers (or yes and no, or dates) if all of its values
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import pyarrow as pa
import pyarrow.compute as pc

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.datasets import Part
from unigrec.data.sources.times import NUMBER, WHOLE, Place, to_seconds
from unigrec.data.sources.values import are_whole, ids, is_number, is_text, plain, written

DATE = pa.timestamp("s")  # UTC
ServedTypes = Mapping[str, pa.DataType | None]  # by column: its type in the catalogue, None where it has none yet
NONE_SERVED: ServedTypes = MappingProxyType({})
FLAG, TRUE = r"(?i)^(true|false|yes|no)$", pa.array(["true", "yes"])
ISO_DATE = r"^\d{4}-\d{2}-\d{2}([T ].*)?$"
CODE = r"^[+-]?0\d|\d{19}"  # digits that are no quantity: an EAN, a postcode with a leading zero


def served_of(parts: Sequence[tuple[Part, pa.Table]], types: ServedTypes, item_id: str) -> pa.Table:
    """item_id and the named columns of the raw items.

    types: what is text in the catalogue stays as it is written, since a few new items may look like numbers by chance.

    Raises:
        UnigrecError: no part has a column of that name, or it holds what no filter can compare (maps, images).
    """
    refuse_absent(types, dict.fromkeys(name for _, table in parts for name in table.column_names))
    keys = [ids(table[item_id], Place(str(part.file), item_id)) for part, table in parts]
    columns = {"item_id": pa.chunked_array([chunk for key in keys for chunk in key.chunks], pa.string())}
    for name, known in types.items():
        place = Place(str(parts[0][0].file), name)
        columns[name] = typed(_whole([table for _, table in parts], name, place), place, known)
    return pa.table(columns)


def refuse_absent(names: Iterable[str], present: Iterable[str]) -> None:
    """Raises UnigrecError, which lists what there is, if a name is not among the columns of the items."""
    there = [name for name in present if name != "item_id"]
    for name in names:
        if name not in there:
            raise UnigrecError(
                f"serve.columns: the items have no column {name!r}; their columns are: {', '.join(there) or 'none'}"
            )


def _whole(tables: Sequence[pa.Table], name: str, place: Place) -> pa.ChunkedArray:
    """The column of all parts, null in a part that lacks it. Raises UnigrecError if the types do not go together."""
    pieces = [
        pa.table({name: plain(table[name]) if name in table.column_names else pa.nulls(table.num_rows)})
        for table in tables
    ]
    try:
        return pa.concat_tables(pieces, promote_options="permissive")[name]
    except pa.ArrowException as error:
        raise place.error(f"differs between the parts: {error}; write all alike") from error


def typed(column: pa.ChunkedArray, place: Place, known: pa.DataType | None = None) -> pa.ChunkedArray:
    """A column as bool, int64, float64, `DATE`, text, or lists of texts, numbers or bools. Raises UnigrecError.

    known: the type that it has in the catalogue. None: not known.
    """
    if pa.types.is_floating(column.type):
        column = _finite(column.cast(pa.float32()) if pa.types.is_float16(column.type) else column)
    kind = column.type
    if pa.types.is_null(kind) or (known is not None and column.null_count == len(column)):
        return _no_values(column, known)
    stays_text = known is not None and pa.types.is_string(known)
    if is_text(kind) or (stays_text and (is_number(kind) or pa.types.is_boolean(kind))):
        texts = pc.utf8_trim_whitespace(written(column))
        texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
        if texts.null_count == len(texts):
            return _no_values(texts, known)
        return texts if stays_text else _as_whole(_of_texts(texts, place), known)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return to_seconds(column, place, []).cast(DATE)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    try:
        column = column.cast(pa.list_(_plain_kind(kind.value_type, place)) if is_list else _plain_kind(kind, place))
    except pa.ArrowException as error:  # unsigned numbers beyond 2**63
        raise place.error(f"cannot be served as numbers: {error}; write it as text") from error
    return _as_whole(column, known)


def _plain_kind(kind: pa.DataType, place: Place) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_kind(kind.value_type, place)
    if is_text(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_boolean(kind):
        return kind
    if is_number(kind):
        return pa.int64() if pa.types.is_integer(kind) else pa.float64()
    raise place.error(f"is of type {kind}; serve.columns takes numbers, texts, dates, yes and no, and lists of them")


def _no_values(column: pa.ChunkedArray, known: pa.DataType | None) -> pa.ChunkedArray:
    """A column without any value goes with every type."""
    return pa.chunked_array([pa.nulls(len(column), known or pa.string())])


def _as_whole(column: pa.ChunkedArray, known: pa.DataType | None) -> pa.ChunkedArray:
    """Floats as whole numbers, where the catalogue has these: a gap made them floats."""
    if known == pa.int64() and pa.types.is_floating(column.type) and are_whole(column):
        return column.cast(pa.int64())
    return column


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))


def _of_texts(column: pa.ChunkedArray, place: Place) -> pa.ChunkedArray:
    """Trimmed texts, at least one, as what all of them are."""

    def all_are(pattern: str) -> bool:
        return pc.all(pc.match_substring_regex(column, pattern)).as_py() is True

    if all_are(NUMBER) and not pc.any(pc.match_substring_regex(column, CODE)).as_py():
        digits = pc.replace_substring_regex(column, r"^\+", "")
        return digits.cast(pa.int64()) if all_are(WHOLE) else _finite(digits.cast(pa.float64()))
    if all_are(FLAG):
        return pc.if_else(pc.is_valid(column), pc.is_in(pc.utf8_lower(column), value_set=TRUE), None)
    return to_seconds(column, place, []).cast(DATE) if all_are(ISO_DATE) else column
