"""`python -m benchmarks.nearest --rung RUNG --artifacts ARTIFACTS`: the teacher's best items, searched exactly or found
by an index.

The teacher is that of a finished rung of the ladder. Its catalogue is made larger: each item comes many times, moved a
little. The histories are its own users'. Indexes are measured where their package is installed (`pip install faiss-cpu
usearch`); the project needs neither. One thread.

Shapes: P targets, N items, K best items, E numbers of all members of the teacher.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.harness import say
from unigrec.base.markdown import markdown_table
from unigrec.base.process import keep_quiet

keep_quiet()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.quality.steps import finished_rung, load_data  # noqa: E402
from unigrec.base import files  # noqa: E402
from unigrec.core.models.ensemble import members_of  # noqa: E402
from unigrec.core.sequences import sample  # noqa: E402
from unigrec.core.training.teacher_items import SCORES_OF_A_BLOCK, largest  # noqa: E402
from unigrec.pipeline.stages import retriever_of  # noqa: E402

ITEMS, TARGETS, BATCH, COUNT = 1_000_000, 1_300, 130, 128
MOVED = 0.5  # length of what a copy of an item differs by, as a share of the item's
LISTS, READ = 4096, (8, 32, 128)  # lists of an inverted file, and how many of them are read
LINKS, WIDTHS = 32, (128, 512)  # of a graph: links per item, and widths of a search
TRAINED = 200_000  # vectors that an index learns its lists from

Search = Callable[[np.ndarray], np.ndarray]  # states (P, E) -> items (P, K)


def teacher_vectors(artifacts: Path, rung: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the items (N, E) and states after the histories of some users (P, E); products are the scores."""
    data, params = load_data(artifacts), files.read_json(rung / "params.json")["params"]
    history, beam = params["joint"]["history"], params["evaluate"]["beam"]
    teacher = retriever_of(finished_rung(rung, data), history, beam=beam, device=torch.device("cpu")).dense.model
    users = sample(data.sequences.evaluation_users(), TARGETS, 0)
    past = data.sequences.held_out(users, "validation", history)
    items, lengths = torch.as_tensor(past.items), torch.as_tensor(past.lengths)
    last = torch.arange(items.shape[1]) == lengths[:, None] - 1
    with torch.inference_mode():
        states = torch.cat([part.hidden for part in teacher.states_at(items, lengths, last)], dim=1)
        vectors = torch.cat([member.item_vectors() for member in members_of(teacher)], dim=1)
    return vectors.numpy(), (states / len(members_of(teacher))).numpy()


def grown(vectors: np.ndarray, count: int) -> np.ndarray:
    """`count` vectors: copies of the given ones, moved."""
    generator = np.random.default_rng(0)
    rows = vectors[np.arange(count) % len(vectors)]
    for part in np.array_split(rows, max(count // 100_000, 1)):
        moved = generator.standard_normal(part.shape, dtype=np.float32)
        part += moved * (MOVED * np.linalg.norm(part, axis=1, keepdims=True) / part.shape[1] ** 0.5)
    return rows


def exact(vectors: np.ndarray) -> Iterator[tuple[str, Search]]:
    """As the trainings do."""
    table = torch.as_tensor(vectors)

    def search(states: np.ndarray) -> np.ndarray:
        given = torch.as_tensor(states)
        values, found = [], []
        for start in range(0, len(table), SCORES_OF_A_BLOCK // len(given)):
            block = table[start : start + SCORES_OF_A_BLOCK // len(given)]
            best, places = largest(given @ block.T, min(COUNT, len(block)))
            values.append(best)
            found.append(places + start)
        best = torch.cat(values, 1).topk(COUNT, dim=1).indices
        result: Tensor = torch.cat(found, 1).gather(1, best)
        return result.numpy()

    yield "exact", search


def faiss_lists(vectors: np.ndarray) -> Iterator[tuple[str, Search]]:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    lists = min(LISTS, max(len(vectors) // 50, 1))
    index = faiss.index_factory(vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[:TRAINED]])
    index.add(vectors)
    for read in READ:
        index.nprobe = read
        yield f"faiss, {read} of {lists} lists", lambda states: index.search(states, COUNT)[1]


def faiss_graph(vectors: np.ndarray) -> Iterator[tuple[str, Search]]:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)
    for width in WIDTHS:
        index.hnsw.efSearch = width
        yield f"faiss, graph, width {width}", lambda states: index.search(states, COUNT)[1]


def usearch_graph(vectors: np.ndarray) -> Iterator[tuple[str, Search]]:
    usearch = importlib.import_module("usearch.index")
    index = usearch.Index(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=LINKS)
    index.add(np.arange(len(vectors)), vectors, threads=1)
    for width in WIDTHS:
        index.expansion_search = width
        yield f"usearch, graph, width {width}", lambda states: index.search(states, COUNT, threads=1).keys


KINDS: dict[str, Callable[[np.ndarray], Iterator[tuple[str, Search]]]] = {
    "exact": exact,
    "lists": faiss_lists,
    "graph": faiss_graph,
    "usearch": usearch_graph,
}


def measured(kinds: list[str], vectors: np.ndarray, states: np.ndarray) -> list[dict[str, Any]]:
    """A row per search: CPU seconds, and what it finds of the exact search's items and of their probability."""
    rows: list[dict[str, Any]] = []
    batches = np.array_split(states, max(len(states) // BATCH, 1))
    ((_, search),) = exact(vectors)
    expected = np.concatenate([search(batch) for batch in batches])
    scores = np.einsum("pe,pke->pk", states, vectors[expected])
    mass = np.exp(scores - scores.max(1, keepdims=True))
    for kind in kinds:
        began = time.process_time()
        try:
            for name, search in KINDS[kind](vectors):
                built, spent = time.process_time() - began, []
                found = []
                for batch in batches:
                    start = time.process_time()
                    found.append(search(batch))
                    spent.append(time.process_time() - start)
                same = (expected[:, :, None] == np.concatenate(found)[:, None]).any(2)
                row = {"search": name, "built, s": built, "a batch, ms": float(np.median(spent)) * 1e3}
                rows.append(row | {"of the items": same.mean(), "of their mass": (mass * same).sum() / mass.sum()})
                say(f"nearest: {rows[-1]}")
        except ImportError as missing:
            say(f"nearest: {kind} is left out: {missing}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.nearest", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("--rung", type=Path, required=True, help="the folder of a finished rung")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    vectors, states = teacher_vectors(options.artifacts.absolute(), options.rung.absolute())
    rows = measured(options.kinds, grown(vectors, options.items), states)
    columns = list(rows[0])
    print(markdown_table(columns, [[_shown(row[column]) for column in columns] for row in rows]))


def _shown(value: Any) -> str:
    return f"{value:,.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
