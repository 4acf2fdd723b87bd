"""Texts without a Python object each, and the place of each."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unigrec.serving import texts as texts_module
from unigrec.serving.texts import TextIndex, Texts, stored_texts


def texts_of(values: list[str | None]) -> Texts:
    half = len(values) // 2
    return Texts(pa.chunked_array([pa.array(values[:half], pa.string()), pa.array(values[half:], pa.string())]))


@settings(deadline=None)
@given(st.lists(st.text(max_size=4), unique=True, max_size=30), st.text(max_size=4))
def test_an_index_is_a_dictionary(values, other):
    texts = texts_of(values)
    made, expected = TextIndex(texts), {text: place for place, text in enumerate(values)}
    for index in (made, TextIndex.stored(made.tensors("id"), "id")):
        assert dict(index) == expected
        assert list(index.texts) == values
        assert index.texts[:3] == values[:3]
        assert [index.texts[place] for place in range(len(texts))] == values
        assert index.get(other) == expected.get(other)
        assert (other in index) == (other in expected)
        assert index.places([other, *values, other]).tolist() == [
            expected.get(text, -1) for text in (other, *values, other)
        ]
    assert list(stored_texts(Texts(texts.column.slice(1)).tensors("a"), "a")) == values[1:]


def test_equal_hashes_are_told_apart(monkeypatch):
    monkeypatch.setattr(texts_module, "_hash", len)
    index = TextIndex(texts_of(["bb", "a", "cc", "b", "dd"]))
    assert [index[text] for text in ("bb", "a", "cc", "b", "dd")] == [0, 1, 2, 3, 4]
    assert "ee" not in index
    assert index.places(["dd", "ee", "bb", "b", "x", "cc"]).tolist() == [4, -1, 0, 3, -1, 2]
    with pytest.raises(ValueError, match="'cc' repeats"):
        TextIndex(texts_of(["bb", "cc", "a", "cc"]))


def test_texts_that_repeat_or_are_null_are_refused():
    with pytest.raises(ValueError, match="'x' repeats"):
        TextIndex(texts_of(["x", "y", "x"]))
    with pytest.raises(ValueError, match="1 are null"):
        texts_of(["x", None])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("id_starts", lambda part: part[1:]),
        ("id_starts", lambda part: part[:0]),
        ("id_starts", lambda part: part.flip(0)),
        ("id_starts", lambda part: part * 10),
        ("id_letters", lambda part: torch.full_like(part, 255)),  # no UTF-8
        ("id_letters", lambda part: part.int()),
        ("id_hashes", lambda part: part[1:]),
        ("id_places", lambda part: part + 1),
        ("id_places", lambda part: -part - 1),
        ("id_places", lambda part: part[None]),
    ],
)
def test_a_damaged_index_is_an_error(name, change):
    tensors = TextIndex(texts_of(["a,b", "квас", "P3"])).tensors("id")
    with pytest.raises(ValueError, match="id"):
        TextIndex.stored(tensors | {name: change(tensors[name])}, "id")
    del tensors[name]
    with pytest.raises(ValueError, match=f"{name}: expected"):
        TextIndex.stored(tensors, "id")


def test_in_an_index_with_wrong_hashes_no_text_is_taken_for_another():
    tensors = TextIndex(texts_of(["a", "b", "c"])).tensors("id")
    index = TextIndex.stored(tensors | {"id_places": tensors["id_places"].roll(1)}, "id")
    assert {text: index.get(text) for text in "abc"} == dict.fromkeys("abc")
