"""`unigrec score`: lists for all users of a file of interactions, as Parquet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.commands.bars import is_terminal
from unigrec.commands.recommend import read_lists
from unigrec.pipeline.progress import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from unigrec.config.schema import Params
    from unigrec.scoring.lists import Counts
    from unigrec.scoring.local import Progress, Watcher

LINE_SECONDS = 10.0  # between two lines in a log


def score(
    params: Params,
    model: str,
    histories: Path,
    out: Path,
    workers: int,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> str:
    """Write the lists of all users to a file; returns what was written, as lines.

    Args:
        model: alias, version number, or a bundle's folder. histories: Parquet, CSV or JSON lines, as the shop's
            interactions. workers: 0: one per core. allow, deny: as in `read_ids`. say: takes the lines of the
            run; None: they go to standard error, where a terminal shows a bar. options: further fields of
            `ListRequest`.

    Raises:
        UnigrecError: as `score_log`, or there is no such model.
    """
    from unigrec.base.process import cores, keep_few_products

    keep_few_products()
    import torch

    from unigrec.registry.versions import load_named_bundle
    from unigrec.scoring.local import Job, score_log
    from unigrec.serving.schema import ListRequest

    torch.set_num_threads(1)  # a worker per core; and a process with threads cannot be forked
    name, bundle = load_named_bundle(params.register_, model)
    allowed, denied = read_lists(bundle.index_of, allow, deny)
    request = ListRequest.parse(allow=allowed, deny=denied or None, **options)
    job = Job(bundle, name, request, log=histories, ingest=params.ingest, out=out)
    began = time.monotonic()
    with _watching(say) as watcher:
        counts = score_log(job, workers or cores(), watcher)
    return _told(counts, out, f"{name} (bundle {bundle.id})", time.monotonic() - began)


def _told(counts: Counts, out: Path, model: str, seconds: float) -> str:
    lines = [f"{out}: {counts.users:,} users, {counts.rows:,} rows, by {model}, in {duration(seconds)}"]
    if counts.unknown:
        lines.append(
            f"{counts.unknown:,} of {counts.interactions:,} items of the histories are not in the catalogue and were "
            "left out"
        )
    if counts.by_popularity:
        lines.append(f"{counts.by_popularity:,} users without a known item got the most popular items")
    return "\n".join(lines)


@contextmanager
def _watching(say: Callable[[str], None] | None) -> Iterator[Watcher]:
    """What shows a run: a bar on a terminal, else lines."""
    from unigrec.scoring.local import Watcher

    if say is not None or not is_terminal(sys.stderr):
        yield Watcher(say or _say, _Lines(say or _say).at)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, markup=False)
    columns = (
        TextColumn("score"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bars:
        task, began = bars.add_task("score", total=None, speed="reading"), time.monotonic()

        def at(progress: Any) -> None:
            speed = f"{progress.users / (time.monotonic() - began):,.0f} users/s" if progress.users else ""
            bars.update(task, total=progress.interactions, completed=progress.done, speed=speed)

        yield Watcher(lambda text: console.print(text, soft_wrap=True), at)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Lines:
    """A line now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.began = self.printed = time.monotonic()
        self.before: int | None = None  # interactions that were scored when this run was first seen: it may continue

    def at(self, progress: Progress) -> None:
        now = time.monotonic()
        if self.before is None:
            self.before, self.began = progress.done, now
        elif now - self.printed >= LINE_SECONDS:
            self.printed, taken = now, now - self.began
            left = taken / max(progress.done - self.before, 1) * (progress.interactions - progress.done)
            share = progress.done / progress.interactions
            self.say(f"score: {share:.0%}  {progress.users / taken:,.0f} users/s  left {duration(left)}")
