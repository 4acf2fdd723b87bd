"""Filter expressions over the catalogue's columns: `brand = "Canon" and price < 20 and not categories has "Ink"`.

An expression is parsed by the grammar below, never run. It gives one bool per item: a comparison with a null is false,
so `not (price < 20)` holds for an item without a price.

Shapes: N items.
"""

from __future__ import annotations

import datetime
import functools
import math
import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lark import Lark, Token, Transformer, UnexpectedInput, UnexpectedToken, v_args
from lark.exceptions import VisitError

from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    from pathlib import Path

GRAMMAR = r"""
?start: any
?any: all (_OR all)*
?all: negation (_AND negation)*
?negation: _NOT negation -> negated | "(" any ")" | comparison | column -> flag
comparison: column COMPARATOR value -> compared
    | column _IN "[" value ("," value)* "]" -> listed
    | column _HAS TEXT -> having
    | column _IS _NULL -> missing
column: NAME | QUOTED
?value: NUMBER -> number | TEXT -> text | TRUE -> true | FALSE -> false
COMPARATOR: "=" | "!=" | "<=" | ">=" | "<" | ">"
_OR: /or\b/i
_AND: /and\b/i
_NOT.2: /not\b/i
_IN: /in\b/i
_HAS: /has\b/i
_IS: /is\b/i
_NULL: /null\b/i
TRUE.2: /true\b/i
FALSE.2: /false\b/i
NAME: /(?!(and|or|not|in|has|is|null|true|false)\b)[^\W\d]\w*/i
QUOTED: /`[^`]+`/
NUMBER: /-?\d+(\.\d+)?([eE][-+]?\d+)?/
TEXT: /"([^"\\]|\\.)*"/ | /'([^'\\]|\\.)*'/
%ignore /\s+/
"""
LONGEST, DEEPEST = 2000, 30  # letters of an expression; brackets and `not` inside each other
CACHED, CACHED_BYTES, FEWEST = 256, 2**26, 4  # masks that are kept: at most, in all, and at least
COMPARATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
# The same with a value that the type of the column cannot hold: compared is the next lower one that it can hold.
COMPARATORS_BETWEEN: dict[str, Callable[[Any, Any], Any]] = {
    "=": lambda values, _: np.zeros(len(values), bool),
    "!=": lambda values, _: pc.is_valid(values),
    "<": pc.less_equal,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater,
}
EXAMPLE = 'for example: brand = "Canon" and price < 20 and not categories has "Ink"'


class CatalogueFilter:
    """Compiles expressions to masks of a catalogue's items, and keeps the last ones.

    Args:
        files: Parquet with one row per item; only columns that an expression names are read. Of two columns with one
            name, that of the later file counts.
    """

    def __init__(self, *files: Path):
        self._files = {name: file for file in files for name in pq.read_schema(file).names}
        self._read: dict[str, pa.ChunkedArray] = {}
        self._masks: OrderedDict[str, np.ndarray] = OrderedDict()

    def mask(self, expression: str) -> np.ndarray:
        """(N,) bool: the items that an expression holds for; not to be changed.

        Raises UnigrecError, which says what is wrong with the expression, and where.
        """
        if expression not in self._masks:
            mask = self._masks[expression] = self._compile(expression)
            most = min(max(CACHED_BYTES // max(mask.nbytes, 1), FEWEST), CACHED)
            while len(self._masks) > most:
                self._masks.popitem(last=False)
        self._masks.move_to_end(expression)
        return self._masks[expression]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self._files)

    def column(self, name: str, asked_by: str = "filter") -> pa.ChunkedArray:
        """A column of the catalogue. Raises UnigrecError, which begins with `asked_by`, if none has this name."""
        if name not in self._files:
            raise UnigrecError(f"{asked_by}: no column {name!r}; the catalogue has {', '.join(self._files)}")
        if name not in self._read:
            self._read[name] = pq.read_table(self._files[name], columns=[name], partitioning=None)[name]
        return self._read[name]

    def _compile(self, expression: str) -> np.ndarray:
        if len(expression) > LONGEST:
            raise UnigrecError(f"filter: {len(expression)} letters; at most {LONGEST}")
        try:
            tree = _parser().parse(expression)
        except UnexpectedInput as error:
            ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
            place = len(expression) + 1 if ended else error.column
            shown = expression[max(place - 11, 0) : place + 9]
            raise UnigrecError(f"filter: not understood at letter {place} ({shown!r}); {EXAMPLE}") from error
        if (depth := _depth(tree)) > DEEPEST:
            raise UnigrecError(f"filter: {depth} brackets or `not` inside each other; at most {DEEPEST}")
        try:
            mask = _Evaluation(self).transform(tree)
        except VisitError as error:
            if isinstance(error.orig_exc, pa.ArrowException):
                raise UnigrecError(f"filter: {expression} cannot be evaluated: {error.orig_exc}") from error
            raise error.orig_exc from error
        return _as_mask(mask)


@functools.cache
def _parser() -> Lark:
    return Lark(GRAMMAR, parser="lalr", propagate_positions=False, maybe_placeholders=False)


def _depth(tree: Any) -> int:
    """Levels of a tree, without recursion: the tree may be deep."""
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in getattr(node, "children", ())]
    return depth


