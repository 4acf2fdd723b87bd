"""From item text and further modalities to vectors: `fit_encoder` once, then the saved encoder for every new item.

Each modality (text is the first) is standardised on the catalogue: centred per dimension, then divided by one number
for the whole modality, so that its variance per dimension averages 1 while its spectrum keeps its shape. The
modalities are then concatenated.

Shapes: `N` items of the catalogue, `M` items to embed, `d_in` width of the result over all modalities.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import EmbedParams
from unigrec.embedding.modality import read_modality
from unigrec.embedding.sentence import SentenceModel
from unigrec.embedding.tfidf import TfidfSvd, fit_tfidf_svd
from unigrec.embedding.vectors import Encoded, Standardiser, fit_standardiser, require_finite


@dataclass(frozen=True)
class Encoder:
    """Turns items into vectors; made by `fit_encoder`, kept by `save_encoder`."""

    text: TfidfSvd | SentenceModel
    text_columns: tuple[str, ...]
    standardisers: tuple[Standardiser, ...]  # for the text, then for each further modality
    modalities: tuple[str, ...]  # files of the further modalities, as params names them
    notes: tuple[str, ...]  # remarks on the fit, for the user

    @property
    def dimensions(self) -> int:
        """`d_in`."""
        return sum(len(standardiser.centre) for standardiser in self.standardisers)

    @property
    def widths(self) -> list[tuple[str, int]]:
        """Each modality, and how many of a vector's numbers are its own, in their order; the text comes first."""
        return list(zip(("text", *self.modalities), (len(s.centre) for s in self.standardisers), strict=True))

    def transform(
        self, items: pa.Table | Sequence[str | None], modalities: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Embed items, known or new.

        Args:
            items: a table with text columns, or the texts themselves; an item without text gets the catalogue's mean.
            modalities: one float32 (M, d) per further modality (see `read_modality`); if left out, each gets its mean.

        Returns:
            float32 (M, d_in). With tfidf-svd the bits of an item's vector do not depend on the other items.

        Raises:
            UnigrecError: no text column, a wrong number or shape of modalities, a value that is not finite.
        """
        texts = item_texts(items, self.text_columns) if isinstance(items, pa.Table) else [_clean(t) for t in items]
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        parts = [self.standardisers[0].apply(self.text.encode(texts)), *self._further(modalities, len(texts))]
        embedding = np.concatenate(parts, axis=1)  # (M, d_in)
        ids = items["item_id"].to_pylist() if isinstance(items, pa.Table) and "item_id" in items.column_names else None
        require_finite(embedding, ids, "the embedding")
        return embedding

    def _further(self, modalities: Sequence[np.ndarray] | None, count: int) -> list[np.ndarray]:
        further = self.standardisers[1:]
        if modalities is None:
            return [np.zeros((count, len(standardiser.centre)), np.float32) for standardiser in further]
        expected = [(count, len(standardiser.centre)) for standardiser in further]
        if [vectors.shape for vectors in modalities] != expected:
            shapes = [vectors.shape for vectors in modalities]
            raise UnigrecError(f"modalities of shapes {shapes} do not fit; expected {expected}, for {self.modalities}")
        everyone = np.ones(count, dtype=bool)
        return [s.apply(Encoded(vectors, everyone)) for s, vectors in zip(further, modalities, strict=True)]


def fit_encoder(catalogue: pa.Table, params: EmbedParams, seed: int) -> tuple[Encoder, np.ndarray]:
    """Fit the encoder on the catalogue and embed it.

    Args:
        catalogue: item_id, and text columns (string, null allowed); N rows.
        params: the `embed` section.
        seed: of the randomised SVD; the same seed gives the same bits.

    Returns:
        The encoder, and the embedding of the catalogue, float32 (N, d_in), equal to `encoder.transform` of it.

    Raises:
        UnigrecError: no text column or no text at all, a missing package, a modality that does not fit the catalogue,
            texts that are all the same, a value that is not finite.
    """
    texts = item_texts(catalogue, params.text_columns)
    if not any(texts):
        raise UnigrecError(f"none of the {len(texts)} items has a text in the columns {list(params.text_columns)}")
    notes = []
    text: TfidfSvd | SentenceModel
    if params.encoder == "tfidf-svd":
        text, note = fit_tfidf_svd([text for text in texts if text], params, seed)
        notes += [note] if note else []
    else:
        text = SentenceModel(params.encoder, params.model if params.encoder == "sentence-transformers" else "")

    ids = catalogue["item_id"].to_pylist()
    everyone = np.ones(len(ids), dtype=bool)
    vectors = [read_modality(Path(name), ids) for name in params.modalities]
    encoded = [text.encode(texts), *(Encoded(each, everyone) for each in vectors)]
    blank = int((~encoded[0].known).sum())
    notes += [f"{blank} of {len(texts)} items have no text: they get the mean of the others"] if blank else []
    names = ["text", *params.modalities]
    standardisers = tuple(fit_standardiser(each, name, ids) for each, name in zip(encoded, names, strict=True))
    encoder = Encoder(text, params.text_columns, standardisers, params.modalities, tuple(notes))
    return encoder, np.concatenate([s.apply(each) for s, each in zip(standardisers, encoded, strict=True)], axis=1)


def continue_encoder(encoder: Encoder, catalogue: pa.Table) -> tuple[Encoder, np.ndarray]:
    """Embed this catalogue with an encoder that was fitted on an earlier one. Returns as `fit_encoder`.

    Raises:
        UnigrecError: as `Encoder.transform`; a modality that does not fit the catalogue.
    """
    ids = catalogue["item_id"].to_pylist()
    embedding = encoder.transform(catalogue, [read_modality(Path(name), ids) for name in encoder.modalities])
    return replace(encoder, notes=(f"as fitted on an earlier catalogue; {len(ids)} items now",)), embedding


def item_texts(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """Each item's text: the columns of `columns` that exist, joined in the given order; "" for an item without text.

    Raises:
        UnigrecError: the table has none of the columns, or one of them holds no text.
    """
    present = [name for name in columns if name in table.column_names]
    if not present:
        raise UnigrecError(
            f"the items have none of the text columns {list(columns)} (embed.text_columns), only {table.column_names}"
        )
    for name in present:
        kind = table.schema.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise UnigrecError(f"column {name!r} (embed.text_columns) holds {kind}, not text")
    rows = zip(*(table[name].to_pylist() for name in present), strict=True)
    return [". ".join(filter(None, map(_clean, row))) for row in rows]


def _clean(text: str | None) -> str:
    return re.sub(r"\s+", " ", text).strip() if text else ""


def save_encoder(encoder: Encoder, folder: Path) -> None:
    """Write the encoder as JSON and safetensors, replacing `folder` as a whole. Raises UnigrecError."""
    text = encoder.text
    settings: dict[str, Any] = {
        "encoder": "tfidf-svd" if isinstance(text, TfidfSvd) else text.kind,
        "text_columns": list(encoder.text_columns),
        "modalities": list(encoder.modalities),
        "scales": [standardiser.scale for standardiser in encoder.standardisers],
        "dimensions": encoder.dimensions,
        "notes": list(encoder.notes),
    }
    tensors = {f"centre_{i}": standardiser.centre for i, standardiser in enumerate(encoder.standardisers)}
    with files.atomic_folder(folder) as temporary:
        if isinstance(text, TfidfSvd):
            tensors |= {"idf": text.idf, "components": text.components}
            files.write_json(temporary / paths.ENCODER_VOCABULARY_FILE, text.vocabulary)
        else:
            settings |= {"model": text.model, "fingerprint": text.fingerprint}
        files.write_json(temporary / paths.ENCODER_SETTINGS_FILE, settings)
        files.write_tensors(temporary / paths.ENCODER_TENSORS_FILE, tensors)


def load_encoder(folder: Path) -> Encoder:
    """Read what `save_encoder` wrote. Raises UnigrecError when a file is missing or damaged."""
    settings = files.read_json(folder / paths.ENCODER_SETTINGS_FILE)
    tensors = files.read_arrays(folder / paths.ENCODER_TENSORS_FILE)
    text: TfidfSvd | SentenceModel
    try:
        if settings["encoder"] == "tfidf-svd":
            vocabulary = files.read_json(folder / paths.ENCODER_VOCABULARY_FILE)
            text = TfidfSvd(vocabulary, tensors["idf"], tensors["components"])
        else:
            text = SentenceModel(settings["encoder"], settings["model"], settings["fingerprint"])
        standardisers = tuple(Standardiser(tensors[f"centre_{i}"], s) for i, s in enumerate(settings["scales"]))
        columns, modalities, notes = (tuple(settings[key]) for key in ("text_columns", "modalities", "notes"))
        return Encoder(text, columns, standardisers, modalities, notes)
    except KeyError as error:
        raise UnigrecError(f"{folder}: not a text encoder of this version: {error} is missing") from error
