"""kill -9 of a stage, of DVC, of the flow at random moments. The same command again ends as if nothing had happened.

Runs the whole tiny pipeline as a user does. `-s` shows the time of each kill, and the time until work resumed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from dvc.repo import Repo
from flows.stages.processes import child_environment

from support.living import command_of, processes_of, times_of_change, wait_for
from support.project import ROOT
from support.tiny_pipeline import write_shop
from unigrec.base.files import sha256

SEED = 2026
LENIENT = {  # gates that a tiny model passes, so that kills reach registration and promotion too
    "gate": {
        "min_recall_at_10": 0.0,
        "min_ndcg_at_10": 0.0,
        "min_margin_over_popularity": -1.0,
        "min_margin_over_cooccurrence": -1.0,
        "min_margin_over_own_items": -1.0,
        "min_margin_over_neighbours": -1.0,
        "max_drop_below_teacher": 1.0,
        "max_collision_rate": 1.0,
        "min_codebook_utilisation": 0.0,
    }
}
DVC = [sys.executable, "-m", "dvc", "repro"]
FLOW = [sys.executable, "-m", "flows.retrain"]
KEPT = {".dvc", "data", "dvc.yaml", "infra", "params.yaml", "src", "state"}  # files that `reset` keeps
PREFECT = "state/prefect"
OPEN = "select name, state_type from {} where state_type in ('PENDING', 'RUNNING', 'CANCELLING')"
DATED = Path("artifacts/validate")  # its pages and its result contain the time
GONE_SECONDS = 20.0  # for the end of all processes that a killed process started
FINISH_SECONDS = 3600.0  # on a busy machine; half a minute on a quiet one


class Run:
    """One command in a project's folder, with the time of each printed line."""

    def __init__(self, folder: Path, command: list[str]):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        environment = child_environment(clean) | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
        self.folder, self.began, self.lines = folder, time.monotonic(), list[tuple[float, str]]()
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append((time.monotonic(), line.strip()))

    def ends_within(self, seconds: float) -> bool:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self.reader.join()
        return True

    def output(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def stages(self) -> list[tuple[float, str]]:
        """Time and name of each stage's start."""
        starts = [(moment, line) for moment, line in self.lines if line.startswith("Running stage")]
        return [(moment, line.split("'")[1]) for moment, line in starts]

    def moment(self) -> str:
        began, stage = max(self.stages(), default=(self.began, "start"))
        return f"{stage} + {time.monotonic() - began:.1f} s"

    def victim(self, who: str) -> int | None:
        """The process to kill: the command itself, or the stage or DVC process that runs for it now."""
        if who == "command":
            return self.process.pid
        wanted = "unigrec" if who == "stage" else "dvc"
        for process in processes_of(self.folder):
            program = command_of(process)[:3]
            if (
                process != self.process.pid
                and program[1:2] != ["-I"]
                and any(Path(word).name == wanted for word in program[1:])
            ):
                return process
        return None


class Kill(NamedTuple):
    moment: str
    gone: float  # seconds until all processes that it had started were gone
    again: float  # seconds until a stage ran again


class Project:
    """The tiny shop as a DVC project."""

    def __init__(self, folder: Path):
        self.folder = folder
        write_shop(folder, LENIENT)
        shutil.rmtree(folder / "artifacts")
        shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        Repo.init(str(folder), no_scm=True).close()

    def reset(self) -> None:
        """Make the project new again. Only Prefect's records of earlier runs stay."""
        for path in self.folder.iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in [*(self.folder / "state").iterdir(), self.folder / ".dvc/tmp", self.folder / ".dvc/cache"]:
            if path != self.folder / PREFECT:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def results(self) -> dict[str, str]:
        """Hashes of all artifacts, and the hashes of outputs in dvc.lock."""
        files = {path.relative_to(self.folder) for path in self.folder.glob("artifacts/**/*") if path.is_file()}
        found = {str(path): sha256(self.folder / path) for path in files if DATED not in path.parents}
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        outs = [out for stage in stages.values() for out in stage["outs"] if out["path"] != str(DATED)]
        return found | {f"dvc.lock {out['path']}": out["md5"] for out in outs}

    def registered(self) -> dict[str, list]:
        """What a flow leaves in addition to the artifacts."""
        store, prefect = self.folder / "mlflow.db", self.folder / PREFECT / "prefect.db"
        return {
            "bundles": sorted(path.name for path in (self.folder / "state/bundles").iterdir()),
            "versions": ask(store, "select version from model_versions"),
            "aliases": ask(store, "select alias, version from registered_model_aliases order by alias"),
            "runs": ask(store, "select status from runs where lifecycle_stage = 'active'"),
            "open": [*ask(prefect, OPEN.format("flow_run")), *ask(prefect, OPEN.format("task_run"))],
        }


def ask(store: Path, question: str) -> list[tuple]:
    with sqlite3.connect(store) as connection:
        return connection.execute(question).fetchall()


class Undisturbed(NamedTuple):
    folder: Path
    seconds: float
    results: dict[str, str]
    registered: dict[str, list]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Undisturbed:
    project = Project(tmp_path_factory.mktemp("undisturbed") / "shop")
    run = Run(project.folder, FLOW)
    assert run.ends_within(FINISH_SECONDS), run.output()
    assert run.process.returncode == 0, run.output()
    seconds = time.monotonic() - run.began
    print(f"\nundisturbed: {seconds:.0f} s")
    found = Undisturbed(project.folder, seconds, project.results(), project.registered())
    assert (len(found.registered["versions"]), found.registered["open"]) == (1, [])
    return found


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("command", "who", "kills"),
    [(DVC, "command", 5), (FLOW, "command", 5), (DVC, "stage", 5), (FLOW, "stage", 3), (FLOW, "dvc", 2)],
    ids=["dvc", "flow", "stage of dvc", "stage of the flow", "dvc of the flow"],
)
def test_the_same_command_again_ends_as_if_nothing_had_happened(tmp_path, undisturbed, command, who, kills, request):
    project, chance = Project(tmp_path / "shop"), random.Random(SEED)
    shutil.copytree(undisturbed.folder / PREFECT, project.folder / PREFECT)  # creating its tables takes a while
    run, done = Run(project.folder, command), list[Kill]()
    try:
        while len(done) < kills:
            if run.ends_within(chance.uniform(0.0, undisturbed.seconds / 4)):
                check(project, run, undisturbed)
                project.reset()
                run = Run(project.folder, command)
                continue
            run = kill_and_go_on(run, command, who, done)
        assert run.ends_within(FINISH_SECONDS), run.output()
        check(project, run, undisturbed)
    finally:
        run.process.kill()
    for kill in done:
        print(f"{request.node.callspec.id}: {kill.moment}; {kill.gone:.1f} s; {kill.again:.1f} s; equal")


