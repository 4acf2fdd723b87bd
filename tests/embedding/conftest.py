from __future__ import annotations

import pyarrow as pa
import pytest

from support.item_texts import items

COLOURS = ["red", "blue", "green", "black", "white"]
THINGS = ["stapler", "notebook", "fountain pen", "office chair", "desk lamp", "paper tray"]


@pytest.fixture
def catalogue() -> pa.Table:
    return items([f"{colour} {thing}" for colour in COLOURS for thing in THINGS])
