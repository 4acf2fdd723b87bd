"""`python -m benchmarks.word_search`: is the item that a user takes next found by words?

Queries of four kinds are made from the texts of each test user's held-out item (`unigrec.pipeline.queries`). Constants
and weights are compared on the validation items; the table is of the test items. docs/answers.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.process import keep_quiet, training_device

keep_quiet()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.quality.steps import finished_rung, load_data  # noqa: E402
from benchmarks.word_search import trained  # noqa: E402
from benchmarks.word_search.cases import FOUND_AT, Cases, cases_of  # noqa: E402
from unigrec.base import files, paths  # noqa: E402
from unigrec.core.retrieval.fused import FusedRetriever  # noqa: E402
from unigrec.core.retrieval.search import MEANING, AllScores, QueryCandidates, QueryScorer  # noqa: E402
from unigrec.core.retrieval.selection import Search  # noqa: E402
from unigrec.core.retrieval.word_index import WordIndex  # noqa: E402
from unigrec.core.sequences import sample  # noqa: E402
from unigrec.core.training.search_weight import WEIGHTS  # noqa: E402
from unigrec.pipeline.outputs import load_codes, load_unified  # noqa: E402
from unigrec.pipeline.queries import QueryKind  # noqa: E402
from unigrec.pipeline.stages import retriever_of  # noqa: E402
from unigrec.serving.search import QueryEncoder, catalogue_words  # noqa: E402

TEMPERATURES = (0.001, 0.1, 1.0)
CLOSENESS = (0.0, 10.0, 20.0, 40.0)
MEANINGS = (0.0, 0.05, 0.15, 0.3, 1.0)
Score = Callable[[Cases, int], Tensor]  # row -> (N,)
Find = Callable[[Cases, int], list[int]]  # row -> items, best first


class Ways:
    """The parts of a rung, and the ways to find items with them."""

    def __init__(self, artifacts: Path, rung: Path):
        self.data = load_data(artifacts)
        places, read = finished_rung(rung, self.data), files.read_json(rung / "params.json")
        params = read["params"]
        self.retriever: FusedRetriever = retriever_of(
            places, params["joint"]["history"], beam=params["evaluate"]["beam"], device=training_device()
        )
        encoder = QueryEncoder.load(self.data.artifacts.text_encoder, self.data.embeddings.shape[1])
        if encoder is None:
            raise UnigrecError("a language model embedded the texts; this benchmark measures tfidf-svd")
        self.encoder, self.codes = encoder, load_codes(places)
        catalogue = files.read_table(self.data.artifacts.catalogue)
        columns = files.read_json(self.data.artifacts.text_encoder / "settings.json")["text_columns"]
        self.texts = catalogue.select([name for name in columns if name in catalogue.column_names])
        index = WordIndex.of(catalogue_words(catalogue, columns))
        content = self.retriever.neighbours.content
        self.scorer = QueryScorer(index, load_unified(places).tokenizer, self.codes, content, _part(rung))

    def cases(self, which: str, users: np.ndarray) -> dict[QueryKind, Cases]:
        """The cases of each kind that the catalogue has the columns for."""
        found = {
            kind: cases_of(self.data.sequences, self.texts, self.encoder, which, users, kind) for kind in QueryKind
        }
        return {kind: cases for kind, cases in found.items() if cases is not None}

    def by_words(self, cases: Cases, row: int) -> Tensor:
        return self.scorer.index.scores(QueryEncoder.words(cases.queries[row]))

    def cosine(self, cases: Cases, row: int) -> Tensor:
        return self.scorer.content @ self._vector(cases, row)

    def by_codes(self, cases: Cases, row: int, temperature: float = 1.0) -> Tensor:
        return self.scorer.code_scores(self._vector(cases, row), temperature)

    def meaning(self, cases: Cases, row: int) -> Tensor:
        return self.scorer.meaning(self._vector(cases, row))

    def shipped(self, cases: Cases, row: int) -> Tensor:
        return self.scorer.scores(QueryEncoder.words(cases.queries[row]), cases.vectors[row])

    def _vector(self, cases: Cases, row: int) -> Tensor:
        vector = cases.vectors[row]
        return torch.zeros(self.scorer.content.shape[1]) if vector is None else vector

    def of_history(self, cases: Cases, row: int) -> Search:
        return lambda _, mask, k: self.retriever.retrieve([cases.histories[row]], k, mask)


def best(score: Score) -> Find:
    return lambda cases, row: np.argsort(-score(cases, row).numpy(), kind="stable")[:FOUND_AT].tolist()


def both(search: Callable[[Cases, int], Search], score: Score, weight: float) -> Find:
    def find(cases: Cases, row: int) -> list[int]:
        found = QueryCandidates.of(search(cases, row), AllScores(score(cases, row)), FOUND_AT, None)
        return found.ranked(weight, FOUND_AT).items[0].tolist()

    return find


def _sum(one: Score, other: Score, share: float) -> Score:
    return lambda cases, row: one(cases, row) + share * other(cases, row)


def recall(find: Find, cases: Cases) -> float:
    return cases.recall([find(cases, row) for row in range(len(cases.queries))])


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.word_search", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--steps", type=int, default=0, help="of training a query token, to compare with; 0: none")
    parser.add_argument("rung", type=Path, help="a finished rung of the ladder: OUT/seed-1/M14/KEY")
    options = parser.parse_args()
    try:
        run(Ways(options.artifacts, options.rung), options.users, options.steps)
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def run(ways: Ways, count: int, steps: int) -> None:
    users = sample(ways.data.sequences.evaluation_users(), count, 1)
    validation, test = (ways.cases(which, users) for which in ("validation", "test"))
    weight = choose_constants(ways, validation)
    finds: dict[str, Find] = {
        "BM25 over the texts": best(ways.by_words),
        "cosine of embeddings": best(ways.cosine),
        "codes alone": best(ways.by_codes),
        "meaning: codes and cosine": best(ways.meaning),
        "search, without a history": best(ways.shipped),
        "the history alone": lambda cases, row: ways.of_history(cases, row)([0], None, FOUND_AT).items[0].tolist(),
        f"search with the history, weight {weight:g}": both(ways.of_history, ways.shipped, weight),
        "BM25 with the history, the same weight": both(ways.of_history, ways.by_words, weight),
        "meaning with the history, weight 1": both(ways.of_history, ways.meaning, 1.0),
    }
    if steps:
        finds |= with_trained(ways, validation, steps)
    rows = []
    for name, find in finds.items():
        began = time.process_time()
        row = [f"{recall(find, cases):.4f}" for cases in test.values()]
        asked = sum(len(cases.queries) for cases in test.values())
        rows.append([name, *row, f"{1e3 * (time.process_time() - began) / asked:.1f}"])
        print(rows[-1], flush=True)
    heads = [f"{kind}: {len(cases.queries)}" for kind, cases in test.items()]
    print(f"\nRecall@{FOUND_AT} of test items by kind of query and number of queries\n")
    print(markdown_table(["", *heads, "CPU ms"], rows))


def choose_constants(ways: Ways, validation: dict[QueryKind, Cases]) -> float:
    """Print what each constant would find on validation items; returns the weight of a query next to a history."""
    title = validation[QueryKind.TITLE]
    for temperature in TEMPERATURES:
        codes = partial(ways.by_codes, temperature=temperature)
        scores = {share: recall(best(_sum(codes, ways.cosine, share)), title) for share in CLOSENESS}
        print(f"validation, codes at temperature {temperature:g}; closeness {_shown(scores)}", flush=True)
    for kind, cases in validation.items():
        scores = {share: recall(best(_sum(ways.by_words, ways.meaning, share)), cases) for share in MEANINGS}
        print(f"validation, {kind}: share of meaning (shipped: {MEANING:g}) {_shown(scores)}", flush=True)
    return _best_weight(ways.of_history, ways.shipped, validation, "search with the history")


def _best_weight(
    search: Callable[[Cases, int], Search], score: Score, validation: dict[QueryKind, Cases], name: str
) -> float:
    """The weight with the best Recall@10, the mean over the kinds of queries; prints all."""
    means = dict.fromkeys(WEIGHTS, 0.0)
    for cases in validation.values():
        lists: dict[float, list[list[int]]] = {weight: [] for weight in WEIGHTS}
        for row in range(len(cases.queries)):
            found = QueryCandidates.of(search(cases, row), AllScores(score(cases, row)), FOUND_AT, None)
            for weight in WEIGHTS:
                lists[weight].append(found.ranked(weight, FOUND_AT).items[0].tolist())
        means = {weight: means[weight] + cases.recall(lists[weight]) / len(validation) for weight in WEIGHTS}
    print(f"validation, {name}, weight {_shown(means)}", flush=True)
    return max(means, key=lambda weight: means[weight])


def with_trained(ways: Ways, validation: dict[QueryKind, Cases], steps: int) -> dict[str, Find]:
    """Ways with a query token, which is trained here."""
    generative = ways.retriever.generative
    token = trained.train(generative, ways.codes, ways.data.sequences, ways.texts, ways.encoder, steps)
    search = trained.TokenSearch(generative, token)

    def alone(cases: Cases, row: int, with_history: bool) -> list[int]:
        history = cases.histories[row] if with_history else []
        return search.find(ways._vector(cases, row), history, FOUND_AT).items[0].tolist()

    def of_token(cases: Cases, row: int) -> Search:
        return lambda _, mask, k: search.find(ways._vector(cases, row), cases.histories[row], k, mask)

    weight = _best_weight(of_token, ways.shipped, validation, "search with the trained token and the history")
    return {
        "trained token, without a history": partial(alone, with_history=False),
        "trained token, with the history": partial(alone, with_history=True),
        f"search with the trained token and the history, weight {weight:g}": both(of_token, ways.shipped, weight),
    }


def _shown(values: dict[float, float]) -> str:
    return ", ".join(f"{key:g}: {value:.4f}" for key, value in values.items())


def _part(rung: Path) -> Tensor:
    """(N, E) what the rung's tokenizer read of the teacher. Raises UnigrecError unless its seed has one tokenizer."""
    found = sorted(rung.absolute().parents[1].glob(f"tokenizer-*/{paths.COLLABORATIVE_FILE}"))
    if len(found) != 1:
        raise UnigrecError(f"{rung.parents[1]}: {len(found)} tokenizers; keep the results of one ladder per folder")
    return files.read_tensors(found[0])["part"]


if __name__ == "__main__":
    main()
