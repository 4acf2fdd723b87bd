"""The servable model as one folder: what is registered, promoted and served. It holds no pickle and trusts nothing.

    manifest.json              schema, sha256 of every other file, data, code, metrics, whether the gates passed
    params.yaml                the params of the run, for the record
    recommender.safetensors    weights, with their shape in recommender.json
    tokenizer.safetensors      weights, with their shape in tokenizer.json
    identifiers.safetensors    codes int32 (N, T): T = L levels, and one more where a disambiguation code was added
    collaborative.safetensors  what the tokenizer read of the teacher, for a later training that starts from here
    catalogue.parquet          item_index, item_id, text columns, train_count
    ranks.parquet              each test user's rank of the held-out item, as the run found it; for the record
    text_encoder/              what embeds a new item's text
    report/                    closing metrics, curves and pictures of every stage, for the experiment tracker

`Bundle.load` checks names, sizes and hashes before it parses anything, then that the parts belong together.

Shapes: B histories, T codes of an identifier, L levels, N items.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.core.models.recommender import Recommender, RecommenderConfig
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.models.unified import embed_hard_history
from unigrec.core.retrieval.beam import CPU_BATCH, beam_search
from unigrec.core.retrieval.prefix_tree import PrefixTree, Restriction
from unigrec.serving.manifest import Serving, open_bundle

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

CATALOGUE_COLUMNS = ["item_index", "item_id", "train_count"]


class Recommendation(NamedTuple):
    """One item. `score` is a log-probability: of its identifier given the history, or of its share of interactions."""

    item_id: str
    title: str
    score: float


class Recommended(NamedTuple):
    """The answer to one history.

    items: at most k distinct items, best first. unknown: items of the history that the catalogue does not hold.
    by_popularity: nothing of the history is known (or it is empty), so these are the most popular items.
    """

    items: list[Recommendation]
    unknown: int
    by_popularity: bool


class Bundle:
    """A loaded bundle. Make one with `Bundle.load`."""

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        recommender: Recommender,
        codes: np.ndarray,
        catalogue: pa.Table,
    ):
        """codes: (N, T) int64. catalogue: N rows, as `_catalogue` reads them. `load` has checked that both fit."""
        self.folder, self.manifest, self.recommender = folder, manifest, recommender
        self.serving = Serving(**manifest["serving"])
        self.identifiers = codes
        self.tree = PrefixTree(codes)
        self.codes = torch.as_tensor(codes[:, : recommender.config.levels])  # (N, L), what a history is read as
        self.item_ids: list[str] = catalogue["item_id"].to_pylist()
        self.index_of = {item_id: index for index, item_id in enumerate(self.item_ids)}
        # What a person reads; stays in columns, where a million titles take the memory of their letters.
        self.titles: pa.Array = catalogue["title"].combine_chunks()
        counts = torch.as_tensor(catalogue["train_count"].to_numpy().astype(np.float64))
        self.popularity = ((counts + 1.0) / (counts + 1.0).sum()).log()  # (N,) smoothed, so that it is finite
        self.most_popular = counts.sort(descending=True, stable=True).indices  # (N,)

    @property
    def id(self) -> str:
        """A hash of the contents: equal for equal bundles, whenever and from whatever commit they were made."""
        return self.manifest["id"]

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Check and read a bundle.

        Raises:
            UnigrecError: a file is missing, unknown, changed, too large or not of its format, or the parts do not
                belong together; the message names the file.
        """
        manifest = open_bundle(folder)
        catalogue = _catalogue(folder, manifest["serving"]["text_columns"])
        recommender = _recommender(folder)
        codes = _codes(folder, recommender.config)
        _check_catalogue(folder, catalogue, len(codes))
        _check_tokenizer(folder, recommender.config)
        try:
            return cls(folder, manifest, recommender, codes, catalogue)
        except ValueError as error:  # two items with one identifier
            raise UnigrecError(f"{folder / 'identifiers.safetensors'}: {error}") from error

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        allow: Collection[str] | None = None,
        deny: Collection[str] | None = None,
        exclude_history: bool = False,
    ) -> list[Recommended]:
        """The k best items for each history.

        Items of a history that the catalogue does not hold are left out and counted. Where nothing is left, the most
        popular items are returned and marked as such: a shop has to show something to a new visitor.

        Args:
            histories: item ids, oldest first; the last `serving.history` known ones count.
            k: 1 to the size of the catalogue.
            allow: only these items may be recommended. deny: these may not. Unknown ids in both are ignored.
            exclude_history: nothing that is in a history is recommended for it.

        Raises:
            UnigrecError: k is out of range, or allow and deny leave nothing.
        """
        if not 1 <= k <= len(self.item_ids):
            raise UnigrecError(f"k = {k}: expected 1 to {len(self.item_ids)}, the size of the catalogue")
        allowed = self._allowed(allow, deny)
        known = [[self.index_of[item] for item in history if item in self.index_of] for history in histories]
        unknown = [len(history) - len(kept) for history, kept in zip(histories, known, strict=True)]
        asked = [row for row, history in enumerate(known) if history]
        answers = self._search([known[row] for row in asked], k, allowed, exclude_history)
        found = dict(zip(asked, answers, strict=True))
        popular = self._popular(k, allowed) if len(asked) < len(known) else []
        return [Recommended(found.get(row, popular), unknown[row], row not in found) for row in range(len(known))]

    def _allowed(self, allow: Collection[str] | None, deny: Collection[str] | None) -> torch.Tensor | None:
        """(N,) bool, or None where everything is allowed."""
        if allow is None and not deny:
            return None
        allowed = torch.full((len(self.item_ids),), allow is None)
        allowed[[self.index_of[item] for item in allow or () if item in self.index_of]] = True
        allowed[[self.index_of[item] for item in deny or () if item in self.index_of]] = False
        if not allowed.any():
            raise UnigrecError("the allow- and deny-list leave no item of the catalogue to recommend")
        return allowed

    def _search(
        self, known: list[list[int]], k: int, allowed: torch.Tensor | None, exclude_history: bool
    ) -> list[list[Recommendation]]:
        """Beam search for histories of catalogue indices, none empty."""
        longest, beam = self.serving.history, max(k, self.serving.beam)
        answers = []
        for start in range(0, len(known), CPU_BATCH):
            whole = known[start : start + CPU_BATCH]
            history, lengths = _padded([items[-longest:] for items in whole], fill=0)
            restriction = None
            if allowed is not None or exclude_history:
                denied = _padded(whole, fill=-1)[0] if exclude_history else None
                restriction = Restriction(self.tree, allowed, denied)
            source, mask = embed_hard_history(self.recommender, self.codes[history], lengths)
            found = beam_search(self.recommender, self.tree, source, mask, beam, restriction)
            for items, scores in zip(found.items.tolist(), found.scores.tolist(), strict=True):
                answers.append(self._named(items[:k], scores[:k]))
        return answers

    def _popular(self, k: int, allowed: torch.Tensor | None) -> list[Recommendation]:
        ranked = self.most_popular if allowed is None else self.most_popular[allowed[self.most_popular]]
        return self._named(ranked[:k].tolist(), self.popularity[ranked[:k]].tolist())

    def _named(self, items: list[int], scores: list[float]) -> list[Recommendation]:
        """-1 stands for no item."""
        return [
            Recommendation(self.item_ids[item], self.titles[item].as_py(), score)
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        ]


