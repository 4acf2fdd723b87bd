"""Forked workers: they share the memory of their parent, take numbers from a pipe and report through another.

Nothing is pickled. A number has four bytes, a report is a line of JSON, and both are short enough for one write, which
the kernel does not mix with another one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from unigrec.base.errors import UnigrecError
from unigrec.base.process import die_with_parent

NUMBER_BYTES = 4
MOST_NUMBERS = 4096  # a pipe holds that many before anybody reads it
LONGEST_ERROR = 2000  # letters; a line of at most 4096 bytes is written as one
DONE, FAILED = 0, 1  # exit codes of a worker


class Crew:
    """Use it in a `with` block, which ends all workers.

    They are forked at once, before their parent has threads (of pyarrow, say), and wait for work.

    Args:
        work: does what one number stands for, and yields reports, which JSON can write. size: workers.
    """

    def __init__(self, work: Callable[[int], Iterator[dict[str, Any]]], size: int):
        self.work, self.size = work, size
        self._alive: set[int] = set()

    def __enter__(self) -> Self:
        self._numbers_out, self._numbers = os.pipe()
        self._reports, self._reports_in = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        for _ in range(self.size):
            process = os.fork()
            if not process:
                self._work()
            self._alive.add(process)
        os.close(self._numbers_out)
        os.close(self._reports_in)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._alive:
            os.kill(process, signal.SIGKILL)  # a fork drops what comes before its end, if the parent has a handler
        for process in self._alive:
            os.waitpid(process, 0)
        self._alive.clear()
        for descriptor in (self._numbers, self._reports):
            if descriptor >= 0:
                os.close(descriptor)

    def run(self, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Give the numbers to the workers, once; yields their reports.

        Raises:
            UnigrecError: the work on a number failed, or a worker was killed; the others have finished theirs.
        """
        os.write(self._numbers, b"".join(number.to_bytes(NUMBER_BYTES, "big") for number in numbers[:MOST_NUMBERS]))
        os.close(self._numbers)
        self._numbers = -1
        with os.fdopen(self._reports, encoding="utf-8") as lines:
            self._reports = -1
            for line in lines:
                report = json.loads(line)
                if "failed" in report:
                    raise UnigrecError(report["failed"])
                yield report
        ends = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in list(self._alive)]
        self._alive.clear()
        if bad := [code for code in ends if code != DONE]:
            how = f"was killed by signal {-bad[0]}" if bad[0] < 0 else f"ended with code {bad[0]}"
            hint = "; out of memory? ask for fewer with --workers" if bad[0] == -signal.SIGKILL else ""
            raise UnigrecError(f"a worker {how}{hint}")

    def _work(self) -> None:
        """What a worker does: never returns."""
        code = FAILED
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
            die_with_parent()
            os.close(self._numbers)
            os.close(self._reports)
            while number := os.read(self._numbers_out, NUMBER_BYTES):
                for report in self.work(int.from_bytes(number, "big")):
                    self._report(report)
            code = DONE
        except UnigrecError as error:
            self._report({"failed": str(error)[:LONGEST_ERROR]})
        except Exception as error:
            traceback.print_exc()
            self._report({"failed": f"a worker failed: {type(error).__name__}: {error}"[:LONGEST_ERROR]})
        finally:
            sys.stderr.flush()
            os._exit(code)  # what the parent has to do at its end is not done twice

    def _report(self, report: dict[str, Any]) -> None:
        os.write(self._reports_in, json.dumps(report).encode() + b"\n")
