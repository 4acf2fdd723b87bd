"""`unigrec look`: print how a folder would be read, and write it into params.yaml."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    import pyarrow as pa

    from unigrec.config.schema import Params

LONGEST = 40  # characters of a value in the table
WORDS_OF_YAML = {"null", "true", "false"}


def look_at(folder: Path, params: Params, params_file: Path, write: bool) -> str:
    """The lines to print. With `write`, the proposal is written into the params file.

    Raises:
        UnigrecError: the folder cannot be read, or, with `write`, something is unsure; nothing is written.
    """
    from unigrec.config.edit import configure
    from unigrec.data.look import look

    found = look(folder, params.ingest, params.embed.text_columns)
    lines = [f"{folder}:", *(f"  {line}" for line in found.reasons), *(f"  note: {line}" for line in found.remarks)]
    if found.unsure:
        questions = [f"  unsure: {line}" for line in found.unsure]
        if write:
            raise UnigrecError("\n".join((*lines, *questions, "nothing was written: answer, then run this again")))
        return "\n".join((*lines, *questions))
    if found.rows is not None:
        lines += ["", "the first rows, as they would be taken:", *_table(found.rows)]
    settings = [f"{key}={_as_yaml(value)}" for key, value in found.settings.items()]
    if not write:
        return "\n".join((*lines, "", f"to write this into {params_file}: unigrec look {folder} --write"))
    changes = configure(params_file, data=str(folder), source="folder", settings=settings)
    return "\n".join(
        (*lines, "", f"{params_file}: {len(changes) or 'no'} values changed", *map("  {}".format, changes))
    )


def _as_yaml(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", value) and value not in WORDS_OF_YAML
    return value if plain else json.dumps(value, ensure_ascii=False)


def _table(rows: pa.Table) -> list[str]:
    """Rows in columns as wide as their values."""
    columns = [
        [name, *(str("" if value is None else value)[:LONGEST] for value in rows[name].to_pylist())]
        for name in rows.column_names
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return ["  " + "  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
