"""`python -m benchmarks.word_search`: is the item that a user takes next found by three words of its title?

The words are drawn from the title of each test user's held-out item. Temperature, closeness and weight are compared on
the validation items; the table is of the test items. docs/answers.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.process import keep_quiet, training_device

keep_quiet()

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.quality.steps import finished_rung, load_data  # noqa: E402
from unigrec.base import files, paths  # noqa: E402
from unigrec.core.retrieval.beam import BeamResult  # noqa: E402
from unigrec.core.retrieval.fused import FusedRetriever  # noqa: E402
from unigrec.core.retrieval.search import QueryScorer  # noqa: E402
from unigrec.core.sequences import sample  # noqa: E402
from unigrec.pipeline.outputs import load_codes, load_unified  # noqa: E402
from unigrec.pipeline.stages import retriever_of  # noqa: E402
from unigrec.serving.schema import SEARCH_WEIGHT  # noqa: E402
from unigrec.serving.search import QueryEncoder, with_history  # noqa: E402

WORDS, FOUND_AT = 3, 10
TEMPERATURES = (0.001, 0.03, 0.1, 0.3, 1.0)
CLOSENESS = (0.0, 10.0, 20.0, 40.0)
WEIGHTS = (0.3, 0.5, 1.0)
K1, B = 1.2, 0.75


class Bm25:
    """Okapi BM25 over the items' texts."""

    def __init__(self, texts: list[str]):
        documents = [Counter(QueryEncoder.words(text)) for text in texts]
        lengths = np.array([sum(document.values()) for document in documents], float)
        self.lengths = K1 * (1 - B + B * lengths / lengths.mean())
        self.items: dict[str, tuple[list[int], list[int]]] = {}
        for item, document in enumerate(documents):
            for word, count in document.items():
                places, counts = self.items.setdefault(word, ([], []))
                places.append(item)
                counts.append(count)

    def scores(self, query: str) -> np.ndarray:
        """(N,)"""
        found, total = np.zeros(len(self.lengths)), len(self.lengths)
        for word in QueryEncoder.words(query):
            places, counts = (np.array(part) for part in self.items.get(word, ([], [])))
            if len(places):
                idf = math.log(1 + (total - len(places) + 0.5) / (len(places) + 0.5))
                found[places] += idf * counts * (K1 + 1) / (counts + self.lengths[places])
        return found


def queries_of(titles: list[str | None], items: np.ndarray, seed: int) -> list[str | None]:
    """Three words of each item's title, drawn; None for a title of fewer."""
    generator = np.random.default_rng(seed)
    queries: list[str | None] = []
    for item in items.tolist():
        words = list(dict.fromkeys(QueryEncoder.words(titles[item] or "")))
        drawn = sorted(generator.choice(len(words), WORDS, replace=False)) if len(words) >= WORDS else None
        queries.append(None if drawn is None else " ".join(words[place] for place in drawn))
    return queries


class Cases:
    """Queries with the histories before the wanted items."""

    def __init__(self, histories: list[list[int]], wanted: list[int], queries: list[str]):
        self.histories, self.wanted, self.queries = histories, wanted, queries

    def recall(self, lists: list[list[int]]) -> float:
        return float(np.mean([item in found[:FOUND_AT] for item, found in zip(self.wanted, lists, strict=True)]))


def cases_of(sequences, titles: list[str | None], which: str, users: np.ndarray) -> Cases:
    held_out = sequences.held_out(users, which, 50)
    queries = queries_of(titles, held_out.targets, seed=1)
    kept = [row for row, query in enumerate(queries) if query is not None]
    return Cases(
        [held_out.items[row, : held_out.lengths[row]].tolist() for row in kept],
        [int(held_out.targets[row]) for row in kept],
        [str(queries[row]) for row in kept],
    )


