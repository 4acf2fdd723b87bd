"""What a bundle knows of its items and of users, as columns for a shop's own ranking model.

    items.parquet   item_id, identifier, prefixes, soft_codes, soft_weights, vector, train_count, is_new
    users.parquet   user_id, state, known

Shapes: N items, L levels, K codewords, D content dimensions, E width of the teacher, U users.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.identifiers.collisions import items_at_once
from unigrec.embedding.encoder import load_encoder
from unigrec.serving import manifest as names
from unigrec.serving.networks import load_tokenizer
from unigrec.serving.users import readable, user_states

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.serving.bundle import Bundle

TOP = 3  # soft codes per level
SEPARATOR = "-"
ITEM_SCHEMA = pa.schema(
    {
        "item_id": pa.string(),
        "identifier": pa.string(),  # its codes, as 174-39-252
        "prefixes": pa.list_(pa.string()),  # 174, 174-39, 174-39-252
        "soft_codes": pa.list_(pa.list_(pa.int32())),  # per level the most probable ones
        "soft_weights": pa.list_(pa.list_(pa.float32())),  # and their probabilities
        "vector": pa.list_(pa.float32()),  # of the content, of length 1 or 0
        "train_count": pa.int64(),
        "is_new": pa.bool_(),  # added after the training
    }
)
USER_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "state": pa.list_(pa.float32()),  # of the teacher's first network; null for a user without a known item
        "known": pa.int64(),  # items of the history that are in the catalogue
    }
)


def item_features(bundle: Bundle, temperature: float) -> pa.Table:
    """(N rows) as `ITEM_SCHEMA`. temperature: of the soft codes, above 0.

    Raises:
        UnigrecError: the bundle lacks what the tokenizer reads: it is of an earlier version, or the items have vectors
            of further modalities, which no bundle holds.
    """
    folder, listed = bundle.folder, bundle.manifest["files"]
    if not {names.COLLABORATIVE, names.ENCODER_SETTINGS} <= set(listed):
        raise UnigrecError(f"{folder}: this bundle, of an earlier version, holds no soft codes; run the pipeline again")
    encoder = load_encoder(folder / names.TEXT_ENCODER)
    if encoder.modalities:
        raise UnigrecError(
            f"{folder / names.TEXT_ENCODER}: the tokenizer reads the vectors of {', '.join(encoder.modalities)} "
            "(embed.modalities), and a bundle does not hold them: soft codes and vectors would be wrong; export the "
            "features of a model that was trained without embed.modalities"
        )
    catalogue = files.read_table(folder / names.CATALOGUE)
    content = torch.as_tensor(encoder.transform(catalogue))
    part = files.read_tensors(folder / names.COLLABORATIVE)["part"]
    tokenizer = load_tokenizer(folder / names.TOKENIZER, folder / names.TOKENIZER_CONFIG)
    weights, codes = soft_codes(tokenizer, torch.cat([content, part], dim=1), temperature)
    texts = [[str(code) for code in row] for row in bundle.identifiers.tolist()]
    prefixes = [[SEPARATOR.join(row[: level + 1]) for level in range(len(row))] for row in texts]
    columns = {
        "item_id": bundle.item_ids.column,
        "identifier": [row[-1] for row in prefixes],
        "prefixes": prefixes,
        "soft_codes": codes.tolist(),
        "soft_weights": weights.tolist(),
        "vector": torch.nn.functional.normalize(content, dim=1).tolist(),
        "train_count": catalogue["train_count"].to_pylist(),
        "is_new": (np.arange(len(texts)) >= bundle.trained).tolist(),
    }
    return pa.table(columns, schema=ITEM_SCHEMA)


@torch.no_grad()
def soft_codes(tokenizer: Tokenizer, vectors: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Probabilities (N, L, TOP) of the most probable codes of each level, and the codes (N, L, TOP)."""
    count = min(TOP, tokenizer.codebook_size)
    found = [
        tokenizer.quantize_soft(tokenizer.encoder(part), temperature).probabilities.topk(count, dim=-1)
        for part in vectors.split(items_at_once(tokenizer))
    ]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def user_features(bundle: Bundle, users: Sequence[str], histories: Sequence[Sequence[str]]) -> pa.Table:
    """(U rows) as `USER_SCHEMA`. Raises UnigrecError for a bundle of an earlier version, without a teacher."""
    known = [bundle.known(history) for history in histories]
    rows, read = readable(bundle, known)
    states: list[list[float] | None] = [None] * len(users)
    for row, state in zip(rows, user_states(bundle, read).tolist(), strict=True):
        states[row] = state
    columns = {"user_id": list(users), "state": states, "known": [len(history) for history in known]}
    return pa.table(columns, schema=USER_SCHEMA)


def write_features(out: Path, items: pa.Table, users: pa.Table | None) -> None:
    """Write items.parquet, and users.parquet if there are users, each as a whole."""
    files.write_table(out / "items.parquet", items)
    if users is not None:
        files.write_table(out / "users.parquet", users)
