"""Masking: credentials in addresses and the values of secret variables are hidden, and nothing else."""

from __future__ import annotations

import pytest

from unigrec.base.masking import holds_credentials, masked, split_credentials

SECRET = "pl4nted-secret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"at http://joe:{SECRET}@host:5000/api fails", "at http://***@host:5000/api fails"),
        (f"postgresql+psycopg2://joe:{SECRET}@host/db", "postgresql+psycopg2://***@host/db"),
        (f"http://{SECRET}@host", "http://***@host"),  # a token as user
        (f"http://joe:p@ss/w0rd@{SECRET}@host/a", "http://***@host/a"),  # not quoted as it should be
        (f"'http://:{SECRET}@a' and 'http://b'", "'http://***@a' and 'http://b'"),
        ("http://host:5000/a@b, sqlite:///mlflow.db, joe@host", None),
        ("s3://bucket/joe@host", None),
    ],
)
def test_credentials_of_addresses_are_hidden_and_nothing_else(text, shown):
    assert masked(text) == (shown or text)
    assert holds_credentials(text) is (shown is not None)


def test_the_values_of_secret_variables_are_hidden(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "ab")  # too short to tell from a word
    assert masked(f"key {SECRET}, about") == "key ***, about"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("https://joe:p%40ss@host:1/a?b=c", ("https://host:1/a?b=c", "joe", "p@ss")),
        ("http://joe@host", ("http://host", "joe", None)),
        ("http://host:1", ("http://host:1", None, None)),
        ("postgresql://joe:pass@host/db", ("postgresql://joe:pass@host/db", None, None)),
    ],
)
def test_http_addresses_are_split(uri, parts):
    assert split_credentials(uri) == parts
