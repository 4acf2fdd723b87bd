"""Tests of the ladder file: the params of each rung, for every profile."""

from __future__ import annotations

import functools
import shutil

import pytest
from benchmarks.quality.ladder import LADDER, Rung, chosen_rungs, profile_params, read_ladder, rung_params
from benchmarks.quality.runs import read_params

from support.project import PARAMS_FILE, ROOT
from unigrec.base.errors import UnigrecError
from unigrec.config.edit import configure
from unigrec.config.profiles import PROFILES, leaves, profile_names
from unigrec.config.read import load_params, read_mapping
from unigrec.config.schema import Params

NAMES = profile_names(ROOT / PROFILES)
RUNGS = {rung.name: rung for rung in read_ladder(ROOT / LADDER)}


@functools.cache  # YAML takes its time, and the tests below ask for the same params again and again
def params_of(name: str, profile: str = "small", *settings: str) -> Params:
    return rung_params(profile_params(ROOT, profile), RUNGS[name], list(settings), 1)


def all_params(profile: str) -> list[Params]:
    return [params_of(name, profile) for name in RUNGS]


def weights(name: str, profile: str = "paper") -> tuple[bool, bool, bool]:
    joint = params_of(name, profile).joint
    return (
        joint.w_tokenizer_distillation > 0,
        joint.w_recommender_distillation > 0,
        joint.w_ranking_distillation > 0,
    )


def test_the_rungs_are_those_of_the_published_table_and_ours():
    assert list(RUNGS) == [
        "M0",
        "M1",
        "M2",
        "M3",
        "M4",
        "M5",
        "M6",
        "M7",
        "M8",
        "M9",
        "M10",
        "M11",
        "M12",
        "M13",
        "M14",
    ]
    assert [RUNGS[name].published.get("ndcg_at_10") for name in RUNGS] == [
        *(0.0346, 0.0385, 0.0410, 0.0415, 0.0425, 0.0453, 0.0457),
        *([None] * 8),
    ]


@pytest.mark.parametrize("profile", NAMES)
def test_each_rung_turns_on_what_its_name_says_whatever_the_profile(profile):
    modes = [params.joint.tokenizer for params in all_params(profile)]
    assert modes == ["hard", "frozen", *["trained"] * 13]
    uniform = [params_of(name, profile).tokenizer.uniformity_weight > 0 for name in RUNGS]
    assert uniform == [False] * 3 + [True] * 12
    assert {name: weights(name, profile) for name in RUNGS} == {
        **dict.fromkeys(("M0", "M1", "M2", "M3"), (False, False, False)),
        "M4": (True, False, False),
        "M5": (False, True, False),
        "M6": (True, True, False),
        **dict.fromkeys(("M7", "M8", "M9", "M10", "M11", "M12", "M13", "M14"), (True, True, True)),
    }
    finetuned = [params_of(name, profile).finetune.w_ranking_distillation > 0 for name in RUNGS]
    assert finetuned == [False] * 7 + [True] * 8
    resolutions = [params_of(name, profile).harden.resolution for name in RUNGS]
    assert resolutions == ["disambiguate"] * 8 + ["reassign"] * 7
    collaborative = [params_of(name, profile).tokenizer.collaborative_weight > 0 for name in RUNGS]
    assert collaborative == [False] * 9 + [True] * 6
    falls = [params_of(name, profile).joint for name in RUNGS]
    assert [joint.temperature_end < joint.temperature_start for joint in falls] == [False] * 10 + [True] * 5
    biased = [(params.teacher.repeat_bias, params.joint.recommender.repeat_bias) for params in all_params(profile)]
    assert biased == [(False, False)] * 11 + [(True, True)] * 4
    assert [params.joint.recommender.merge for params in all_params(profile)] == [False] * 12 + [True] * 3
    vectors = [(params.joint.recommender.item_vectors, params.joint.history_dropout) for params in all_params(profile)]
    assert vectors == [(False, 0.0)] * 13 + [(True, 0.3)] * 2
    longest = profile_params(ROOT, profile)["joint"]["history"]
    assert [params.joint.history for params in all_params(profile)] == [20] * 13 + [longest] * 2
    assert [params.rank.by for params in all_params(profile)] == ["generative"] * 14 + ["best"]


@pytest.mark.parametrize("profile", NAMES)
def test_a_rung_changes_nothing_but_what_it_is_about(profile):
    plain = dict(
        leaves(read_params(rung_params(profile_params(ROOT, profile), Rung("plain", "", {}, None, {}), [], 1)))
    )
    for name in RUNGS:
        own = dict(leaves(read_params(params_of(name, profile))))
        assert {key for key in own if own[key] != plain[key]} <= {
            "tokenizer.uniformity_weight",
            "tokenizer.collaborative_weight",
            "joint.tokenizer",
            "joint.temperature_end",
            "joint.w_tokenizer_distillation",
            "joint.w_recommender_distillation",
            "joint.w_ranking_distillation",
            "harden.resolution",
            "finetune.w_ranking_distillation",
            "teacher.repeat_bias",
            "joint.recommender.merge",
            "joint.recommender.item_vectors",
            "joint.history",
            "joint.history_dropout",
            "joint.recommender.repeat_bias",
            "rank.by",
        }