def _padded(rows: list[list[int]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of indices -> (B, n) padded on the right with `fill`, and (B,) lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), fill)
    for row, items in enumerate(rows):
        padded[row, : len(items)] = torch.tensor(items)
    return padded, lengths


def _catalogue(folder: Path, text_columns: Sequence[str]) -> pa.Table:
    """item_index, item_id, train_count and title: the first text column that there is, where none has that name.

    No other text is read. A null title becomes an empty one, and so does each where there is no text at all.
    """
    path = folder / "catalogue.parquet"
    for text in ("title", *text_columns):
        table = files.read_table(path, [*CATALOGUE_COLUMNS, text])
        _check_types(path, table)
        if text in table.column_names:
            return table.drop_columns(text).append_column("title", pc.fill_null(table[text], ""))
    table = files.read_table(path, CATALOGUE_COLUMNS)
    _check_types(path, table)
    return table.append_column("title", pa.repeat("", table.num_rows))


def _check_types(path: Path, table: pa.Table) -> None:
    """Numbers where numbers belong, text (or nothing at all) in every other column."""
    for field in table.schema:
        number = field.name in ("item_index", "train_count")
        kinds = [pa.types.is_integer] if number else [pa.types.is_string, pa.types.is_large_string, pa.types.is_null]
        if not any(is_kind(field.type) for is_kind in kinds):
            raise UnigrecError(f"{path}: column {field.name!r} is of type {field.type}")


