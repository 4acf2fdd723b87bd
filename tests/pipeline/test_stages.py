"""What the stages settle before they train."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml

from support.gate_figures import GOOD_HEALTH
from support.project import PARAMS_FILE, ROOT
from support.tiny_training import tiny_run, write_project
from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.base.process import training_device
from unigrec.commands.bundles import COLD_START
from unigrec.config.edit import SAMPLE_SOURCE
from unigrec.config.read import load_params
from unigrec.config.schema import Params
from unigrec.core.identifiers.health import identifier_curve
from unigrec.core.training import joint
from unigrec.pipeline import outputs, running, stages

COLUMNS = {"brand": 3, "title": 1000}  # different values per column


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds on a CPU")
def test_the_gradient_of_a_gather_has_the_same_bits_with_two_threads(two_threads):
    assert training_device() == torch.device("cpu")
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(500, (4000, 20), generator=generator)
    upstream = torch.randn(4000, 20, 64, generator=generator)

    def gradient() -> torch.Tensor:
        table = torch.zeros(500, 64, requires_grad=True)
        table[index].backward(upstream)
        return table.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(5))


def test_the_sample_and_a_cold_start_stand_in_params_as_committed_files():
    params = load_params(PARAMS_FILE)
    assert (params.ingest.path, params.warm_start.path) == (SAMPLE_SOURCE["ingest.path"], COLD_START)
    for file in (params.ingest.path, params.warm_start.path):
        assert (ROOT / file).is_file()
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {"${ingest.path}", "src/unigrec/data/sources"} <= set(graph["ingest"]["deps"])
    assert {"${warm_start.path}", "src/unigrec/pipeline/warm_start.py"} <= set(graph["warm_start"]["deps"])


def test_what_the_stages_report_is_shown_by_dvc():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert {str(folder / paths.HEALTH_FILE) for folder in (Artifacts().tokenizer, Artifacts().harden)} <= set(
        graph["metrics"]
    )


def test_the_health_of_hard_identifiers_is_measured_at_the_temperature_of_the_kept_weights(
    tmp_path, monkeypatch, without_pictures
):
    params = write_project(tmp_path, {"joint": {"temperature_start": 0.5, "temperature_end": 0.001}})
    monkeypatch.chdir(tmp_path)
    scores = iter([0.5, 0.2, 0.1])  # the first epoch is the best
    monkeypatch.setattr(joint.JointTraining, "validate", lambda training: {"validation_ndcg_at_10": next(scores)})
    running.run_stage("joint", params)
    running.run_stage("harden", params)
    artifacts = Artifacts()
    report = files.read_json(artifacts.harden / paths.HEALTH_FILE)
    curve = identifier_curve(
        outputs.load_unified(artifacts).tokenizer, outputs.load_item_vectors(artifacts), temperature=0.5
    )
    assert report["soft_hard_disagreement"] == curve["soft_hard_disagreement"] > 0.0


def test_a_joint_phase_of_an_earlier_version_must_run_again(tmp_path, monkeypatch, without_pictures):
    params = write_project(tmp_path, {"joint": {"epochs": 1}})
    monkeypatch.chdir(tmp_path)
    running.run_stage("joint", params)
    file = Artifacts().joint / paths.MODEL_CONFIG_FILE
    config = files.read_json(file)
    del config["temperature"]
    files.write_json(file, config)
    with pytest.raises(UnigrecError, match=r"config\.json: no temperature .* run the stage joint again"):
        running.run_stage("harden", params)


def test_the_gate_prints_the_targets_of_the_tokenizer_before_the_joint_phase(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    artifacts = Artifacts()
    files.write_json(artifacts.evaluate / paths.METRICS_FILE, {})
    files.write_json(artifacts.evaluate / paths.AGAINST_FILE, {})
    files.write_json(artifacts.harden / paths.HEALTH_FILE, {})
    files.write_json(artifacts.tokenizer / paths.HEALTH_FILE, GOOD_HEALTH | {"soft_hard_disagreement": 0.5})
    running.run_stage("gate", load_params(PARAMS_FILE))
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("tokenizer: target met: ") for line in lines] == [True, True, False, True]
    assert lines[2].startswith("tokenizer: target missed: share of items whose soft and hard codes differ")


def test_a_threshold_makes_no_other_stage_than_gate_run_again():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    readers = {name for name, stage in graph.items() for key in stage["params"] if key.split(".")[0] == "gate"}
    assert readers == {"gate"}


@pytest.mark.parametrize(("origin", "compared"), [("folder: shop", True), ("sample: generator", False)])
def test_sizes_are_compared_with_a_registered_run_of_the_same_source_only(tmp_path, monkeypatch, origin, compared):
    monkeypatch.chdir(tmp_path)
    files.write_json(paths.REFERENCE, {"origin": origin, "users": 1, "items": 2, "interactions": 3})
    expected = {"users": 1, "items": 2, "interactions": 3} if compared else None
    assert stages.reference_sizes("folder: shop") == expected


def with_brands(folder: Path, fields: list[str]) -> Params:
    """A project whose items have a column of brands, and one of texts that all differ."""
    params = write_project(folder, {"teacher": {"fields": fields, "epochs": 1}})
    catalogue = files.read_table(folder / Artifacts().catalogue)
    brands, titles = ([f"{name} {item % count}" for item in range(len(catalogue))] for name, count in COLUMNS.items())
    table = catalogue.append_column("brand", pa.array(brands)).append_column("title", pa.array(titles))
    files.write_table(folder / Artifacts().catalogue, table)
    return params


def trained_teacher(folder: Path, params: Params) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Weights and history that the stage writes."""
    artifacts = Artifacts(folder / Artifacts().root)
    stages.teacher(params, artifacts, tiny_run())
    history = files.read_json(artifacts.teacher / paths.HISTORY_FILE)
    return files.read_tensors(artifacts.teacher / paths.MODEL_FILE), history


def test_the_teacher_predicts_the_fields_that_params_name_and_its_files_are_as_without(tmp_path, capsys):
    plain, _ = trained_teacher(tmp_path, with_brands(tmp_path, []))
    weights, history = trained_teacher(tmp_path, with_brands(tmp_path, ["brand", "title"]))
    assert 0.0 < history[-1]["field_loss"] < 2.0  # one head, for three brands
    assert weights.keys() == plain.keys()
    assert "teacher: warning: field title is ignored" in capsys.readouterr().out


def test_a_field_without_a_usable_value_trains_the_teacher_that_has_none(tmp_path):
    plain, history = trained_teacher(tmp_path, with_brands(tmp_path, []))
    weights, with_title = trained_teacher(tmp_path, with_brands(tmp_path, ["title"]))
    assert with_title == history
    assert all(torch.equal(weights[name], value) for name, value in plain.items())


def test_a_field_that_the_items_do_not_have_is_refused_before_training(tmp_path):
    params = with_brands(tmp_path, ["brand", "colour"])
    shutil.rmtree(tmp_path / Artifacts().teacher)
    with pytest.raises(UnigrecError, match="no column 'colour'; their columns are: brand, title"):
        trained_teacher(tmp_path, params)
    assert not (tmp_path / Artifacts().teacher).exists()