@v_args(inline=True)
class _Evaluation(Transformer):
    """From the tree of an expression to one bool per item."""

    def __init__(self, catalogue: CatalogueFilter):
        super().__init__(visit_tokens=False)
        self.catalogue = catalogue

    def any(self, *masks: np.ndarray) -> np.ndarray:
        return functools.reduce(operator.or_, map(_as_mask, masks))

    def all(self, *masks: np.ndarray) -> np.ndarray:
        return functools.reduce(operator.and_, map(_as_mask, masks))

    def negated(self, mask: np.ndarray) -> np.ndarray:
        return ~_as_mask(mask)

    def flag(self, column: tuple[str, pa.ChunkedArray]) -> np.ndarray:
        name, values = column
        if not pa.types.is_boolean(values.type):
            raise UnigrecError(f"filter: {name} alone must be a column of yes and no; it is {values.type}")
        return _as_mask(values)

    def compared(self, column: tuple[str, pa.ChunkedArray], comparator: Token, value: Any) -> np.ndarray:
        return _compared(column, comparator, value)

    def listed(self, column: tuple[str, pa.ChunkedArray], *values: Any) -> np.ndarray:
        return functools.reduce(operator.or_, (_compared(column, "=", value) for value in values))

    def having(self, column: tuple[str, pa.ChunkedArray], text: Token) -> np.ndarray:
        """An entry of a list; a part of a text, in any case of letters."""
        name, values = column
        wanted = _unquoted(text)
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            entries = values.combine_chunks()
            rows = pc.list_parent_indices(entries).to_numpy()
            found = np.zeros(len(entries), bool)
            found[rows[_compared((name, pc.list_flatten(entries)), "=", wanted)]] = True
            return found
        if _is_date(values.type):
            raise UnigrecError(f'filter: {name} holds dates; compare them: {name} >= "2026-01-31"')
        if pa.types.is_null(values.type):
            return np.zeros(len(values), bool)
        return _as_mask(pc.match_substring(_comparable(column, wanted)[0], wanted, ignore_case=True))

    def missing(self, column: tuple[str, pa.ChunkedArray]) -> np.ndarray:
        return _as_mask(pc.is_null(column[1]))

    def column(self, token: Token) -> tuple[str, pa.ChunkedArray]:
        name = str(token).strip("`")
        return name, self.catalogue.column(name)

    def number(self, token: Token) -> float | int:
        return float(token) if set(token) & set(".eE") else int(token)

    def text(self, token: Token) -> str:
        return _unquoted(token)

    def true(self, _: Token) -> bool:
        return True

    def false(self, _: Token) -> bool:
        return False


def _compared(column: tuple[str, Any], comparator: str, value: Any) -> np.ndarray:
    """(N,) bool: the values that compare so with `value`; numbers exactly, however large."""
    values, wanted = _comparable(column, value)
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or pa.types.is_null(values.type):
        return _as_mask(COMPARATORS[comparator](values, wanted))
    lower = _next_lower(wanted, values.type)
    comparators = COMPARATORS if lower == wanted else COMPARATORS_BETWEEN
    return _as_mask(comparators[comparator](values, lower))


def _next_lower(value: float, kind: pa.DataType) -> float:
    """The largest number of a type that is not above the value: floats lack large integers, and integers fractions."""
    if pa.types.is_integer(kind):
        return math.floor(value)
    near = float(value)
    return near if near <= value else math.nextafter(near, -math.inf)


def _comparable(column: tuple[str, Any], value: Any) -> tuple[Any, Any]:
    """The column's values and the value, a date where the column holds dates. Raises UnigrecError if they differ."""
    name, values = column
    if _is_date(values.type) and isinstance(value, str):
        return values, _date(name, value)
    kinds: tuple[str, Callable[[pa.DataType], bool]]
    if isinstance(value, bool):
        kinds = "yes or no", pa.types.is_boolean
    elif isinstance(value, str):
        kinds = "a text", lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)
    else:
        kinds = "a number", lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if (isinstance(value, int) or pa.types.is_integer(values.type)) and not -(2**63) <= value < 2**63:
            raise UnigrecError(f"filter: {value} is too large a number")
    if pa.types.is_null(values.type):
        return values, value
    if not kinds[1](values.type):
        raise UnigrecError(f"filter: {name} is {values.type}; it cannot be compared with {kinds[0]}: {value!r}")
    return values, value


def _is_date(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _date(name: str, text: str) -> datetime.datetime:
    """UTC, without a zone, as columns have it. Raises UnigrecError for a text that is no date."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            moment = moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError) as error:  # not of that form; in UTC before the year 1, or after 9999
        raise UnigrecError(f"filter: {name} holds dates; {text!r} is none (2026-01-31, 2026-01-31T12:00)") from error
    return moment.replace(tzinfo=None)


def _unquoted(token: Token) -> str:
    """The text between the quotes; a backslash stands before a letter that is meant as it is."""
    inner, result, escaped = str(token)[1:-1], [], False
    for letter in inner:
        if letter == "\\" and not escaped:
            escaped = True
        else:
            result.append(letter)
            escaped = False
    return "".join(result)


def _as_mask(values: Any) -> np.ndarray:
    """(N,) bool from Arrow or numpy; a null is false."""
    return values if isinstance(values, np.ndarray) else np.asarray(pc.fill_null(values, False), bool)
