"""`python -m benchmarks.score BUNDLE`: lists for many users, by users, by workers, and against one request per user."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.harness import Usage, in_child, say
from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table

USERS, MEAN_LENGTH, DAY = (10_000, 100_000, 1_000_000), 10, 86_400
ROUNDS = 3  # of the comparisons, in turn
ALONE = 500  # users that are asked for one at a time


def draw_log(bundle: str, users: int, path: str) -> int:
    """Write a log of users with about ten items each, drawn by popularity; in the order of time, as shops have it.

    Returns the number of interactions.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from unigrec.serving.bundle import Bundle

    loaded = Bundle.load(Path(bundle))
    share = loaded.popularity.scores().double().exp().numpy()
    items = pa.array(loaded.item_ids[: loaded.trained])
    generator = np.random.default_rng(0)
    lengths = 1 + generator.poisson(MEAN_LENGTH - 1, users)
    ids = pa.array([f"U{user:07}" for user in range(users)])
    schema = pa.schema({"user_id": pa.string(), "item_id": pa.string(), "timestamp": pa.int64()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for step in range(int(lengths.max())):
            active = generator.permutation(np.flatnonzero(lengths > step))
            chosen = generator.choice(len(share), len(active), p=share / share.sum())
            times = 1_700_000_000 + step * DAY + np.sort(generator.integers(0, DAY, len(active)))
            writer.write_table(pa.table([ids.take(active), items.take(chosen), times], schema=schema))
    return int(lengths.sum())


def scored(bundle: str, log: str, out: str, workers: int) -> dict[str, Any]:
    """Score a log, as `unigrec score` does; runs in a process of its own."""
    from unigrec.base.process import keep_few_products

    keep_few_products()
    import torch

    from benchmarks.speed.shapes import params_of
    from unigrec.scoring.local import Job, Watcher, score_log
    from unigrec.serving.bundle import Bundle
    from unigrec.serving.schema import ListRequest

    torch.set_num_threads(1)
    ingest, began = params_of("sample").ingest, time.monotonic()
    before = _cpu()
    job = Job(Bundle.load(Path(bundle)), bundle, ListRequest.parse(), Path(log), ingest, Path(out))
    counts = score_log(job, workers, Watcher(say, lambda progress: None))
    told = {"seconds": time.monotonic() - began, "cpu": _cpu() - before, "megabytes": Path(out).stat().st_size / 1e6}
    return counts._asdict() | told


def _cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    of_both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in of_both)


def alone(bundle: str, log: str, users: int) -> float:
    """CPU seconds per user of a loop over `Bundle.recommend`, one history at a time."""
    import torch

    from unigrec.base import files
    from unigrec.data.histories import histories_of
    from unigrec.serving.bundle import Bundle

    torch.set_num_threads(1)
    loaded = Bundle.load(Path(bundle))
    histories = histories_of(files.read_table(Path(log)))[1][:users]
    loaded.recommend(histories[:1])
    began = time.process_time()
    for history in histories:
        loaded.recommend([history])
    return (time.process_time() - began) / len(histories)


def measured(bundle: str, log: Path, workers: int, folder: Path) -> tuple[dict[str, Any], Usage]:
    out = folder / "lists.parquet"
    found = in_child(scored, bundle=bundle, log=str(log), out=str(out), workers=workers)
    out.unlink()
    return found


def by_users(bundle: str, sizes: Sequence[int], workers: int, folder: Path) -> list[list[str]]:
    rows = []
    for users in sizes:
        log = folder / f"{users}.parquet"
        interactions, _ = in_child(draw_log, bundle=bundle, users=users, path=str(log))
        found, usage = measured(bundle, log, workers, folder)
        assert found["users"] == users
        cells = [f"{users:,}", f"{interactions:,}", f"{found['seconds']:,.0f}", f"{users / found['seconds']:,.0f}"]
        cells += [f"{1e3 * found['cpu'] / users:.2f}", f"{usage.peak / 1e6:,.0f}", f"{found['megabytes']:,.1f}"]
        rows.append(cells)
        say(f"score: {' | '.join(cells)}")
    return rows


def compared(bundle: str, users: int, folder: Path) -> list[list[str]]:
    """The same log by one worker, by two, and (its first users) one at a time, in turn."""
    log = folder / f"{users}.parquet"
    seconds: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for workers in (1, 2):
            found, _ = measured(bundle, log, workers, folder)
            seconds.setdefault(f"{workers} workers", []).append(found["seconds"] / users)
            cpu.setdefault(f"{workers} workers", []).append(found["cpu"] / users)
        one, _ = in_child(alone, bundle=bundle, log=str(log), users=min(ALONE, users))
        cpu.setdefault("one at a time", []).append(one)
    base = median(cpu["1 workers"])
    rows = [
        [
            name.replace("1 workers", "1 worker"),
            f"{1e3 * median(values):.2f}",
            f"{median(values) / base:.2f}",
            f"{median(seconds['1 workers']) / median(seconds[name]):.2f}" if name in seconds else "",
        ]
        for name, values in cpu.items()
    ]
    for row in rows:
        say(f"score: {' | '.join(row)}")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.score", description=__doc__)
    parser.add_argument("bundle", type=Path, help="its folder: state/bundles/ID")
    parser.add_argument("--users", type=int, nargs="+", default=USERS, help="sizes of the logs, the smallest first")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    bundle = str(options.bundle.absolute())
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            rows = by_users(bundle, options.users[:1], options.workers, folder)
            ratios = compared(bundle, options.users[0], folder)
            rows += by_users(bundle, options.users[1:], options.workers, folder)
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    heads = ["users", "interactions", "seconds", "users per s", "CPU ms per user", "peak MB", "file MB"]
    print(markdown_table(heads, rows), markdown_table(["", "CPU ms per user", "ratio", "speed-up"], ratios), sep="\n\n")
    print("peak MB: of the largest process. one at a time: a loop over Bundle.recommend in one process")


if __name__ == "__main__":
    from benchmarks.score import main as run  # child processes find the functions of a module by its name

    run()
