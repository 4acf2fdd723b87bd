"""A bundle in memory and the workers that share it: `python -m unigrec.service.generation`, started by the service.

One process imports what it needs, reads a line of JSON (`Order`) that names the bundle, loads and checks it, prints a
line of JSON, and forks the workers. They read the memory of the
loaded bundle and write none of it, so all of them share its pages. A worker that dies is forked again. All end with
the service: a worker when its connection is closed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.process import die_with_parent, keep_few_products, keep_quiet
from unigrec.serving.manifest import METRICS

if TYPE_CHECKING:
    from unigrec.serving.bundle import Bundle

CHECKED_HISTORIES = 2
PAUSE_SECONDS = 1.0  # before a worker is forked again
DONE, FAILED = 0, 1  # exit codes of a worker


class Order(BaseModel):
    """What the service asks of this process. number: of the generation; address: where its workers connect to."""

    folder: Path
    number: int
    address: str
    workers: int


def main() -> int:
    """Load, report, and keep the workers alive until the service closes their connections."""
    keep_quiet()
    die_with_parent()
    keep_few_products()
    _import_all()
    line = sys.stdin.readline()
    if not line:
        return DONE
    order = Order.model_validate_json(line)
    try:
        bundle = _loaded(order.folder)
        facts = facts_of(bundle)
    except UnigrecError as error:
        _report({"failed": str(error)})
        return FAILED
    except Exception as error:  # a broken bundle may fail in any way: the service goes on with the one before
        _report({"failed": f"{type(error).__name__}: {error}"})
        return FAILED
    _report(facts)
    gc.collect()
    gc.freeze()  # a collection in a worker would write into every object, and end its sharing
    alive = {_fork(bundle, order): time.monotonic() for _ in range(order.workers)}
    while alive:
        process, status = os.wait()
        lived = time.monotonic() - alive.pop(process)
        if status != DONE:
            time.sleep(0.0 if lived > PAUSE_SECONDS else PAUSE_SECONDS)  # no endless loop of deaths
            alive[_fork(bundle, order)] = time.monotonic()
    return DONE


def _import_all() -> None:
    """Import what loading a bundle imports: the service has not found the bundle yet."""
    importlib.import_module("unigrec.serving.bundle")


def _loaded(folder: Path) -> Bundle:
    """The bundle, after a request to it. Raises UnigrecError."""
    import torch

    from unigrec.serving.bundle import Bundle

    torch.set_num_threads(1)  # a worker per core; and a process with threads cannot be forked
    bundle = Bundle.load(folder)
    histories = [[bundle.item_ids[item]] for item in bundle.popularity.order[:CHECKED_HISTORIES].tolist()]
    for answer in bundle.recommend(histories, k=1):
        if len(answer.items) != 1 or answer.by_popularity:
            raise UnigrecError(f"{folder}: loads, but does not recommend")
    bundle.warm_up()  # once, for all workers
    return bundle


def facts_of(bundle: Bundle) -> dict[str, Any]:
    """What `GET /v1/model` says of a bundle."""
    manifest = bundle.manifest
    figures = bundle.folder / METRICS
    metrics = files.read_json(figures) if figures.is_file() else {}
    return {
        "bundle": bundle.id,
        "items": len(bundle.item_ids),
        "ranks_by": bundle.ranks_by,
        "metrics": metrics.get("shipped", metrics.get("student", {})),
        "data": {name: manifest["data"].get(name) for name in ("version", "origin", "snapshot", "until")},
        "git_commit": manifest["git_commit"],
    }


def _report(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def _fork(bundle: Bundle, order: Order) -> int:
    """Start a worker; returns its process id."""
    process = os.fork()
    if process:
        return process
    code = FAILED
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent()
        _work(bundle, order)
        code = DONE
    except (OSError, ValueError) as error:  # the service is gone
        print(f"a worker ends: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)  # what the parent has to do at its end is not done twice


def _work(bundle: Bundle, order: Order) -> None:
    """Reply to batches until the connection is closed."""
    from unigrec.service import frames
    from unigrec.service.replies import Question, replies

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(order.address)
        connection.sendall(frames.packed([b"%d" % order.number, b"%d" % os.getpid()]))
        while (lines := frames.receive(connection)) is not None:
            found = replies(bundle, [Question.of_line(line) for line in lines])
            connection.sendall(frames.packed([reply.line() for reply in found]))


if __name__ == "__main__":
    sys.exit(main())
