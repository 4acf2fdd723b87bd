"""Tests of the ladder's command: it runs missing steps, resumes after a stop or a kill, and never mixes results."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from benchmarks.quality.runs import run_joint
from benchmarks.quality.steps import StepArtifacts

from benchmarks.quality import __main__ as quality
from benchmarks.quality import steps as quality_steps
from support.project import ROOT
from support.tiny_ladder import results, tiny_arguments, tiny_artifacts
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.lock import exclusive
from unigrec.base.paths import Artifacts
from unigrec.core.evaluation.baselines import Baselines, Ranks
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.evaluation.ranking import rank_test_items
from unigrec.core.retrieval.dense import DenseRetriever
from unigrec.core.retrieval.fused import FusedRetriever, Weights
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.neighbour_ranking import count_neighbours
from unigrec.core.retrieval.rank_by import MODEL_OF, RankBy
from unigrec.core.sequences import Sequences
from unigrec.pipeline import outputs

# Packages that a machine with only the training dependencies lacks.

ABSENT = ("yaml", "typer", "sklearn", "matplotlib", "mlflow", "prefect", "dvc", "great_expectations", "rich")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Path]:
    """Artifacts and the results of two rungs with one seed. Tests must not change them."""
    folder = tmp_path_factory.mktemp("finished")
    artifacts, out = tiny_artifacts(folder), folder / "out"
    assert quality.run(tiny_arguments(artifacts, out, "--rungs", "M0,M5")) == 0
    return artifacts, out


def copy_of(out: Path, folder: Path) -> Path:
    return shutil.copytree(out, folder / "out")


def home(out: Path, rung: str) -> Path:
    (folder,) = (out / "seed-1" / rung).iterdir()
    return folder


def student(out: Path, rung: str) -> Path:
    """The folder of the rung's training."""
    return out / "seed-1" / json.loads((home(out, rung) / "params.json").read_text())["student"]


def kinds(out: Path) -> list[str]:
    """What lies in the folder of the seed."""
    return [folder.name.partition("-")[0] for folder in sorted((out / "seed-1").iterdir())]


class StopsAfter:
    """Stands in for --minutes: returns False `questions` times, then True."""

    def __init__(self, questions: int):
        self.left = questions

    def __call__(self, *_: object) -> bool:
        self.left -= 1
        return self.left < 0


def test_each_rung_has_its_results_and_steps_that_are_alike_are_shared(finished):
    _, out = finished
    assert kinds(out) == ["M0", "M5", "baselines", *["student"] * 2, "teacher", *["tokenizer"] * 2]
    for rung in ("M0", "M5"):
        assert (home(out, rung) / "evaluate" / paths.METRICS_FILE).is_file()
        assert json.loads((home(out, rung) / "params.json").read_text())["params"]["joint"]["epochs"] == 3
        assert [folder.name for folder in home(out, rung).iterdir() if folder.is_dir()] == ["evaluate"]
    assert student(out, "M0") != student(out, "M5")
    assert not list(out.rglob("checkpoint"))


def test_the_teacher_alone_is_trained_and_shown_with_the_baselines(tmp_path, capsys):
    arguments = tiny_arguments(tiny_artifacts(tmp_path), tmp_path / "out", "--teacher")
    assert quality.run(arguments) == 0
    assert kinds(tmp_path / "out") == [*["baselines"] * 2, *["teacher"] * 2]
    shown = capsys.readouterr().out
    assert "| teacher |" in shown
    assert "| teacher of M0 |" in shown
    assert "left:" not in shown


def test_ranks_are_those_of_the_evaluation_stage(finished):
    artifacts, out = finished
    sequences = outputs.load_sequences(Artifacts(artifacts))
    (teacher,) = (out / "seed-1").glob("teacher-*")
    (baselines,) = (out / "seed-1").glob("baselines-*")
    rung = home(out, "M5")
    trained = StepArtifacts(student(out, "M5"), {"teacher": teacher})
    expected = ranks_of(trained, sequences, outputs.load_embeddings(Artifacts(artifacts)))
    users = sequences.evaluation_users()
    table, others = (files.read_table(folder / paths.RANKS_FILE) for folder in (rung / "evaluate", baselines))
    assert table["user_index"].to_pylist() == users.tolist()
    stored = {name: others[name].to_numpy() for name in others.column_names}
    stored |= {name: table[name].to_numpy() for name in table.column_names}
    del stored["user_index"], stored["item_index"]
    models = {"shipped": "student"}  # under their names in the evaluation
    compared = {name: name.rpartition("_")[::2] for name in stored}
    for name, (model, protocol) in compared.items():
        assert np.array_equal(stored[name], expected[models.get(model, model), protocol]), name
    every = ("popularity", "cooccurrence", "last_item", "own_items", "neighbours", "teacher", "student", "shipped")
    assert set(compared.values()) == {(model, protocol) for model in every for protocol in Protocol}


