"""A file of interactions that a command reads, as the shop writes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from unigrec.config.schema import Params


def read_log(file: Path, params: Params) -> pa.Table:
    """The interactions as `Source` has them; notes on what was read go to standard error. Raises UnigrecError."""
    from unigrec.data.sources.folder import read_interactions

    interactions, notes = read_interactions(file, params.ingest)
    for note in notes:
        print(note, file=sys.stderr)
    return interactions


def read_histories(file: Path, params: Params) -> tuple[list[str], list[list[str]]]:
    """As `data.histories.histories_of`: user ids, and the item ids of each. Raises UnigrecError."""
    from unigrec.data.histories import histories_of

    return histories_of(read_log(file, params))
