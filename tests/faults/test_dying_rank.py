"""One of two ranks is killed during training: the other stops soon, and the same command ends with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.living import processes_of, wait_for
from support.project import ROOT
from support.tiny_training import write_project
from unigrec.base import files, paths
from unigrec.base.paths import Artifacts

STAGE = [sys.executable, "-m", "unigrec.cli", "stage", "joint"]
# Imported by every Python process in that folder. With it, a stage saves a checkpoint after every step.
OFTEN = "from unigrec.pipeline import running\nrunning.CHECKPOINT_SECONDS = 0.0\n"
KILLED_AT = 20  # step, in the middle of an epoch
STOPS_WITHIN = 30.0  # seconds; the launcher checks its ranks every 0.1 s and gives them time to end


def project(folder: Path, engine: str) -> Path:
    write_project(folder, {"joint": {"engine": engine, "processes": 2, "epochs": 12}})
    (folder / "sitecustomize.py").write_text(OFTEN, encoding="utf-8")
    return folder


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT / 'src'}"}
    return subprocess.Popen(
        STAGE, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(folder: Path) -> None:
    process = start(folder)
    said = process.communicate()[1]
    assert process.returncode == 0, said


def saved_step(folder: Path) -> int:
    found = list((folder / paths.CHECKPOINTS / "joint").glob("[!.]*.safetensors"))
    return json.loads(files.read_metadata(found[0])["numbers"])["step"] if found else -1


def rank_of(process: int) -> str | None:
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((value.removeprefix(b"RANK=").decode() for value in variables if value.startswith(b"RANK=")), None)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("engine", "rank"),
    [
        pytest.param("torch", "1", marks=pytest.mark.slow),
        pytest.param("torch", "0", marks=pytest.mark.long),
        pytest.param("deepspeed", "1", marks=pytest.mark.slow),
    ],
)
def test_the_others_stop_and_the_run_goes_on_from_the_checkpoint(tmp_path, engine, rank):
    whole, killed = project(tmp_path / "whole", engine), project(tmp_path / "killed", engine)
    finish(whole)

    process = start(killed)
    wait_for(lambda: process.poll() is not None or saved_step(killed) >= KILLED_AT, 300)
    (victim,) = (one for one in processes_of(killed) if rank_of(one) == rank)
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    said = process.communicate(timeout=STOPS_WITHIN)[1]
    print(f"{engine}, rank {rank}: stopped after {time.monotonic() - began:.1f} s")
    assert process.returncode == 128 + signal.SIGKILL, said  # a code that makes the flow try again
    assert said.splitlines()[-1] == (
        f"error: rank {rank} was killed by SIGKILL; what it said is above. The same command goes on from the last "
        "checkpoint"
    )
    assert processes_of(killed) == []
    assert saved_step(killed) >= KILLED_AT

    finish(killed)
    for file in (paths.MODEL_FILE, paths.HISTORY_FILE, paths.METRICS_FILE):
        assert (killed / Artifacts().joint / file).read_bytes() == (whole / Artifacts().joint / file).read_bytes(), file
