"""`python -m benchmarks.large_serving`: load, memory, requests and batches of a bundle as its catalogue grows.

Bundles have the paper's size and random weights. A load is measured as of an earlier version, which computes all; the
first one, which hashes and checks all files; and a later one. With `--bundle BUNDLE`, of a bundle that exists.

With `--rung RUNG --artifacts ARTIFACTS`, of a finished rung of the ladder: what reading the best cells costs in
quality, against scanning all items; with `--search`, of searches by words.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.harness import in_child, milliseconds, say
from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.process import keep_quiet

keep_quiet()

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.quality.steps import finished_rung, load_data  # noqa: E402
from benchmarks.speed.served import shipped_params, write_bundle  # noqa: E402
from benchmarks.word_search.__main__ import Ways  # noqa: E402
from benchmarks.word_search.cases import FOUND_AT  # noqa: E402
from unigrec.base import files  # noqa: E402
from unigrec.core.evaluation.metrics import rank_in_list, ranking_metrics  # noqa: E402
from unigrec.core.retrieval import cells, dense, pools, search  # noqa: E402
from unigrec.core.retrieval.cells import Cells  # noqa: E402
from unigrec.core.retrieval.dense import DenseRetriever  # noqa: E402
from unigrec.core.retrieval.fused import FusedRetriever  # noqa: E402
from unigrec.core.retrieval.neighbours import Neighbours, Pairs  # noqa: E402
from unigrec.core.retrieval.prefix_tree import PrefixTree  # noqa: E402
from unigrec.core.retrieval.rank_by import RankBy  # noqa: E402
from unigrec.core.retrieval.retriever import CPU, Retriever  # noqa: E402
from unigrec.core.retrieval.search import QueryScorer  # noqa: E402
from unigrec.core.sequences import Sequences, in_chunks, sample  # noqa: E402
from unigrec.pipeline.stages import retriever_of  # noqa: E402
from unigrec.serving.bundle import Bundle  # noqa: E402
from unigrec.serving.manifest import COMPUTED, IDENTIFIERS, MANIFEST, identity, read_manifest  # noqa: E402
from unigrec.serving.search import QueryEncoder  # noqa: E402

SIZES = (10_000, 100_000, 1_000_000)
REQUESTS, LONGEST, BATCH, BATCHES = 40, 12, 64, 3
SCANNED = 1_000_000  # items of the largest catalogue that is scanned for comparison
DEPTHS, SHARES = (1, 2), (1.0, 0.1, 0.03, 0.01)  # of the prefixes of a trained bundle; of its items that are read
TESTED, SEARCHED = 4000, 300  # users


def write(folder: str, items: int) -> str:
    """Write a bundle; returns its folder."""
    return str(write_bundle(Path(folder), items, shipped_params(quick=False)))


def load(bundle: str, folder: str, warm_up: bool) -> dict[str, float]:
    """Seconds of a load, in a folder where loads are remembered. Runs in a process of its own."""
    with chdir(folder):
        clock, cpu = time.perf_counter(), time.process_time()
        loaded = Bundle.load(Path(bundle))
        found = {"load s": time.perf_counter() - clock, "load CPU s": time.process_time() - cpu}
        if warm_up:
            cpu = time.process_time()
            loaded.warm_up()
            found["words CPU s"] = time.process_time() - cpu
    return found


def without_computed(bundle: Path, folder: Path) -> Path:
    """A bundle of the same files, as earlier versions wrote it."""
    earlier, manifest = folder / "earlier", read_manifest(bundle)
    for name in manifest["files"]:
        if name != COMPUTED:
            (earlier / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(bundle / name, earlier / name)
    listed = {name: digest for name, digest in manifest["files"].items() if name != COMPUTED}
    files.write_json(earlier / MANIFEST, manifest | {"files": listed, "id": identity(listed)})
    return earlier


def serve(bundle: str, folder: str) -> list[dict[str, Any]]:
    """A row per kind of ranking, and per other question. Runs in a process of its own."""
    with chdir(folder):
        loaded = Bundle.load(Path(bundle))
    known: dict[str, Any] = dict(zip(("private GB", "mapped GB"), _memory(), strict=True))
    items = len(loaded.item_ids)
    generator = np.random.default_rng(0)
    histories = [
        [loaded.item_ids[int(place)] for place in generator.integers(0, items, generator.integers(2, LONGEST + 1))]
        for _ in range(max(REQUESTS, BATCH * BATCHES))
    ]
    rows = [known | {"ranking": by.value} | _times(loaded, by, histories) for by in RankBy]
    rows += [known | {"ranking": name} | times for name, times in _other_times(loaded, histories).items()]
    fused = loaded.retrievers[RankBy.FUSED]
    assert isinstance(fused, FusedRetriever)
    if fused.dense.cells is not None and items <= SCANNED:
        all_scored = DenseRetriever(fused.dense.model, fused.tree, CPU, scanned=items)
        held = fused.neighbours
        counted = (held.successors, held.together)
        follow, together = (Pairs(part.starts, part.items.long(), part.weights.float()) for part in counted)
        whole = Neighbours(follow, together, held.content.float())
        scan = FusedRetriever(fused.generative, all_scored, whole)
        scan.weights = fused.weights
        loaded.retrievers |= {RankBy.FUSED: scan}
        rows.append(known | {"ranking": "fused, scanned"} | _times(loaded, RankBy.FUSED, histories))
    return rows


def _times(bundle: Bundle, by: RankBy, histories: list[list[str]]) -> dict[str, float]:
    """CPU milliseconds of requests, and of a history in a batch."""
    bundle.recommend(histories[:1], rank_by=by)
    one = [milliseconds(partial(bundle.recommend, [history], rank_by=by)) for history in histories[:REQUESTS]]
    parts = [histories[start : start + BATCH] for start in range(0, BATCH * BATCHES, BATCH)]
    many = [milliseconds(partial(bundle.rank, part, rank_by=by)) / BATCH for part in parts]
    return {
        "request ms": float(np.median(one)),
        "p99": float(np.percentile(one, 99)),
        "ms of one in a batch": float(np.median(many)),
    }


def _other_times(bundle: Bundle, histories: list[list[str]]) -> dict[str, dict[str, float]]:
    """CPU milliseconds of other questions. Queries are the second and third word of an item's title."""
    asked = [bundle.item(history[0]) for history in histories[:REQUESTS]]
    queries = [" ".join((item.title or "").split()[1:3]) for item in asked]
    rows = range(REQUESTS)
    questions: dict[str, Callable[[int], object]] = {
        "search": lambda row: bundle.search(queries[row]),
        "search, with a history": lambda row: bundle.search(queries[row], history=histories[row]),
        "similar": lambda row: bundle.similar(histories[row][0]),
        "complement": lambda row: bundle.complement(histories[row][:2]),
        "reasons": lambda row: bundle.recommend([histories[row]], reasons=True),
    }
    found = {}
    for name, ask in questions.items():
        ask(0)
        times = [milliseconds(partial(ask, row)) for row in rows]
        found[name] = {"request ms": float(np.median(times)), "p99": float(np.percentile(times, 99))}
    return found


