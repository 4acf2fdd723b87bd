"""Which data a model was made of and is judged on, as hashes of the stages' outputs."""

from __future__ import annotations

from unigrec.base.files import sha256_of
from unigrec.base.paths import Artifacts


def data_version(artifacts: Artifacts) -> str:
    """Of the data as it was read and checked. Raises UnigrecError when a file is missing."""
    return sha256_of(artifacts.source, artifacts.validated)


def test_set_version(artifacts: Artifacts) -> str:
    """Of the histories and the catalogue: figures with one hash are of the same users and items. Raises as above."""
    return sha256_of(artifacts.sequences, artifacts.catalogue)
