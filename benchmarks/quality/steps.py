"""A step: one training or measurement, in one folder, once, by one process at a time; it may be killed at any moment.

`done.json` in the folder is written last: if it is there, the rest is complete.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unigrec import core
from unigrec.base import files
from unigrec.base.lock import exclusive
from unigrec.base.paths import Artifacts
from unigrec.config.schema import Params
from unigrec.core.sequences import Sequences
from unigrec.core.training.checkpoint import CheckpointFolder, Stopped
from unigrec.core.training.loop import Log, Run
from unigrec.pipeline import outputs
from unigrec.pipeline.progress import Lines, TrainingProgress

DONE_FILE = "done.json"
CLOCK_FILE = "clock.json"  # seconds that a step has taken so far, over all processes that worked on it
CHECKPOINT = "checkpoint"
CHECKPOINT_SECONDS = 20.0
# The code that computes: only the code that wrote a checkpoint resumes it, and a result names its code.
CODE = Path(core.__path__[0])


@dataclass(frozen=True)
class StepArtifacts(Artifacts):
    """The stages' folders as one rung has them. places: stages whose folder is shared, and lies outside of `root`."""

    places: Mapping[str, Path] = field(default_factory=dict)

    def folder(self, stage: str) -> Path:
        return self.places.get(stage, self.root / stage)


class Data(NamedTuple):
    """The data of all experiments."""

    artifacts: Artifacts  # of the project

    sequences: Sequences
    embeddings: Tensor  # (N, D)
    fingerprint: dict[str, str]  # hashes of both, and of the items


def finished_rung(rung: Path, data: Data) -> StepArtifacts:
    """The stages' folders of a finished rung, OUT/seed-1/M14/KEY. Raises UnigrecError if it is none."""
    read, home = files.read_json(rung / "params.json"), rung.absolute().parents[1]
    places = {name: home / read["student"] / name for name in ("joint", "harden", "finetune")}
    places |= {"prepare": data.artifacts.folder("prepare"), "teacher": home / read["teacher"]}
    return StepArtifacts(rung.absolute(), places)


@dataclass(frozen=True)
class Session:
    """What all steps of one process have in common."""

    data: Data
    device: torch.device
    stop: Callable[[], bool]
    code: str


@dataclass(frozen=True)
class Step:
    """Something to do once. `run` writes results into `folder`, after all folders in `needs` are done."""

    name: str
    folder: Path
    run: Callable[[Step, Session, Clock], None]
    params: Params
    artifacts: Artifacts
    needs: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        return is_done(self.folder)

    def perform(self, session: Session) -> None:
        """Do the step, unless it is done.

        Raises:
            BusyError: another process is doing it. Stopped: the session is over; the next call resumes the step.
            UnigrecError: the step failed.
        """
        with exclusive(self.folder / "lock"):
            if self.done:
                return
            clock = Clock(self.folder / CLOCK_FILE)
            try:
                self.run(self, session, clock)
            except Stopped:
                clock.save()
                raise
            where = torch.cuda.get_device_name(session.device) if session.device.type == "cuda" else "cpu"
            done = {"seconds": round(clock.seconds(), 1), "device": where, "torch": torch.__version__}
            files.write_json(self.folder / DONE_FILE, done | {"code": session.code})
            shutil.rmtree(self.folder / CHECKPOINT, ignore_errors=True)
            (self.folder / CLOCK_FILE).unlink(missing_ok=True)

    def training(self, session: Session, clock: Clock, epochs: int) -> Run:
        """How a stage runs as this step: its checkpoints lie in the step's folder."""
        checkpoints = CheckpointFolder(self.folder / CHECKPOINT, session.code, CHECKPOINT_SECONDS, session.stop)
        progress = TrainingProgress(self.name, epochs, Lines())
        log = clock.saved_by(progress.log)
        return Run(self.params.seed, session.device, log, checkpoints=checkpoints, tick=progress.tick)


def is_done(folder: Path) -> bool:
    return (folder / DONE_FILE).is_file()


class Clock:
    """Seconds of work on a step, over several processes. The last seconds of a killed process are lost."""

    def __init__(self, path: Path):
        self.path, self.started = path, time.monotonic()
        self.before = files.read_json(path)["seconds"] if path.is_file() else 0.0

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started

    def save(self) -> None:
        files.write_json(self.path, {"seconds": self.seconds()})

    def saved_by(self, log: Log) -> Log:
        """The log of a training, which saves the clock too."""

        def both(step: int, metrics: dict[str, float]) -> None:
            log(step, metrics)
            self.save()

        return both


def load_data(folder: Path) -> Data:
    """From a project's artifacts folder; the outputs of `prepare` and `embed` are read. Raises UnigrecError."""
    artifacts = Artifacts(folder)
    loaded = outputs.load_sequences(artifacts), outputs.load_embeddings(artifacts)
    read = {"prepare": artifacts.sequences, "items": artifacts.catalogue, "embed": artifacts.embeddings}
    hashes = {name: files.sha256(path)[:12] for name, path in read.items()}
    return Data(artifacts, *loaded, hashes)


def key_of(*parts: Any) -> str:
    """A short hash of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:10]


def code_version() -> str:
    """A hash of the code that computes."""
    files = sorted(CODE.rglob("*.py"))
    return key_of([(str(file.relative_to(CODE)), file.read_text(encoding="utf-8")) for file in files])
