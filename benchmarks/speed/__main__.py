"""`python -m benchmarks.speed [PART ...]`, or `make bench`: time and memory of the work, as tables and JSON."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.harness import Options, say
from benchmarks.speed.report import markdown, page, save_part
from unigrec.base.errors import UnigrecError

# Part -> what it measures. Each part is the module of that name in this package, with `run(options) -> list[Table]`.
PARTS = {
    "training": "a joint training step",
    "decoding": "evaluation by beam search",
    "compiled": "our CPU kernels against torch.compile, in training and decoding",
    "tokenizer": "an epoch of the tokenizer, compared with a DataLoader loop",
    "teacher": "an epoch of the teacher, compared with padded batches and full logits",
    "epochs": "an epoch of the joint phase beside one of the teacher, profile small",
    "data": "preparing up to 20 million interactions, compared with pandas",
    "profile": "the operators that take the most time in training and evaluation",
    "latency": "a single request",
    "serve": "the service under load, compared with MLflow's server",
    "impressions": "the log of impressions, beside the service without it",
    "soak": "ten minutes of load on the service, with two changes of the model",
    "rules": "a request with a filter, diversity, new items and boosts, beside one without",
    "growth": "how time and memory grow with the catalogue",
    "start": "the command line, a run with nothing to do, the time to the first training step",
}
FAILED = 1  # exit code: at least one part could not be measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen parts one after the other. A failed part is reported, the others go on. Returns the exit code."""
    given = _parse(arguments)
    out = given.out or Path("state/speed-quick" if given.quick else "state/speed")
    options = Options(out, given.quick, given.artifacts)
    command = shlex.join(["python", "-m", "benchmarks.speed", *(sys.argv[1:] if arguments is None else arguments)])
    failed = [part for part in given.parts or PARTS if not _measure(part, options, command)]
    if failed:
        say(f"not measured: {', '.join(failed)}; the reasons are above")
    return FAILED if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = "\n".join(f"  {part:10} {what}" for part, what in PARTS.items())
    parser = argparse.ArgumentParser(
        "python -m benchmarks.speed",
        description=__doc__,
        epilog=f"parts:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to measure (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: checks that it runs, figures mean nothing")
    parser.add_argument(
        "--artifacts", type=Path, help="a project's artifacts folder with prepare and embed, instead of generated data"
    )
    parser.add_argument(
        "--out", type=Path, help="folder of the results (default: state/speed; quick: state/speed-quick)"
    )
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    if given.artifacts and not given.artifacts.is_dir():
        parser.error(f"--artifacts {given.artifacts}: no such folder; `dvc repro embed` writes one")
    return given


def _measure(part: str, options: Options, command: str) -> bool:
    """Run a part, save its figures and print them. Returns False if it failed."""
    say(f"{part}: {PARTS[part]}")
    started = time.monotonic()
    try:
        tables = importlib.import_module(f"benchmarks.speed.{part}").run(options)
    except UnigrecError as error:
        say(f"error: {part}: {error}")
        return False
    except Exception:  # an unexpected error in one part must not stop the others
        say(f"error: {part}:\n{traceback.format_exc().rstrip()}")
        return False
    save_part(options.out, part, tables, time.monotonic() - started, command)
    page(options.out, list(PARTS))
    for table in tables:
        print("\n\n".join([f"{part}: {table.title}", markdown(table.to_dict()), *table.notes]), end="\n\n", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
