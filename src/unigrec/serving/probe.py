"""Checks in a fresh process that a bundle loads and recommends, and measures how long a request takes.

`python -m unigrec.serving.probe FOLDER` reads {"histories": [[item id, ...], ...], "k": n}
and prints {"latency_ms": [...]}.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from unigrec.base.errors import EXIT_BAD_INPUT, UnigrecError

WARM_UP = 3  # first requests, which are not counted
COMMAND = (sys.executable, "-m", "unigrec.serving.probe")


class ProbeError(UnigrecError):
    """The bundle fails: it does not load or recommend, its process dies, or it takes too long."""


def probe(folder: Path, histories: list[list[str]], k: int, limit: float) -> list[float]:
    """Milliseconds per request, in a child process with one thread.

    Args:
        histories: item ids, one list per request. limit: seconds for the child to start, load and answer all requests.

    Raises:
        ProbeError: with the child's message.
    """
    return [
        float(value)
        for value in ask_child([*COMMAND, str(folder)], {"histories": histories, "k": k}, limit)["latency_ms"]
    ]


def ask_child(command: list[str], question: dict[str, Any], limit: float) -> dict[str, Any]:
    """Send JSON to a child process on standard input; returns the JSON of its standard output.

    Args:
        limit: seconds for the child to start, load and answer.

    Raises:
        ProbeError: with the last line that the child wrote to standard error.
    """
    try:
        done = subprocess.run(
            command, input=json.dumps(question), capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ProbeError(f"it did not load and answer within {limit:g} s") from error
    lines = done.stderr.strip().splitlines() or ["it said nothing"]
    if done.returncode < 0:
        raise ProbeError(f"signal {-done.returncode} ended the process that loaded it: {lines[-1]}")
    if done.returncode:
        raise ProbeError(f"it does not load and recommend: {lines[-1].removeprefix('error: ')}")
    return json.loads(done.stdout)


def measure(folder: Path, histories: list[list[str]], k: int) -> dict[str, Any]:
    """The measurement in the child. Raises UnigrecError if the bundle does not load or gives a broken answer."""
    from unigrec.serving.bundle import Bundle

    bundle = Bundle.load(folder)
    k = min(k, len(bundle.item_ids))
    latency = []
    for history in histories[:WARM_UP] + histories:
        began = time.perf_counter()
        items = bundle.recommend([history], k)[0].items
        latency.append(1000.0 * (time.perf_counter() - began))
        if len({item.item_id for item in items}) != k or not all(math.isfinite(item.score) for item in items):
            raise UnigrecError(
                f"{folder}: asked for {k} items, it recommends {len(items)}, or scores that are no numbers"
            )
    return {"latency_ms": latency[-len(histories) :]}


def main() -> int:
    """The child: standard input to standard output; if it fails, exit code 2 and one line on standard error."""
    from unigrec.base.process import die_with_parent, keep_quiet

    die_with_parent()
    keep_quiet()
    import torch

    torch.set_num_threads(1)
    question = json.load(sys.stdin)
    try:
        answer = measure(Path(sys.argv[1]), question["histories"], question["k"])
    except Exception as error:  # any error counts against the bundle
        print("error:", " ".join(f"{error or type(error).__name__}".split()), file=sys.stderr)
        return EXIT_BAD_INPUT
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
