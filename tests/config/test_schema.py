"""Config: every finding names the key, the value and what is allowed."""

from __future__ import annotations

import copy

import pydantic
import pytest

from support.project import PARAMS_FILE
from unigrec.base.errors import EXIT_BAD_INPUT, UnigrecError
from unigrec.config.read import load_params, parse_params, read_mapping
from unigrec.config.schema import Params
from unigrec.config.spark import SparkParams
from unigrec.core.evaluation.protocol import GATED_CUTOFF

COMMITTED = read_mapping(PARAMS_FILE)


def changed(key: str, value: object) -> dict:
    raw = copy.deepcopy(COMMITTED)
    *sections, name = key.split(".")
    section = raw
    for part in sections:
        section = section[part]
    section[name] = value
    return raw


def test_the_committed_params_are_valid():
    params = parse_params(COMMITTED)
    assert params.validation.min_users == COMMITTED["validate"]["min_users"]
    assert params.tokenizer.hidden == tuple(COMMITTED["tokenizer"]["hidden"])
    assert params.register_.model_name == COMMITTED["register"]["model_name"]


def test_params_are_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        parse_params(COMMITTED).seed = 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("joint.epoch", 3, "unknown key 'joint.epoch' .value 3."),
        ("tokeniser", {"levels": 3}, "unknown key 'tokeniser'"),
        ("joint.epochs", "ten", "joint.epochs = 'ten': input should be a valid integer"),
        ("joint.epochs", 2.5, "joint.epochs = 2.5: input should be a valid integer"),
        ("joint.epochs", True, "joint.epochs = True: input should be a valid integer"),
        ("joint.epochs", None, "joint.epochs = None: input should be a valid integer"),
        ("joint.epochs", 0, "joint.epochs = 0: input should be greater than or equal to 1"),
        ("joint.recommender_lr", "5e-3", "joint.recommender_lr = '5e-3': input should be a valid number"),
        ("joint.recommender_lr", 0.0, "joint.recommender_lr = 0.0: input should be greater than 0"),
        ("joint.recommender_lr", float("inf"), "joint.recommender_lr = inf: input should be a finite number"),
        ("gate.min_margin_over_cooccurrence", float("nan"), "cooccurrence = nan: input should be a finite number"),
        ("joint.recommender.dropout", 1.0, "joint.recommender.dropout = 1.0: input should be less than 1"),
        ("gate.max_collision_rate", 1.5, "gate.max_collision_rate = 1.5: input should be less than or equal to 1"),
        ("embed.encoder", "bert", "embed.encoder = 'bert': input should be 'tfidf-svd', 'minilm' or 'sentence-tr"),
        ("embed.text_columns", ["title", 3], r"embed.text_columns.1 = 3: input should be a valid string"),
        ("tokenizer.hidden", [], "tokenizer.hidden = .*at least 1 item"),
        ("ingest.path", "", "ingest.path = '': string should have at least 1 character"),
        ("seed", -1, "seed = -1: input should be greater than or equal to 0"),
        ("joint", [1], r"joint = \[1\]: input should be"),
    ],
)
def test_a_finding_names_key_value_and_what_is_allowed(key, value, message):
    with pytest.raises(UnigrecError, match=message) as raised:
        parse_params(changed(key, value), "params.yaml")
    assert str(raised.value).startswith("params.yaml: ")
    assert raised.value.exit_code == EXIT_BAD_INPUT


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("teacher.heads", 3, r"teacher: d_model \(\d+\) must be a multiple of heads \(3\)"),
        ("evaluate.beam", 5, "evaluate.cutoffs asks for the first 20, but evaluate.beam finds only 5"),
        ("evaluate.cutoffs", [5, 20], f"must contain {GATED_CUTOFF}"),
        ("embed.encoder", "sentence-transformers", "embed.model must name a model"),
        ("serve.date", "released", r"serve.date \(released\) must be one of serve.columns"),
        ("serve.columns", ["price", "train_count"], "'train_count' is in every bundle"),
        ("spark.master", "locale[2]", r"'locale\[2\]' is no master of Spark: local"),
        ("spark.master", "k8s://https://me:word@host:6443", "holds a user or a password"),
        ("spark.conf", {"executor.memory": "1g"}, "begin with spark."),
        ("spark.conf", {"spark.hadoop.fs.s3a.secret.key": "x"}, "fs.s3a.secret.key may hold a secret"),
        ("spark.conf", {"spark.hadoop.fs.s3a.access.key": "x"}, "fs.s3a.access.key may hold a secret"),
        ("spark.conf", {"spark.jars.repositories": "https://me:word@host/"}, "repositories may hold a secret"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(key, value, message):
    with pytest.raises(UnigrecError, match=message):
        parse_params(changed(key, value))


def test_a_missing_key_and_a_missing_section_are_named():
    raw = copy.deepcopy(COMMITTED)
    del raw["joint"]["epochs"], raw["gate"]
    with pytest.raises(UnigrecError) as raised:
        parse_params(raw, "params.yaml")
    assert str(raised.value).splitlines() == [
        "params.yaml: missing key 'joint.epochs'",
        "params.yaml: missing key 'gate'",
    ]


def test_every_finding_is_listed_at_once():
    raw = changed("joint.epochs", 0)
    raw["seed"] = "one"
    with pytest.raises(UnigrecError) as raised:
        parse_params(raw)
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"seed: [1", "not valid YAML"),
        (b"seed: 1\nseed: 2", r"not valid YAML: (.|\n)*duplicate key \"seed\""),
        (b"seed: 2026-13-45", "not valid YAML: month must be"),
        (b"seed: \xff", "not UTF-8"),
        (b"seed: \0", "not valid YAML"),
        (b"- seed", "expected a mapping of sections, found list"),
        (b"", "expected a mapping of sections, found NoneType"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, message):
    file = tmp_path / "params.yaml"
    file.write_bytes(text)
    with pytest.raises(UnigrecError, match=rf"params\.yaml: {message}"):
        load_params(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnigrecError, match=r"absent\.yaml: no such file"):
        load_params(tmp_path / "absent.yaml")


