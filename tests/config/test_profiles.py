"""Profiles and single settings: dotted keys, values of YAML, hints for a misspelt key."""

from __future__ import annotations

import pytest

from unigrec.base.errors import UnigrecError
from unigrec.config.profiles import leaves, parse_setting, profile_names, profile_values, with_values


def test_leaves_are_the_values_under_dotted_keys_and_a_list_is_one():
    nested = {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}
    assert list(leaves(nested)) == [("a.b", 1), ("a.c.d", [1, 2]), ("e", None)]
    assert dict(leaves(nested, "stage.")) == {"stage.a.b": 1, "stage.a.c.d": [1, 2], "stage.e": None}


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("joint.epochs=20", "joint.epochs", 20),
        (" joint.lr = 5e-3", "joint.lr", 0.005),
        ("joint.lr=1e5", "joint.lr", 100_000.0),
        ("a=true", "a", True),
        ("a=on", "a", "on"),
        ('a="1"', "a", "1"),
        ("a=b=c", "a", "b=c"),
        ("a=", "a", ""),
        ("a=[1, b]", "a", [1, "b"]),
        ("""a="Type" = 'order'""", "a", """"Type" = 'order'"""),  # SQL, not YAML
        ("""a='x' IN ("Kind")""", "a", """'x' IN ("Kind")"""),
        ("a='it''s'", "a", "it's"),
    ],
)
def test_a_setting_is_a_key_and_a_value_of_yaml(setting, key, value):
    found = parse_setting(setting)
    assert found == (key, value)
    assert isinstance(found[1], type(value))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed", "expected section.key=value"),
        ("=3", "expected"),
        ("a=[1", "not valid YAML"),
        ('a="x', "not valid YAML"),
    ],
)
def test_a_setting_of_another_form_is_refused(setting, message):
    with pytest.raises(UnigrecError, match=f"--set {setting.replace('[', '.')}: {message}"):
        parse_setting(setting)


def test_a_profile_starts_from_the_sample(tmp_path):
    (tmp_path / "sample.yaml").write_text("joint: {epochs: 3, lr: 5e-3}\n")
    (tmp_path / "large.yaml").write_text("joint: {epochs: 30}\n")
    assert profile_names(tmp_path) == ["sample", "large"]
    assert profile_values(tmp_path, "large") == {"joint.epochs": 30, "joint.lr": 0.005}
    with pytest.raises(UnigrecError, match=r"no profile 'larg' .* there are sample, large; did you mean large\?"):
        profile_values(tmp_path, "larg")


def test_values_are_set_in_a_copy_and_only_under_known_keys():
    values = {"joint": {"epochs": 3}, "seed": 1}
    assert with_values(values, {"joint.epochs": 4}) == {"joint": {"epochs": 4}, "seed": 1}
    assert values["joint"]["epochs"] == 3
    with pytest.raises(UnigrecError, match=r"unknown key 'joint.epoch'; did you mean joint.epochs"):
        with_values(values, {"joint.epoch": 4})
