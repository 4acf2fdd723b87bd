"""A killed stage resumes from its checkpoint if its inputs are the same, and ends with the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.tiny_pipeline import inside
from support.tiny_training import write_project
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_BAD_INPUT, UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.config.read import load_params
from unigrec.pipeline import running
from unigrec.pipeline.stage_key import stage_key

# The stage itself, but it saves after every step, as a stage of hours saves after every few steps.
STAGE = """
import sys
from pathlib import Path
from unigrec.pipeline import running
from unigrec.config.read import load_params
running.CHECKPOINT_SECONDS = 0.0
running.run_stage(sys.argv[1], load_params(Path("params.yaml")))
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def key(stage: str = "joint", params_file: str = "params.yaml") -> str:
    return stage_key(stage, load_params(Path(params_file)).model_dump(mode="json", by_alias=True))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_same_inputs_same_key_and_each_stage_its_own(project):
    assert key() == key()
    assert key("teacher") != key("finetune")


@pytest.mark.parametrize("old", ["seed: 7", "recommender_lr: 0.004", "d_ff: 32"])
def test_a_changed_param_of_the_stage_changes_its_key(project, old):
    before = key()
    edit(project / "params.yaml", old, old[:-1] + "9")
    assert key() != before


def test_a_param_of_another_stage_does_not(project):
    before = key()
    edit(project / "params.yaml", "bootstrap_resamples: 2000", "bootstrap_resamples: 500")
    assert key() == before


@pytest.mark.parametrize(
    "path",
    [Artifacts().embeddings, Artifacts().teacher / paths.MODEL_FILE, Artifacts().tokenizer / paths.MODEL_CONFIG_FILE],
)
def test_a_changed_input_changes_the_key(project, path):
    before = key()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert key() != before


def test_a_new_file_in_a_folder_that_is_an_input_changes_the_key(project):
    before = key()
    (Artifacts().teacher / "more.json").write_text("{}", encoding="utf-8")
    assert key() != before


def test_the_key_follows_the_params_file_that_the_command_was_given(project):
    before = key()
    (project / "params.yaml").rename(project / "other.yaml")
    assert key(params_file="other.yaml") == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"dvc\.yaml: no such file; run inside the project's folder"),
        ("stages: [", r"dvc\.yaml: no stage 'joint' can be read from it"),
        ("stages:\n  teacher: {}\n", r"dvc\.yaml: no stage 'joint' can be read from it"),
        ("", r"dvc\.yaml: no stage 'joint' can be read from it"),
    ],
)
def test_without_the_graph_the_error_says_what_is_missing(project, content, message):
    Path("dvc.yaml").unlink()
    if content is not None:
        Path("dvc.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UnigrecError, match=message) as raised:
        key()
    assert raised.value.exit_code == EXIT_BAD_INPUT


def test_without_params_the_error_says_what_is_missing(project):
    Path("params.yaml").unlink()
    with pytest.raises(UnigrecError, match=r"params\.yaml: no such file"):
        key()


def run_stage(folder: Path, stage: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", STAGE, stage], cwd=folder, stderr=subprocess.PIPE, text=True)


def kill_after_a_checkpoint_of(process: subprocess.Popen[str], checkpoints: Path, step: int) -> None:
    """Wait for a checkpoint of that step or a later one, and kill the stage while it goes on."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended before it was killed: {process.stderr.read()}"
        if any(saved_step(file) >= step for file in checkpoints.glob("[!.]*.safetensors")):
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            return
    pytest.fail("no checkpoint within two minutes")


def saved_step(checkpoint: Path) -> int:
    return json.loads(files.read_metadata(checkpoint)["numbers"])["step"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes", "steps"),
    [
        ("joint", {"joint": {"engine": "deepspeed", "epochs": 15}}, (10, 31)),  # within epochs of 4 batches
        ("teacher", {"teacher": {"epochs": 60, "patience": 60}}, (50, 100)),
    ],
)
def test_a_stage_killed_twice_ends_with_the_bits_of_an_undisturbed_one(tmp_path, stage, changes, steps):
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        write_project(folder, changes)
    with inside(folders[0]):
        running.run_stage(stage, load_params(Path("params.yaml")))
    checkpoints = folders[1] / paths.CHECKPOINTS / stage
    for step in steps:
        kill_after_a_checkpoint_of(run_stage(folders[1], stage), checkpoints, step)
        (checkpoint,) = checkpoints.glob("[!.]*.safetensors")
        assert saved_step(checkpoint) >= step
    last = run_stage(folders[1], stage)
    assert last.wait() == 0, last.stderr.read()
    for file in (paths.MODEL_FILE, paths.HISTORY_FILE, paths.METRICS_FILE):
        undisturbed, resumed = (folder / Artifacts().root / stage / file for folder in folders)
        assert undisturbed.read_bytes() == resumed.read_bytes(), file
    assert not checkpoints.exists()
