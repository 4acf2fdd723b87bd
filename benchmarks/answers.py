"""`python -m benchmarks.answers BUNDLE`: the time of each kind of request to a bundle, in one process, one thread."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.process import keep_quiet

keep_quiet()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from unigrec.serving.bundle import Bundle  # noqa: E402
from unigrec.serving.schema import Diversity, NewShare  # noqa: E402

REQUESTS, WARM_UP, LONGEST = 100, 5, 12
Ask = Callable[[list[str]], object]  # a history, oldest first


def requests_of(bundle: Bundle) -> dict[str, Ask]:
    """A request of each kind, k = 10. Words are those of the last item's title."""
    titles = dict(zip(bundle.item_ids, bundle.titles.to_pylist(), strict=True))
    half = f"item_index < {len(bundle.item_ids) // 2}"
    diversity, new = Diversity(per="first code", at_most=1), NewShare(days=30, at_least=3)
    return {
        "recommend": lambda history: bundle.recommend([history]),
        "with a filter that half of the items pass": lambda history: bundle.recommend([history], filter=half),
        "with diversity, 1 per first code": lambda history: bundle.recommend([history], diversity=diversity),
        "with new_share, at least 3": lambda history: bundle.recommend([history], new_share=new),
        "with a boost of half of the items": lambda history: bundle.recommend([history], boost={half: 0.3}),
        "with reasons": lambda history: bundle.recommend([history], reasons=True),
        "similar": lambda history: bundle.similar(history[-1]),
        "complement": lambda history: bundle.complement(history[-3:]),
        "search": lambda history: bundle.search(titles[history[-1]]),
        "search with a history": lambda history: bundle.search(titles[history[-1]], history=history[:-1]),
    }


def measure(bundle: Bundle, count: int = REQUESTS) -> dict[str, list[float]]:
    """CPU milliseconds of each request of each kind; the kinds take turns."""
    generator = np.random.default_rng(0)
    titled = [item for item, title in zip(bundle.item_ids, bundle.titles.to_pylist(), strict=True) if title]
    taken: dict[str, list[float]] = {}
    kinds = requests_of(bundle)
    for _ in range(count + WARM_UP):
        history = generator.choice(titled, generator.integers(2, LONGEST + 1)).tolist()
        for name, ask in kinds.items():
            began = time.process_time()
            ask(history)
            taken.setdefault(name, []).append(1e3 * (time.process_time() - began))
    return {name: values[WARM_UP:] for name, values in taken.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.answers", description=__doc__)
    parser.add_argument("bundle", type=Path, help="its folder: state/bundles/ID")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        found = measure(Bundle.load(options.bundle))
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    rows = [[name, *(f"{np.percentile(values, share):.1f}" for share in (50, 95))] for name, values in found.items()]
    print(markdown_table(["request", "CPU ms", "95th percentile"], rows))


if __name__ == "__main__":
    main()