def best(scores: Tensor | np.ndarray) -> list[int]:
    return np.argsort(-np.asarray(scores), kind="stable")[:FOUND_AT].tolist()


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.word_search", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("rung", type=Path, help="a finished rung of the ladder: OUT/seed-1/M13/KEY")
    options = parser.parse_args()
    try:
        run(options.artifacts, options.rung, options.users)
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def run(artifacts: Path, rung: Path, count: int) -> None:
    data, device = load_data(artifacts), training_device()
    places, read = finished_rung(rung, data), files.read_json(rung / "params.json")
    params = read["params"]
    retriever = retriever_of(places, params["joint"]["history"], beam=params["evaluate"]["beam"], device=device)
    tokenizer = load_unified(places).tokenizer
    part = _part(rung)
    scorer = QueryScorer(tokenizer, load_codes(places), retriever.neighbours.content, part)
    encoder = QueryEncoder.load(data.artifacts.text_encoder, data.embeddings.shape[1])
    catalogue = files.read_table(data.artifacts.catalogue)
    titles = catalogue["title"].to_pylist()
    users = sample(data.sequences.evaluation_users(), count, 1)
    validation, test = (cases_of(data.sequences, titles, which, users) for which in ("validation", "test"))

    def embedded(cases: Cases) -> list[Tensor]:
        vectors = [encoder.vector(query) for query in cases.queries]
        return [torch.zeros(data.embeddings.shape[1]) if vector is None else vector for vector in vectors]

    vectors = embedded(validation)
    for temperature in TEMPERATURES:
        codes = [scorer.code_scores(vector, temperature) for vector in vectors]
        near = [scorer.content @ vector for vector in vectors]
        line = [
            validation.recall([best(c + share * n) for c, n in zip(codes, near, strict=True)]) for share in CLOSENESS
        ]
        shown = ", ".join(f"{share:g}: {value:.4f}" for share, value in zip(CLOSENESS, line, strict=True))
        print(f"validation, temperature {temperature:g}; closeness {shown}", flush=True)
    _histories(retriever, scorer, validation, vectors, WEIGHTS, "validation")

    vectors, bm25 = (
        embedded(test),
        Bm25(_texts(catalogue.select([name for name in encoder.text_columns if name in catalogue.column_names]))),
    )
    ways: dict[str, Callable[[int], Tensor | np.ndarray]] = {
        "codes alone": lambda row: scorer.code_scores(vectors[row]),
        "search: codes and cosine": lambda row: scorer.scores(vectors[row]),
        "cosine of embeddings": lambda row: scorer.content @ vectors[row],
        "BM25": lambda row: bm25.scores(test.queries[row]),
    }
    rows = []
    for name, score in ways.items():
        began = time.process_time()
        lists = [best(score(row)) for row in range(len(vectors))]
        taken = 1e3 * (time.process_time() - began) / len(vectors)
        rows.append([name, f"{test.recall(lists):.4f}", f"{taken:.2f}"])
    rows += _histories(retriever, scorer, test, vectors, (0.0, SEARCH_WEIGHT), "test")
    print(f"\n{len(test.queries)} queries of test users\n")
    print(markdown_table(["", f"Recall@{FOUND_AT}", "CPU ms"], rows))


def _texts(columns: pa.Table) -> list[str]:
    return [". ".join(filter(None, row)) for row in zip(*columns.to_pydict().values(), strict=True)]


def _part(rung: Path) -> Tensor:
    """(N, E) what the rung's tokenizer read of the teacher. Raises UnigrecError unless its seed has one tokenizer."""
    found = sorted(rung.absolute().parents[1].glob(f"tokenizer-*/{paths.COLLABORATIVE_FILE}"))
    if len(found) != 1:
        raise UnigrecError(f"{rung.parents[1]}: {len(found)} tokenizers; keep the results of one ladder per folder")
    return files.read_tensors(found[0])["part"]


def _histories(
    retriever: FusedRetriever, scorer: QueryScorer, cases: Cases, vectors: list[Tensor], weights, which: str
) -> list[list[str]]:
    """Rows of the table: what a history adds, for each weight."""
    rows = []
    for weight in weights:
        began = time.process_time()
        lists = []
        for history, vector in zip(cases.histories, vectors, strict=True):

            def by_history(_: object, mask: Tensor | None, k: int, history: list[int] = history) -> BeamResult:
                return retriever.retrieve([history], k, mask)

            found = with_history(by_history, scorer.scores(vector), weight=weight, k=FOUND_AT, allowed=None)
            lists.append(found.items[0].tolist())
        taken = 1e3 * (time.process_time() - began) / len(vectors)
        print(f"{which}, with the history, weight {weight:g}: {cases.recall(lists):.4f}", flush=True)
        name = "the history alone (weight 0)" if weight == 0 else f"search with the history, weight {weight:g}"
        rows.append([name, f"{cases.recall(lists):.4f}", f"{taken:.2f}"])
    return rows


if __name__ == "__main__":
    main()
