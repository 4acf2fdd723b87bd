"""`python -m benchmarks.speed`, or `make bench`: what the work costs, part by part, in a table and a JSON each."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
from pathlib import Path

from benchmarks.speed.harness import Options, say
from benchmarks.speed.report import page, save_part
from unigrec.errors import UnigrecError

# Part -> what it measures. Each is the module of that name beside this one, with `run(options) -> list[Table]`.
PARTS = {
    "training": "a joint training step against transformers' T5",
    "decoding": "evaluation at beam 30 against transformers' generate",
    "tokenizer": "an epoch of the tokenizer against a DataLoader loop",
    "teacher": "an epoch of the teacher against padded batches and full logits",
}


def main() -> None:
    known = "; ".join(f"{part}: {what}" for part, what in PARTS.items())
    parser = argparse.ArgumentParser("python -m benchmarks.speed", description=__doc__, epilog=f"Parts: {known}.")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma-separated (default: all)")
    parser.add_argument("--out", type=Path, default=Path("state/speed"), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="everything tiny: shows that it runs, measures nothing")
    parser.add_argument("--artifacts", type=Path, help="a project's artifacts folder, instead of generated data")
    given = parser.parse_args()
    chosen = given.only.split(",")
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"--only: there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    options = Options(given.out, given.quick, given.artifacts)
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    try:
        for part in chosen:
            say(f"{part}: {PARTS[part]}")
            started = time.monotonic()
            tables = importlib.import_module(f"benchmarks.speed.{part}").run(options)
            save_part(options.out, part, tables, time.monotonic() - started, command)
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(page(options.out, list(PARTS)), end="")


if __name__ == "__main__":
    main()
