"""The tables as validation reads them: their hash, and the computed columns."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from unigrec.data.validation.tables import frames, sha256, typed


def test_a_hash_is_that_of_the_whole_table_as_a_stream():
    table = typed(pa.table({"user_id": ["u1", None, "u3"], "timestamp": [1, 2, None]}))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    assert sha256([table]) == sha256([table.slice(0, 1), table.slice(1)]) == hashlib.sha256(sink.getvalue()).hexdigest()


def test_the_later_of_equal_interactions_is_the_repeated_one_and_an_incomplete_one_never():
    rows = [("u", "i", 2), (None, "i", 2), ("u", "i", 1), ("u", "i", 2), (None, "i", 2), ("u", None, 2), ("u", None, 2)]
    rows += [("v", "i", 2), ("u", "j", 2), ("u", "i", None), ("u", "i", None), ("u", "i", 2)]
    rows += [("w", "i", None), ("w", "i", 0), ("w", "i", None), ("w", "i", 0)]
    text = pa.large_string()
    columns = {name: [row[place] for row in rows] for place, name in enumerate(("user_id", "item_id", "timestamp"))}
    schema = pa.schema([("user_id", text), ("item_id", text), ("timestamp", pa.int64())])
    items = pa.table({"item_id": pa.array(["i", "j"], text)})
    found = frames(pa.table(columns, schema), items, [], 1, (0, 9))["interactions"]["repeated_interaction"]
    assert found.dropna().to_dict() == {3: "u | i | 2", 11: "u | i | 2", 15: "w | i | 0"}
