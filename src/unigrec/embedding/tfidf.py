"""TF-IDF and SVD: text to vectors, without a pre-trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unigrec.base.errors import UnigrecError
from unigrec.config.schema import EmbedParams
from unigrec.embedding.vectors import Encoded
from unigrec.embedding.words import plain, word_pattern


@dataclass(frozen=True)
class TfidfSvd:
    """TF-IDF of single words (sublinear counts, rows of length 1), projected on the leading singular directions.

    Single words only: on Office and Beauty, pairs of words and character n-grams did not clearly bring a user's next
    item nearer, and cost two to six times as long.
    """

    vocabulary: list[str]  # the words in the order of the columns
    idf: np.ndarray  # float32 (words,)
    components: np.ndarray  # float32 (words, d)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Raw vectors of texts, float32 (M, d). A text without a known word counts as no text."""
        vectorizer = _vectorizer(vocabulary=self.vocabulary)
        vectorizer.idf_ = self.idf
        counts = vectorizer.transform(texts)
        # Sparse times dense sums per row: the bits of an item's vector do not depend on the other items.
        return Encoded(np.asarray(counts @ self.components, dtype=np.float32), np.diff(counts.indptr) > 0)


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case, in their order."""
    return _vectorizer().build_analyzer()(text)


def _vectorizer(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        preprocessor=plain, sublinear_tf=True, token_pattern=word_pattern(), dtype=np.float32, **settings
    )


def fit_tfidf_svd(texts: list[str], params: EmbedParams, seed: int) -> tuple[TfidfSvd, str | None]:
    """Fit on the catalogue's texts. Returns a note if fewer dimensions are used. Raises UnigrecError without words."""
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    vectorizer = _vectorizer(max_features=params.max_features)
    try:
        counts = vectorizer.fit_transform(texts)  # sparse (N, words)
    except ValueError as error:
        raise UnigrecError(f"the item texts hold no word: {error}") from error
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