@pytest.mark.parametrize("profile", NAMES)
def test_profile_and_settings_are_applied_as_configure_applies_them(profile, tmp_path):
    shutil.copytree(ROOT / PROFILES, tmp_path / PROFILES)
    shutil.copy(PARAMS_FILE, tmp_path)
    settings = ["joint.tokenizer_lr=2e-8", "tokenizer.hidden=[8, 4]", "seed=5"]
    here = rung_params(profile_params(ROOT, profile), Rung("plain", "", {}, None, {}), settings[:2], 5)
    configure(tmp_path / "params.yaml", profile=profile, settings=settings)
    assert here == load_params(tmp_path / "params.yaml")


def test_a_setting_wins_over_the_rung_and_the_rung_over_the_profile():
    assert params_of("M0").tokenizer.uniformity_weight == 0.0
    assert params_of("M0", "small", "tokenizer.uniformity_weight=0.5").tokenizer.uniformity_weight == 0.5


def test_the_seed_is_the_runs_own():
    assert rung_params(profile_params(ROOT, "small"), RUNGS["M0"], ["seed=9"], 3).seed == 3


def test_rungs_are_chosen_by_name_in_the_ladders_order():
    ladder = list(RUNGS.values())
    assert [rung.name for rung in chosen_rungs(ladder, "M3, M0")] == ["M0", "M3"]
    with pytest.raises(UnigrecError, match="no rung 'M99'; there are M0, M1"):
        chosen_rungs(ladder, "M0,M99")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A: {prams: {}}", "A: expected a mapping with against, description, params, parts, published"),
        ("A: 3", "A: expected a mapping"),
        ("A: {}\nB: {against: C}", "B: against: no rung 'C' before it"),
    ],
)
def test_a_broken_ladder_is_refused_by_the_rungs_name(text, message, tmp_path):
    (tmp_path / "ladder.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UnigrecError, match=message):
        read_ladder(tmp_path / "ladder.yaml")


def test_a_rung_inherits_from_the_one_it_is_compared_with(tmp_path):
    text = """
A: {params: {joint: {epochs: 1, history: 2}}}
B: {params: {joint: {epochs: 3}}}
C: {against: A, params: {seed: 4, joint: {history: profile}}}
D: {}
"""
    (tmp_path / "ladder.yaml").write_text(text, encoding="utf-8")
    rungs = read_ladder(tmp_path / "ladder.yaml")
    assert [rung.against for rung in rungs] == [None, "A", "A", "C"]
    assert [rung.params for rung in rungs] == [
        {"joint.epochs": 1, "joint.history": 2},
        {"joint.epochs": 3, "joint.history": 2},
        *[{"joint.epochs": 1, "seed": 4}] * 2,
    ]


@pytest.mark.parametrize("profile", NAMES)
def test_m6_runs_with_the_published_losses_and_m10_with_ours(profile):
    published, ours = params_of("M6", profile), params_of("M10", profile)
    own = rung_params(profile_params(ROOT, profile), Rung("plain", "", {}, None, {}), [], 1)
    for params in (published, ours):
        assert params.joint.tokenizer == "trained"
        assert params.tokenizer.uniformity_weight == own.tokenizer.uniformity_weight
        assert params.joint.w_tokenizer_distillation == own.joint.w_tokenizer_distillation
        assert params.joint.w_recommender_distillation == own.joint.w_recommender_distillation
    assert (published.joint.temperature_end, ours.joint.temperature_end) == (0.001, 0.0001)
    assert (published.joint.w_ranking_distillation, ours.joint.w_ranking_distillation) == (0.0, 1.0)
    assert (published.finetune.w_ranking_distillation, ours.finetune.w_ranking_distillation) == (0.0, 1.0)
    assert (published.tokenizer.collaborative_weight, ours.tokenizer.collaborative_weight) == (0.0, 1.0)
    assert (published.harden.resolution, ours.harden.resolution) == ("disambiguate", "reassign")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["joint.epoch=3"], "unknown key 'joint.epoch'; did you mean joint.epochs"),
        (["joint.epochs=none"], "M0: joint.epochs = 'none'"),
        (["joint.epochs"], "expected section.key=value"),
    ],
)
def test_a_bad_setting_is_refused(settings, message):
    with pytest.raises(UnigrecError, match=message):
        params_of("M0", "small", *settings)


def test_every_key_of_the_ladder_is_one_of_params():
    known = dict(leaves(read_mapping(PARAMS_FILE)))
    assert all(set(rung.params) <= set(known) for rung in RUNGS.values())
