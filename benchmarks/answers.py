"""`python -m benchmarks.answers BUNDLE`: the time of each kind of request to a bundle, in one process, one thread.

With `--items N` in place of a bundle: one of the paper's size with random weights and N items.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.process import keep_quiet

keep_quiet()

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import torch  # noqa: E402

from benchmarks.speed.harness import milliseconds  # noqa: E402
from benchmarks.speed.served import shipped_params, write_bundle  # noqa: E402
from unigrec.core.retrieval.rank_by import RankBy  # noqa: E402
from unigrec.serving.bundle import Bundle  # noqa: E402
from unigrec.serving.extend import add_items  # noqa: E402
from unigrec.serving.features import item_features, user_features  # noqa: E402
from unigrec.serving.schema import Diversity, NewShare  # noqa: E402

REQUESTS, WARM_UP, LONGEST = 100, 5, 12
USERS, ADDED, TIMES = 1000, 100, 3  # of what is asked about many users, or of the catalogue
TEMPERATURE = 0.01  # of exported soft codes
Ask = Callable[[list[str]], object]  # a history, oldest first


def requests_of(bundle: Bundle) -> dict[str, Ask]:
    """A request of each kind, k = 10. Words are three of the last item's title."""
    titles = dict(zip(bundle.item_ids, bundle.titles, strict=True))
    half = f"item_index < {len(bundle.item_ids) // 2}"
    diversity, new = Diversity(per="first code", at_most=1), NewShare(days=30, at_least=3)

    def words(history: list[str]) -> str:
        return " ".join(titles[history[-1]].split()[-3:])

    return {
        "`recommend`": lambda history: bundle.recommend([history]),
        "with a filter that half of the items pass": lambda history: bundle.recommend([history], filter=half),
        "with `diversity`, 1 per first code": lambda history: bundle.recommend([history], diversity=diversity),
        "with `new_share`, at least 3": lambda history: bundle.recommend([history], new_share=new),
        "with a `boost` of half of the items": lambda history: bundle.recommend([history], boost={half: 0.3}),
        "with `reasons`": lambda history: bundle.recommend([history], reasons=True),
        "`similar`": lambda history: bundle.similar(history[-1]),
        "`complement`": lambda history: bundle.complement(history[-3:]),
        "`search`": lambda history: bundle.search(words(history)),
        "`search` with a history": lambda history: bundle.search(words(history), history=history[:-1]),
        "`item`": lambda history: bundle.item(history[-1]),
    }


def tasks_of(bundle: Bundle, histories: list[list[str]]) -> dict[str, Callable[[], object]]:
    """What is asked about many users, and of the whole catalogue."""
    item, half = bundle.item_ids[0], len(histories) // 2
    users = [f"U{number}" for number in range(len(histories))]
    added = min(ADDED, len(bundle.item_ids) // 8)
    titles = [title or "untitled" for title in bundle.titles[-added:]]
    new = pa.table({"item_id": [f"new {number}" for number in range(added)], "title": titles})
    return {
        f"`audience` of {len(histories)} users": lambda: bundle.audience(item, histories),
        f"`lookalike` of {len(histories)} users": lambda: bundle.lookalike(histories[:half], histories[half:]),
        f"`segments` of {len(histories)} users": lambda: bundle.segments(histories),
        "`export-features` of all items": lambda: item_features(bundle, TEMPERATURE),
        f"`export-features` of {len(histories)} users": lambda: user_features(bundle, users, histories),
        f"`add-items` of {added} items, without loading the child": lambda: add_items(bundle.folder, new, 0),
    }


def drawn_histories(bundle: Bundle, count: int) -> list[list[str]]:
    """Of items with a title."""
    generator = np.random.default_rng(0)
    titled = [item for item, title in zip(bundle.item_ids, bundle.titles, strict=True) if title]
    return [
        [titled[place] for place in generator.integers(0, len(titled), generator.integers(2, LONGEST + 1))]
        for _ in range(count)
    ]


def measure(bundle: Bundle, count: int = REQUESTS) -> dict[str, list[float]]:
    """CPU milliseconds of each request of each kind that the bundle can answer; the kinds take turns."""
    taken: dict[str, list[float]] = {}
    histories = drawn_histories(bundle, count + WARM_UP)
    kinds = {name: ask for name, ask in requests_of(bundle).items() if _is_answered(name, ask, histories[0])}
    for history in histories:
        for name, ask in kinds.items():
            taken.setdefault(name, []).append(milliseconds(lambda ask=ask, history=history: ask(history)))  # type: ignore[misc]
    return {name: values[WARM_UP:] for name, values in taken.items()}


def _is_answered(name: str, ask: Ask, history: list[str]) -> bool:
    try:
        ask(history)
    except UnigrecError as error:
        print(f"not measured: {name}: {error}", flush=True)
        return False
    return True


def measure_tasks(bundle: Bundle, users: int = USERS, times: int = TIMES) -> dict[str, list[float]]:
    """CPU milliseconds of each task, each time; what they write goes into a folder that is removed."""
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        tasks = tasks_of(bundle, drawn_histories(bundle, users))
        return {name: [milliseconds(task) for _ in range(times)] for name, task in tasks.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.answers", description=__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, help="its folder: state/bundles/ID")
    parser.add_argument("--items", type=int, help="of a bundle with random weights, in place of a bundle")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of each kind")
    parser.add_argument(
        "--users",
        type=int,
        default=USERS,
        help="of requests about many users; 0: leaves out what takes long",
    )
    options = parser.parse_args(arguments)
    if (options.bundle is None) == (options.items is None):
        parser.error("name a bundle's folder, or --items")
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            made = options.bundle or write_bundle(Path(temporary), options.items, shipped_params(quick=False))
            bundle = Bundle.load(made.absolute())
            if options.bundle is None:
                bundle.ranks_by = RankBy.FUSED  # as a trained bundle ranks
            loaded = milliseconds(bundle.warm_up)
            print(f"what the first search and the first reasons read: {loaded:.0f} ms of CPU", flush=True)
            found = measure(bundle, options.requests)
            if options.users:
                found |= measure_tasks(bundle, options.users)
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    rows = [[name, *(f"{np.percentile(values, share):.1f}" for share in (50, 95))] for name, values in found.items()]
    print(markdown_table(["request", "CPU ms", "95th percentile"], rows))


if __name__ == "__main__":
    main()