def kill_and_go_on(run: Run, command: list[str], who: str, done: list[Kill]) -> Run:
    """Kill, check that no process is left and no file changes, and start the command again unless it continues."""
    while (victim := run.victim(who)) is None:
        if run.ends_within(0.05):
            return run
    moment, killed = run.moment(), time.monotonic()
    os.kill(victim, signal.SIGKILL)
    if command is FLOW and who != "command":
        wait_for(lambda: not command_of(victim), GONE_SECONDS)
        gone = time.monotonic() - killed
    else:
        assert run.ends_within(GONE_SECONDS), run.output()
        assert run.process.returncode != 0
        wait_for(lambda: not processes_of(run.folder), GONE_SECONDS)
        gone = time.monotonic() - killed
        before = times_of_change(run.folder)
        time.sleep(0.5)
        assert times_of_change(run.folder) == before
        killed, run = time.monotonic(), Run(run.folder, command)
    wait_for(lambda: run.process.poll() is not None or any(began > killed for began, _ in run.stages()), FINISH_SECONDS)
    done.append(Kill(moment, gone, time.monotonic() - killed))
    return run


def check(project: Project, run: Run, undisturbed: Undisturbed) -> None:
    assert run.process.returncode == 0, run.output()
    assert project.results() == undisturbed.results
    if "flows.retrain" in run.process.args:
        assert project.registered() == undisturbed.registered
    assert [path for path in project.folder.rglob("*") if path.name.endswith(".tmp")] == []
