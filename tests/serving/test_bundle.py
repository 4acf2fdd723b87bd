"""A bundle recommends what its model says, and nothing that was tampered with loads."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from support.bundles import resign
from support.project import PARAMS_FILE
from support.tiny_model import ITEMS, LEVELS, SERVING, bundle_in, item_ids, make_bundle
from unigrec.base import files, git, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.paths import Artifacts
from unigrec.core.models.unified import embed_hard_history
from unigrec.core.retrieval.beam import exact_scores
from unigrec.serving import manifest as bundle_files
from unigrec.serving.bundle import Bundle


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return bundle_in(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def folder(pristine, tmp_path) -> Path:
    return shutil.copytree(pristine, tmp_path / pristine.name)


@pytest.fixture(scope="module")
def bundle(pristine) -> Bundle:
    return Bundle.load(pristine)


def ids_of(answer) -> list[str]:
    return [item.item_id for item in answer.items]


def test_recommends_what_the_exact_scorer_ranks_first(bundle):
    history = ["P3", "P5"]
    codes = torch.as_tensor(files.read_arrays(bundle.folder / "identifiers.safetensors")["codes"].astype(np.int64))
    indices = torch.tensor([[bundle.index_of[item] for item in history]])
    source, mask = embed_hard_history(bundle.recommender, codes[indices][..., :LEVELS], torch.tensor([2]))
    expected = exact_scores(bundle.recommender, codes, source, mask)[0].sort(descending=True)
    answer = bundle.recommend([history], k=ITEMS)[0]
    assert ids_of(answer) == [bundle.item_ids[index] for index in expected.indices.tolist()]
    np.testing.assert_allclose([item.score for item in answer.items], expected.values, atol=1e-5)


def test_a_batch_answers_as_each_history_alone(bundle):
    histories = [["P3"], ["a,b", "квас", "P4", "P9"], ["two words", "P3"]]
    together = bundle.recommend(histories, k=4)
    alone = [bundle.recommend([history], k=4)[0] for history in histories]
    assert [ids_of(answer) for answer in together] == [ids_of(answer) for answer in alone]


def test_unknown_items_are_left_out_and_counted(bundle):
    answer = bundle.recommend([["gone", "P3", "also gone"]], k=3)[0]
    assert answer.unknown == 2
    assert not answer.by_popularity
    assert answer.items == bundle.recommend([["P3"]], k=3)[0].items


@pytest.mark.parametrize("history", [[], ["gone"]])
def test_nothing_known_gets_the_most_popular_and_says_so(bundle, history):
    answer = bundle.recommend([["P3"], history], k=3)[1]
    assert answer.by_popularity
    assert ids_of(answer) == ["P11", "P10", "P9"]
    assert answer.unknown == len(history)


def test_allow_and_deny_lists_hold_for_model_and_popularity(bundle):
    allow, deny = ["P4", "P5", "P6", "gone"], ["P5"]
    for answer in bundle.recommend([["P3"], []], k=10, allow=allow, deny=deny):
        assert set(ids_of(answer)) == {"P4", "P6"}


def test_history_may_be_excluded(bundle):
    answer = bundle.recommend([["P3", "P4", "P3"]], k=ITEMS, exclude_history=True)[0]
    assert set(ids_of(answer)) == set(item_ids()) - {"P3", "P4"}


@pytest.mark.parametrize(
    ("options", "message"), [({"k": 0}, "k = 0"), ({"k": 99}, "k = 99"), ({"allow": []}, "no item")]
)
def test_impossible_questions_are_refused(bundle, options, message):
    with pytest.raises(UnigrecError, match=message):
        bundle.recommend([["P3"]], **({"k": 1} | options))


def test_a_missing_title_is_empty(bundle):
    titles = {item.item_id: item.title for item in bundle.recommend([["P3"]], k=ITEMS)[0].items}
    assert titles["a,b"] == ""
    assert titles["квас"] == "title 2"


@pytest.mark.parametrize(("columns", "shown"), [({"brand": "title"}, "title 3"), ({}, "")])
def test_without_titles_the_first_other_text_is_shown(folder, columns, shown):
    catalogue = files.read_table(folder / "catalogue.parquet")
    texts = {name: catalogue[source] for name, source in columns.items()}
    catalogue = catalogue.drop_columns("title")
    for name, values in texts.items():
        catalogue = catalogue.append_column(name, values)
    files.write_table(folder / "catalogue.parquet", catalogue)
    resign(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["serving"]["text_columns"] = ["categories", "brand"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    answer = Bundle.load(folder).recommend([["P3"]], k=ITEMS)[0]
    assert {item.item_id: item.title for item in answer.items}["P3"] == shown


def test_equal_artifacts_make_the_same_bundle(tmp_path, monkeypatch, pristine):
    monkeypatch.chdir(tmp_path)
    assert make_bundle().name == make_bundle().name == pristine.name
    assert make_bundle(seed=1).name != pristine.name
    assert sorted(path.name for path in (tmp_path / paths.BUNDLES).iterdir() if path.name.startswith(".")) == []


def test_a_machine_without_git_has_an_unknown_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git.git_commit() == "unknown"


def test_the_commit_names_the_code_and_what_a_run_rewrites_is_no_change_of_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert git.git_commit() == "unknown"
    for name in ("params.yaml", "dvc.lock", "code.py"):
        (tmp_path / name).write_text("as committed")
    for command in ("init --quiet", "add --all", "-c user.name=joe -c user.email=joe@host commit --quiet -m code"):
        subprocess.run(["git", *command.split()], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "params.yaml").write_text("of this run")
    (tmp_path / "dvc.lock").write_text("of this run")
    assert git.git_commit() == commit
    (tmp_path / "code.py").write_text("changed")
    assert git.git_commit() == f"{commit}-dirty"


def test_a_missing_artifact_leaves_no_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_bundle()
    shutil.rmtree(folder)
    (Artifacts().evaluate / paths.RANKS_FILE).unlink()
    with pytest.raises(UnigrecError, match=r"ranks.parquet: no such file; run the pipeline"):
        bundle_files.assemble(PARAMS_FILE, SERVING)
    assert list(paths.BUNDLES.iterdir()) == []


@pytest.mark.parametrize("stage", [Artifacts().tokenizer, Artifacts().text_encoder], ids=str)
def test_a_stage_that_has_not_run_is_named(tmp_path, monkeypatch, stage):
    monkeypatch.chdir(tmp_path)
    make_bundle()
    shutil.rmtree(stage)
    with pytest.raises(UnigrecError, match=rf"^{stage}\S*: no such (file|folder); run the pipeline"):
        bundle_files.assemble(PARAMS_FILE, SERVING)


# --- tampering: refused before anything but the manifest is parsed --------------------------------------------------


def test_every_changed_file_is_named(pristine, tmp_path):
    for number, name in enumerate(json.loads((pristine / "manifest.json").read_text())["files"]):
        folder = shutil.copytree(pristine, tmp_path / str(number))
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(bytes(content))
        with pytest.raises(UnigrecError, match=f"{name}: changed since"):
            Bundle.load(folder)


def test_an_unlisted_file_is_refused(folder):
    (folder / "text_encoder/extra.json").write_text("{}")
    with pytest.raises(UnigrecError, match=r"does not know: text_encoder/extra.json"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["text_encoder/model.pkl", "report/run.py", "model.pt", "report/x.bin"])
def test_a_kind_of_file_that_could_hold_code_is_refused_even_when_listed(folder, name):
    (folder / name).write_bytes(b"\x80\x04.")
    resign(folder)
    with pytest.raises(UnigrecError, match="has no place in a bundle"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "name",
    ["../outside.json", "/etc/passwd", "report/../../x.json", "report//x.json", "report/./x.json", "report\\x.json"],
)
def test_a_path_outside_is_refused(folder, name):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UnigrecError, match="has no place in a bundle"):
        Bundle.load(folder)


def test_a_link_is_refused(folder):
    target = folder / "report/gate/decision.json"
    target.unlink()
    target.symlink_to("/etc/hostname")
    with pytest.raises(UnigrecError, match="a link or special file"):
        Bundle.load(folder)


def test_a_huge_header_is_refused(folder):
    path = folder / "recommender.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + path.read_bytes()[8:])
    resign(folder)
    with pytest.raises(UnigrecError, match="header claims"):
        Bundle.load(folder)


def test_a_huge_network_is_refused_without_being_built(folder):
    config = json.loads((folder / "recommender.json").read_text())
    (folder / "recommender.json").write_text(json.dumps(config | {"d_model": 1 << 24, "d_ff": 1 << 24}))
    resign(folder)
    with pytest.raises(UnigrecError, match="weights do not fit"):
        Bundle.load(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "files": {}}'])
def test_a_broken_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_text(content)
    with pytest.raises(UnigrecError, match=r"manifest.json"):
        Bundle.load(folder)


def test_missing_parts_are_named(folder):
    (folder / "tokenizer.safetensors").unlink()
    with pytest.raises(UnigrecError, match=r"lacks tokenizer.safetensors"):
        Bundle.load(folder)
    resign(folder)  # a manifest that does not list it does not help
    with pytest.raises(UnigrecError, match=r"lacks tokenizer.safetensors"):
        Bundle.load(folder)


# --- parts that do not belong together ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: codes[:-1], "identifiers for 11"),
        (lambda codes: codes[:, :-1], "expected codes int32"),
        (lambda codes: codes.astype(np.int64), "expected codes int32"),
        (lambda codes: codes + 100, "12 items have codes beyond"),
        (lambda codes: np.repeat(codes[:1], len(codes), axis=0), "share a semantic ID"),
    ],
)
def test_identifiers_must_fit(folder, change, message):
    path = folder / "identifiers.safetensors"
    files.write_tensors(path, {"codes": change(files.read_arrays(path)["codes"])})
    resign(folder)
    with pytest.raises(UnigrecError, match=message):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("item_id", ["same"] * ITEMS, "null or repeat"),
        ("item_id", [None] * ITEMS, "null or repeat"),
        ("item_index", list(range(1, ITEMS + 1)), "does not count"),
        ("train_count", None, "columns are missing: train_count"),
        ("train_count", [None, *range(1, ITEMS)], "null or negative"),
        ("train_count", [-1] * ITEMS, "null or negative"),
    ],
)
def test_the_catalogue_must_fit(folder, column, values, message):
    path = folder / "catalogue.parquet"
    columns = files.read_table(path).to_pydict()
    if values is None:
        del columns[column]
    else:
        columns[column] = values
    files.write_table(path, pa.table(columns))
    resign(folder)
    with pytest.raises(UnigrecError, match=message):
        Bundle.load(folder)


def test_weights_that_are_not_finite_are_refused(folder):
    path = folder / "recommender.safetensors"
    weights = files.read_tensors(path)
    weights["token_table.weight"][0, 0] = float("nan")
    files.write_tensors(path, weights)
    resign(folder)
    with pytest.raises(UnigrecError, match=r"not finite: token_table.weight"):
        Bundle.load(folder)


def test_a_tokenizer_of_another_shape_is_refused(folder):
    from unigrec.core.models.tokenizers.residual import Tokenizer

    shape = json.loads((folder / "tokenizer.json").read_text()) | {"levels": 3}
    files.write_tensors(folder / "tokenizer.safetensors", Tokenizer(**shape).state_dict())
    files.write_json(folder / "tokenizer.json", shape)
    resign(folder)
    with pytest.raises(UnigrecError, match="do not belong together"):
        Bundle.load(folder)
