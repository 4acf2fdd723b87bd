"""Start-up time: the command line, a run with nothing to do, the time to the first training step."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.speed.harness import ROOT, Options, Table, Timing, run_command, say
from benchmarks.speed.project import UNIGREC, make_project, must, path_of_tools

ROUNDS = 5
DVC = [sys.executable, "-m", "dvc"]
TRAINING = ("teacher", "tokenizer", "joint", "finetune")
FIRST_STEP = 17  # exit code after the first step
# Runs the command in a process that ends when the engine has taken one step.
UNTIL_FIRST_STEP = f"""
import os, sys
from unigrec.base.process import keep_quiet
keep_quiet()
from unigrec.core.training import engine

def and_end(step):
    def once(self, loss):
        step(self, loss)
        os._exit({FIRST_STEP})
    return once

for kind in (engine.TorchEngine, engine.DeepSpeedEngine):
    kind.step = and_end(kind.step)
from unigrec.cli import main
main()
"""


def run(options: Options) -> list[Table]:
    rounds = 1 if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        finished_project(project, options.quick)
        rows = [
            row_of("python, nothing more", [sys.executable, "-c", "pass"], project, rounds),
            row_of("import of the command line", [sys.executable, "-c", "import unigrec.cli"], project, rounds),
            row_of("unigrec --help", [*UNIGREC, "--help"], project, rounds, target=0.5),
            row_of("dvc repro, nothing to do", [*DVC, "repro", "--quiet"], project, rounds, target=3.0),
        ]
        for stage in TRAINING:
            command = [sys.executable, "-c", UNTIL_FIRST_STEP, "stage", stage]
            what = f"unigrec stage {stage}, to the end of its first step"
            rows.append(row_of(what, command, project, rounds, target=10.0, code=FIRST_STEP))
    notes = [
        "Fresh processes, one thread; the files are in the system's cache. Targets are wall times on a machine that "
        "does nothing else. CPU time shows what to expect there.",
        "The project is that of the profile sample. The first step includes what the stage needs before it: reading "
        "data and models, k-means, the targets of the joint phase, starting DeepSpeed.",
    ]
    return [Table("start", rows, notes)]


def finished_project(project: Path, quick: bool) -> None:
    """Make a project of the profile sample and run its graph, with one epoch per training. Raises RuntimeError."""
    settings = [f"{stage}.epochs=1" for stage in TRAINING]
    settings += [f"{stage}.validate_every=1" for stage in ("teacher", "joint", "finetune")]
    if quick:
        settings += ["ingest.sample.users=300", "ingest.sample.items=100", "ingest.sample.interactions=3000"]
        settings += ["joint.validation_users=50", "evaluate.bootstrap_resamples=100"]
    make_project(project, "--profile", "sample", *(part for setting in settings for part in ("--set", setting)))
    shutil.copy(ROOT / ".gitignore", project)
    must(["git", "init", "--quiet"], project)
    must([*DVC, "init", "--quiet"], project)
    shutil.copy(ROOT / ".dvc/config", project / ".dvc")
    must([*DVC, "repro", "--quiet"], project)


def row_of(
    what: str, command: list[str], folder: Path, rounds: int, target: float | None = None, code: int = 0
) -> dict[str, Any]:
    """Run a command `rounds` times. Raises RuntimeError if it ends with a code other than `code`."""
    timing = Timing()
    for _ in range(rounds):
        usage = run_command(command, folder=folder, quiet=True, PATH=path_of_tools())
        if usage.code != code:
            raise RuntimeError(f"{what}: ended with code {usage.code}, expected {code}")
        timing.cpu.append(usage.cpu)
        timing.wall.append(usage.wall)
    row = {"what": what, **timing.cells(unit="s"), "peak GB": usage.peak / 1e9}
    say(f"start: {what}: CPU {row['CPU s']:.2f} s, wall {row['wall s']:.2f} s")
    return row | ({} if target is None else {"target s": target})