def ranks_of(trained: Artifacts, sequences: Sequences, embeddings: torch.Tensor) -> Ranks:
    """What the stage `evaluate` computes of a teacher and a student. The weights of the fused ranking are drawn."""
    neighbours, teacher = count_neighbours(sequences, embeddings), outputs.load_teacher(trained)
    cpu = torch.device("cpu")
    generative = GenerativeRetriever.hardened(
        outputs.load_recommender(trained), outputs.load_codes(trained), 5, beam=30, device=cpu
    )
    dense = DenseRetriever(teacher, generative.tree, cpu)
    weights = Weights(0.5, follows=1.0, alike=1.0)
    retriever = FusedRetriever(generative, dense, neighbours, weights)
    baselines = Baselines(sequences, 5, teacher=teacher, neighbours=neighbours)
    return rank_test_items(sequences, sequences.evaluation_users(), retriever, baselines, batch_size=7)


@pytest.fixture(scope="module")
def fused(finished, tmp_path_factory) -> tuple[Path, Path]:
    """Artifacts and the results of M10 to M14 with one seed. Tests must not change them."""
    out = tmp_path_factory.mktemp("fused") / "out"
    assert quality.run(tiny_arguments(finished[0], out, "--rungs", "M10,M13,M14")) == 0
    return finished[0], out


def test_rungs_that_differ_in_what_ranks_share_their_training(fused):
    _, out = fused
    assert kinds(out) == [
        "M10",
        "M13",
        "M14",
        *["baselines"] * 2,
        *["student"] * 2,
        *["teacher"] * 2,
        "tokenizer",  # at this size it does not read the teacher
    ]
    assert student(out, "M14") == student(out, "M13") != student(out, "M10")
    steps = {
        rung: {folder.name for folder in home(out, rung).iterdir() if folder.is_dir()} for rung in ("M10", "M13", "M14")
    }
    assert steps == {"M10": {"evaluate"}, "M13": {"evaluate"}, "M14": {"rank", "evaluate"}}


@pytest.mark.parametrize("rung", ["M13", "M14"])
def test_a_rung_ships_what_it_ranks_by(fused, rung):
    _, out = fused
    table = files.read_table(home(out, rung) / "evaluate" / paths.RANKS_FILE)
    shipped = "student"
    if rung == "M14":
        shipped = MODEL_OF[RankBy(files.read_json(home(out, rung) / "rank" / paths.FUSION_FILE)["by"])]
    for protocol in Protocol:
        assert table[f"shipped_{protocol}"].to_pylist() == table[f"{shipped}_{protocol}"].to_pylist()
    fused_too = {name for name in table.column_names if name.startswith("fused")}
    assert fused_too == ({f"fused_{protocol}" for protocol in Protocol} if rung == "M14" else set())


@pytest.mark.parametrize("by", ["fused", "dense"])
def test_a_rung_that_is_told_what_to_rank_by_ships_that(finished, fused, tmp_path, by):
    out = shutil.copytree(fused[1], tmp_path / "out")
    shutil.rmtree(out / "seed-1/M14")
    assert quality.run(tiny_arguments(finished[0], out, "--rungs", "M14", rank={"by": by})) == 0
    table = files.read_table(home(out, "M14") / "evaluate" / paths.RANKS_FILE)
    model = MODEL_OF[RankBy(by)]
    for protocol in Protocol:
        assert table[f"shipped_{protocol}"].to_pylist() == table[f"{model}_{protocol}"].to_pylist()


def test_two_teachers_have_two_rows(finished, fused, tmp_path, capsys):
    out = shutil.copytree(fused[1], tmp_path / "out")
    (of_first,) = (finished[1] / "seed-1").glob("baselines-*")  # M0 has the same teacher there
    file = out / "seed-1" / of_first.name / paths.RANKS_FILE
    table = files.read_table(file)
    place = table.column_names.index("teacher_unmasked")
    first = pa.array(np.ones(len(table)), table.schema.field(place).type)  # every test item on the first place
    files.write_table(file, table.set_column(place, "teacher_unmasked", first))
    assert quality.run(tiny_arguments(finished[0], out, "--rungs", "M10,M13,M14", "--table")) == 0
    assert "| teacher of M0 |" in capsys.readouterr().out
    rows = {row["model"]: row for row in files.read_json(out / "table.json")["protocols"]["unmasked"]}
    baselines = ["popularity", "cooccurrence", "last_item", "own_items", "neighbours"]
    assert list(rows) == [*baselines, "teacher", "teacher of M0", "M10", "M13", "M14"]
    assert rows["teacher of M0"]["ndcg_at_10"]["mean"] == 1.0
    assert rows["teacher"]["ndcg_at_10"]["mean"] < 1.0