def _memory() -> tuple[float, float]:
    """GB of this process that are its own, and that are pages of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) / 1e6 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def measured(items: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        bundle, usage = in_child(write, folder=folder, items=items)
        say(f"large_serving: a bundle of {items:,} items is written, peak {usage.peak / 1e9:.1f} GB")
        return of_bundle(Path(bundle))


def of_bundle(bundle: Path) -> list[dict[str, Any]]:
    """Loads and answers of a bundle."""
    with tempfile.TemporaryDirectory(dir=bundle.parent, prefix=".measured-") as place:
        Path(place, "state").mkdir()
        rows: list[dict[str, Any]] = []
        if COMPUTED in read_manifest(bundle)["files"]:
            earlier = str(without_computed(bundle, Path(place)))
            # A folder without `state`: nothing is remembered.
            found, _ = in_child(load, bundle=earlier, folder=earlier, warm_up=False)
            rows.append({"ranking": "load of an earlier version", **found})
        for name in ("first load", "later load"):
            found, _ = in_child(load, bundle=str(bundle), folder=place, warm_up=True)
            rows.append({"ranking": name, **found})
        answers, usage = in_child(serve, bundle=str(bundle), folder=place)
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    items = files.read_arrays(bundle / IDENTIFIERS)["codes"].shape[0]
    for row in rows + answers:
        row |= {"items": items, "files GB": size / 1e9, "peak GB": usage.peak / 1e9}
        say(f"large_serving: {row}")
    return rows + answers


def quality(artifacts: Path, rung: Path) -> list[dict[str, Any]]:
    """Lists of ten for test users, by a scan and by cells of two sizes: metrics, and the items shared with the scan."""
    data, params = load_data(artifacts), files.read_json(rung / "params.json")["params"]
    history, beam = params["joint"]["history"], params["evaluate"]["beam"]
    scan = retriever_of(finished_rung(rung, data), history, beam=beam, device=CPU)
    users, items = sample(data.sequences.evaluation_users(), TESTED, 0), len(scan.tree)
    expected, targets = _lists(scan, data.sequences, users)
    rows: list[dict[str, Any]] = [{"items of a cell": "", "read": "all", **_judged(expected, targets)}]
    for depth in DEPTHS:
        cells.MOST_CELLS = len(scan.tree.levels[depth].code)
        large = DenseRetriever(scan.dense.model, scan.tree, CPU, scanned=0)
        fused = FusedRetriever(scan.generative, large, scan.neighbours)
        fused.weights = scan.weights
        for share in SHARES:
            dense.READ = pools.READ_BY_CONTENT = round(share * items)
            lists, _ = _lists(fused, data.sequences, users)
            shared = (lists[:, :, None] == expected[:, None]).any(2).mean()
            row = {"items of a cell": items / cells.MOST_CELLS, "read": f"{share:.0%}", **_judged(lists, targets)}
            rows.append(row | {"shared with the scan": float(shared)})
            say(f"large_serving: {rows[-1]}")
    return rows


def search_quality(artifacts: Path, rung: Path) -> list[dict[str, Any]]:
    """As `quality`, of searches by queries that are made from the texts of test items."""
    ways = Ways(artifacts, rung)
    held, items = ways.scorer, len(ways.codes)
    tree = PrefixTree(ways.codes)
    users = sample(ways.data.sequences.evaluation_users(), SEARCHED, 1)
    rows = []
    for kind, cases in ways.cases("test", users).items():
        asked = [(QueryEncoder.words(query), cases.vectors[row]) for row, query in enumerate(cases.queries)]
        expected = [held.asked(*one).best(FOUND_AT).items[0].tolist() for one in asked]
        rows.append({"queries": kind.value, "read": "all", "Recall@10": cases.recall(expected)})
        for depth in DEPTHS:
            cells.MOST_CELLS = len(tree.levels[depth].code)
            in_cells = Cells(tree, [held.content])
            large = QueryScorer(held.index, held.tokenizer, ways.codes, held.content, held.part, in_cells)
            for share in SHARES[1:]:
                search.READ = round(share * items)
                lists = [large.asked(*one).best(FOUND_AT).items[0].tolist() for one in asked]
                shared = [len({*one} & {*other}) / FOUND_AT for one, other in zip(lists, expected, strict=True)]
                row = {"queries": kind.value, "items of a cell": items / cells.MOST_CELLS, "read": f"{share:.0%}"}
                rows.append(row | {"Recall@10": cases.recall(lists), "shared with the scan": float(np.mean(shared))})
        say(f"large_serving: {rows[-1]}")
    return rows + _nearest_texts(tree, held.content)


def _nearest_texts(tree: PrefixTree, content: Tensor) -> list[dict[str, Any]]:
    """Of the ten items with the nearest texts, which stand in for one without a basket: the share that cells find."""
    asked = content[torch.randperm(len(content), generator=torch.Generator().manual_seed(0))[:SEARCHED]]
    expected = (asked @ content.T).topk(FOUND_AT).indices
    rows = []
    for depth in DEPTHS:
        cells.MOST_CELLS = len(tree.levels[depth].code)
        in_cells = Cells(tree, [content])
        for share in SHARES[1:]:
            items, scores = in_cells.nearest([asked], round(share * len(content)))
            found = items.gather(1, scores.topk(FOUND_AT).indices)
            shared = (found[:, :, None] == expected[:, None]).any(2).float().mean()
            row = {"queries": "nearest texts", "items of a cell": len(content) / cells.MOST_CELLS}
            rows.append(row | {"read": f"{share:.0%}", "shared with the scan": float(shared)})
    return rows


def _lists(retriever: Retriever, sequences: Sequences, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ten best items of each user (U, 10), and the test items (U,)."""
    found, targets = [], []
    for rows in in_chunks(users, BATCH):
        past = sequences.held_out(rows, "test", retriever.history)
        found.append(retriever.best(past.items, past.lengths, None, 10).items[:, :10].numpy())
        targets.append(past.targets)
    return np.concatenate(found), np.concatenate(targets)


def _judged(lists: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    ranks = rank_in_list(torch.as_tensor(lists), torch.as_tensor(targets)).numpy()
    return ranking_metrics(ranks, [10])


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.large_serving", description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=SIZES)
    parser.add_argument("--bundle", type=Path, help="a bundle that exists, in place of generated ones")
    parser.add_argument("--search", action="store_true", help="with a rung: of searches by words")
    parser.add_argument("--artifacts", type=Path, help="a project's artifacts folder")
    parser.add_argument("--rung", type=Path, help="the folder of a finished rung")
    options = parser.parse_args()
    if (options.rung is None) != (options.artifacts is None):
        parser.error("--rung and --artifacts belong together")
    try:
        if options.rung is not None:
            judge = search_quality if options.search else quality
            rows = judge(options.artifacts.absolute(), options.rung.absolute())
        elif options.bundle is not None:
            rows = of_bundle(options.bundle.absolute())
        else:
            rows = [row for items in options.items for row in measured(items)]
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print(markdown_table(columns, [[_shown(row.get(column, "")) for column in columns] for row in rows]))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if value < 1.0 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    from benchmarks.large_serving import main as run  # child processes find the functions of a module by its name

    run()