def _recommender(folder: Path) -> Recommender:
    path, config_path = folder / "recommender.safetensors", folder / "recommender.json"
    try:
        weights = files.read_tensors(path)
        config = RecommenderConfig(**files.read_json(config_path))
        _refuse_more_layers(config.encoder_layers + config.decoder_layers, weights)
        with torch.device("meta"):  # nothing is allocated for shapes that the weights do not have
            recommender = Recommender(config)
        recommender.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError) as error:
        raise UnigrecError(f"{path}: the weights do not fit {config_path.name}: {error}") from error
    _check_finite(path, weights)
    return recommender.eval().requires_grad_(False)


def _check_tokenizer(folder: Path, config: RecommenderConfig) -> None:
    path = folder / "tokenizer.safetensors"
    try:
        weights = files.read_tensors(path)
        shape = files.read_json(folder / "tokenizer.json")
        _refuse_more_layers(len(shape["hidden"]), weights)
        with torch.device("meta"):
            tokenizer = Tokenizer(**shape)
        tokenizer.load_state_dict(weights, assign=True)
    except (TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, KeyError) as error:
        raise UnigrecError(f"{path}: the weights do not fit tokenizer.json: {error}") from error
    _check_finite(path, weights)
    if (tokenizer.levels, tokenizer.codebook_size) != (config.levels, config.codebook_size):
        raise UnigrecError(
            f"{path}: {tokenizer.levels} levels of {tokenizer.codebook_size} codewords, but the recommender reads "
            f"{config.levels} of {config.codebook_size}; these parts do not belong together"
        )


def _refuse_more_layers(layers: int, weights: dict[str, torch.Tensor]) -> None:
    """Even layers without memory take time to build. Raises ValueError."""
    if layers > len(weights):
        raise ValueError(f"{layers} layers, but {len(weights)} weights")


def _check_finite(path: Path, weights: dict[str, torch.Tensor]) -> None:
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UnigrecError(f"{path}: weights that are not finite: {', '.join(broken[:5])}")


def _codes(folder: Path, config: RecommenderConfig) -> np.ndarray:
    path = folder / "identifiers.safetensors"
    codes = files.read_arrays(path).get("codes")
    if codes is None or codes.dtype != np.int32 or codes.ndim != 2 or codes.shape[1] != len(config.code_sizes):
        found = "none" if codes is None else f"{codes.dtype} {codes.shape}"
        raise UnigrecError(f"{path}: expected codes int32 (N, {len(config.code_sizes)}), found {found}")
    outside = (codes < 0) | (codes >= np.array(config.code_sizes))
    if outside.any():
        raise UnigrecError(f"{path}: {int(outside.any(1).sum())} items have codes beyond {config.code_sizes}")
    return codes.astype(np.int64)


def _check_catalogue(folder: Path, catalogue: pa.Table, items: int) -> None:
    path = folder / "catalogue.parquet"
    missing = set(CATALOGUE_COLUMNS) - set(catalogue.column_names)
    if missing:
        raise UnigrecError(f"{path}: columns are missing: {', '.join(sorted(missing))}")
    if catalogue.num_rows != items:
        raise UnigrecError(f"{path}: {catalogue.num_rows} items, but identifiers for {items}")
    if not np.array_equal(catalogue["item_index"].to_numpy(), np.arange(items)):
        raise UnigrecError(f"{path}: item_index does not count the rows from 0")
    counts = catalogue["train_count"]
    if counts.null_count or pc.min(counts).as_py() < 0:
        raise UnigrecError(f"{path}: a train_count is null or negative")
    ids = catalogue["item_id"]
    if ids.null_count or len(ids.unique()) != items:
        raise UnigrecError(f"{path}: item ids are null or repeat")