def test_numbers_and_words_are_read_as_dvc_reads_them(tmp_path):
    file = tmp_path / "some.yaml"
    file.write_text("a: 5e-3\nb: on\nc: true\nd: 010\ne: [1, 2.0]\n", encoding="utf-8")
    assert read_mapping(file) == {"a": 0.005, "b": "on", "c": True, "d": 10, "e": [1, 2.0]}


@pytest.mark.parametrize(("key", "nearest"), [("start", "warm_start"), ("joint.epoch", "epochs"), ("xyzzy", None)])
def test_an_unknown_key_is_named_with_the_nearest_one(key, nearest):
    raw, (*sections, name) = copy.deepcopy(COMMITTED), key.split(".")
    section = raw
    for part in sections:
        section = section[part]
    section[name] = {"path": "a/bundle"}
    with pytest.raises(UnigrecError) as raised:
        parse_params(raw, "params.yaml")
    advice = f"did you mean {nearest!r}?" if nearest else "compare with the committed params.yaml"
    assert str(raised.value) == f"params.yaml: unknown key {key!r} (value {{'path': 'a/bundle'}}); {advice}"


def test_every_section_of_the_file_is_in_the_schema():
    fields = {field.alias or name for name, field in Params.model_fields.items()}
    assert fields == set(COMMITTED)


def test_settings_of_spark_may_be_numbers_and_truth_values():
    values = {"spark.sql.shuffle.partitions": 4, "spark.memory.fraction": 0.5, "spark.ui.enabled": False}
    conf = SparkParams(conf=values | {"spark.driver.memory": "4g"}).conf  # type: ignore[arg-type]
    assert list(conf.values()) == ["4", "0.5", "false", "4g"]
