"""Vectors of one modality, and their standardisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unigrec.base.errors import UnigrecError


class Encoded(NamedTuple):
    """Raw vectors of one modality. An unknown item (no text) has zeros here; standardising gives it the mean."""

    vectors: np.ndarray  # float32 (M, d)
    known: np.ndarray  # bool (M,)


class Standardiser(NamedTuple):
    """`(x - centre) / scale`, fitted on the known items of the catalogue."""

    centre: np.ndarray  # float32 (d,)
    scale: float

    def apply(self, encoded: Encoded) -> np.ndarray:
        """Standardised vectors, float32 (M, d); an unknown item gets the mean, which is zero."""
        return np.where(encoded.known[:, None], (encoded.vectors - self.centre) / np.float32(self.scale), np.float32(0))


def fit_standardiser(encoded: Encoded, name: str, ids: list[str]) -> Standardiser:
    """Fit on the known items. Raises UnigrecError for NaN, infinity, and vectors that are all equal."""
    require_finite(encoded.vectors, ids, name)
    vectors = encoded.vectors[encoded.known].astype(np.float64)
    scale = float(np.sqrt(vectors.var(axis=0).mean()))
    if scale < 1e-6:
        raise UnigrecError(f"modality {name!r}: all items have the same vector, so it cannot tell them apart")
    return Standardiser(vectors.mean(axis=0).astype(np.float32), float(np.float32(scale)))


def require_finite(vectors: np.ndarray, ids: Sequence[str] | None, where: str) -> None:
    """Raises UnigrecError, naming the first item with NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        item = repr(ids[bad[0]]) if ids is not None else f"number {bad[0]}"
        raise UnigrecError(f"{where}: {len(bad)} items hold NaN or infinity, the first is item {item}")