def test_a_second_call_does_nothing_and_prints_the_same_table(finished, capsys, monkeypatch):
    artifacts, out = finished
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*") if "table" not in file.name}
    monkeypatch.setattr(quality_steps.Step, "perform", None)  # calling it would fail
    tables = []
    for more in ((), ("--table",), ("--rungs", "M5")):
        rungs = more if "--rungs" in more else (*more, "--rungs", "M0,M5")
        assert quality.run(tiny_arguments(artifacts, out, *rungs)) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1] == tables[2] == (out / "table.md").read_text(encoding="utf-8")
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*") if "table" not in file.name} == before
    assert "| M5 | + recommender distillation only |" in tables[0]


def test_a_table_of_nothing_says_what_is_left(tmp_path, capsys):
    arguments = tiny_arguments(tiny_artifacts(tmp_path), tmp_path / "out", "--rungs", "M0,M5", "--table")
    assert quality.run(arguments) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "no rung is finished yet"
    assert last.startswith("left: seed 1: M0, M5; go on with: python -m benchmarks.quality --artifacts")
    assert "--table" not in last


@pytest.mark.slow
@pytest.mark.parametrize("questions", [4, 17])
def test_stopped_again_and_again_it_ends_with_the_bits_of_an_unbroken_run(
    questions, finished, tmp_path, monkeypatch, capsys
):
    artifacts, whole = finished
    out, calls = tmp_path / "out", 0
    arguments = tiny_arguments(artifacts, out, "--rungs", "M5", evaluate={"batch_size": 5})
    lines = ["left: "]
    while lines[-1].startswith("left: "):
        calls += 1
        assert calls < 100
        monkeypatch.setattr(quality, "Stop", lambda minutes: Pausing(questions))
        assert quality.run(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
    assert calls > 4
    found, expected = results(out), results(whole)
    assert found
    assert {name: found[name] == expected[name] for name in found} == dict.fromkeys(found, True)


class Pausing(quality.Stop):
    """A session that ends after the given number of checks."""

    def __init__(self, questions: int):
        super().__init__(None)
        self.count = StopsAfter(questions)

    def __call__(self) -> bool:
        return self.count()


def test_minutes_that_are_over_stop_it_before_it_starts(finished, tmp_path, capsys):
    artifacts, _ = finished
    assert quality.run(tiny_arguments(artifacts, tmp_path / "out", "--rungs", "M0", "--minutes", "0")) == 0
    assert "left: seed 1: M0; go on with" in capsys.readouterr().out.splitlines()[-1]
    assert not list((tmp_path / "out").rglob("done.json"))


def test_a_signal_stops_it_and_the_exit_code_says_so(finished, tmp_path, monkeypatch, capsys):
    artifacts, _ = finished

    def interrupted(step, session, clock):
        signal.raise_signal(signal.SIGTERM)
        run_joint(step, session, clock)

    monkeypatch.setattr("benchmarks.quality.runs.run_joint", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    assert quality.run(tiny_arguments(artifacts, tmp_path / "out", "--rungs", "M0")) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    assert list((tmp_path / "out/seed-1").glob("student-*/joint/checkpoint/*.safetensors"))
    assert "left: seed 1: M0" in capsys.readouterr().out.splitlines()[-1]


def test_results_of_changed_params_are_neither_used_nor_mixed_in(finished, tmp_path, capsys):
    artifacts, out = finished[0], copy_of(finished[1], tmp_path)
    old = home(out, "M0")
    changed = tiny_arguments(artifacts, out, "--rungs", "M0", finetune={"epochs": 1})
    assert quality.run(changed) == 0
    printed = capsys.readouterr().out
    assert f"seed 1, M0: results of other params are left out ({old.name}: finetune.epochs 2 there, 1 here)" in printed
    assert len(list((out / "seed-1/M0").iterdir())) == 2
    assert len(list((out / "seed-1").glob("teacher-*"))) == 1  # the teacher does not depend on the section finetune
    figures = files.read_json(out / "table.json")
    assert [row["model"] for row in figures["protocols"]["masked"]][-1] == "M0"
    assert figures["protocols"]["unmasked"][0]["model"] == "popularity"


def test_params_without_effect_on_results_change_nothing(finished, monkeypatch):
    artifacts, out = finished
    monkeypatch.setattr(quality_steps.Step, "perform", None)
    changes = {"evaluate": {"batch_size": 3}, "joint": {"processes": 2}}
    assert quality.run(tiny_arguments(artifacts, out, "--rungs", "M0,M5", **changes)) == 0


def test_changed_data_is_other_results(finished, tmp_path, capsys):
    artifacts, out = shutil.copytree(finished[0], tmp_path / "artifacts"), copy_of(finished[1], tmp_path)
    embeddings = files.read_tensors(artifacts / "embed/items.safetensors")["embedding"]
    files.write_tensors(artifacts / "embed/items.safetensors", {"embedding": embeddings + 1})
    assert quality.run(tiny_arguments(artifacts, out, "--table")) == 0
    printed = capsys.readouterr().out
    assert "seed 1, M0: results of other params are left out" in printed
    assert "other data" in printed
    assert "left: seed 1: M0, M1" in printed
    assert "| teacher |" not in printed  # the teacher reads the embeddings too


@pytest.mark.slow
def test_what_another_process_does_is_left_to_it(finished, tmp_path, monkeypatch, capsys):
    artifacts, out = finished[0], copy_of(finished[1], tmp_path)
    busy = student(out, "M0") / "joint"
    for rung in ("M0", "M5"):
        for step in ("joint", "harden", "finetune"):
            (student(out, rung) / step / "done.json").unlink()
        (home(out, rung) / "evaluate/done.json").unlink()
    monkeypatch.setattr(quality, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(quality, "Stop", lambda minutes: Pausing(1000))
    arguments = tiny_arguments(artifacts, out, "--rungs", "M0,M5")
    with exclusive(busy / "lock"):
        assert quality.run(arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("left: seed 1: M0;")
    assert quality.run(arguments) == 0
    assert "left: " not in capsys.readouterr().out


def test_a_failed_step_is_reported_and_the_others_go_on(finished, tmp_path, capsys):
    artifacts, _ = finished
    out = tmp_path / "out"
    changes = {"tokenizer": {"codebook_size": 1000}}
    assert quality.run(tiny_arguments(artifacts, out, "--rungs", "M0", **changes)) == quality.EXIT_FAILED
    printed = capsys.readouterr().out
    assert "failed: seed 1: tokenizer-" in printed
    assert "tokenizer.codebook_size = 1000, but the catalogue has 24 items" in printed
    assert "| teacher of M0 |" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [(("--rungs", "M99"), "no rung 'M99'"), (("--seeds", "one"), "expected whole numbers")],
)
def test_bad_arguments_are_refused(more, message, finished, tmp_path):
    with pytest.raises(UnigrecError, match=message):
        quality.run(tiny_arguments(finished[0], tmp_path / "out", *more))


def test_artifacts_that_are_not_there(tmp_path):
    with pytest.raises(UnigrecError, match=r"sequences\.safetensors: no such file"):
        quality.run(tiny_arguments(tmp_path, tmp_path / "out"))


@pytest.mark.slow  # tests/test_architecture.py reads the imports
def test_a_machine_with_torch_and_little_else_runs_it(finished, tmp_path):
    code = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *more):
        return None if name.split(".")[0] in {ABSENT!r} else self.finder.find_spec(name, *more)

sys.meta_path[:] = map(Without, sys.meta_path)
from benchmarks.quality.__main__ import as_command, run
as_command(run)
"""
    command = [sys.executable, "-c", code, *tiny_arguments(finished[0], tmp_path / "out", "--rungs", "M5")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| M5 | + recommender distillation only |" in done.stdout


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_bits_of_an_undisturbed_run(tmp_path):
    artifacts = tiny_artifacts(tmp_path)
    code = (
        "from benchmarks.quality import __main__ as quality, runs, steps; "
        "steps.CHECKPOINT_SECONDS = runs.CHECKPOINT_SECONDS = 0.0; quality.as_command(quality.run)"
    )
    changes = {"joint": {"epochs": 12, "engine": "deepspeed"}, "teacher": {"epochs": 30, "patience": 30}}

    def start(out: Path) -> subprocess.Popen[str]:
        arguments = tiny_arguments(artifacts, out, "--rungs", "M0,M7", **changes)
        return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert quality.run(tiny_arguments(artifacts, whole, "--rungs", "M0,M7", **changes)) == 0
    for where in ("teacher-*/checkpoint", "student-*/joint/checkpoint"):
        process, deadline = start(killed), time.monotonic() + 120
        while not list((killed / "seed-1").glob(f"{where}/[!.]*.safetensors")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    last = start(killed)
    assert last.wait() == 0, last.stderr.read()
    found, expected = results(killed), results(whole)
    assert [name for name in expected if found.get(name) != expected[name]] == []
