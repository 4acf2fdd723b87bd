"""Mask passwords in everything that is printed, logged or stored: credentials in addresses, values of secrets."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
SERVE_TOKENS_VARIABLE = "UNIGREC_SERVE_TOKENS"  # who may ask the service: tokens with commas between them
WEBHOOK_VARIABLE = "UNIGREC_WEBHOOK_URL"  # where notifications go; a secret, as anyone who knows it may post
SECRET_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "PGPASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    SERVE_TOKENS_VARIABLE,
    WEBHOOK_VARIABLE,
)
MIN_SECRET_LENGTH = 4  # a shorter value would occur in ordinary words
# user:password@ or user@ after ://. A password may hold @ and /, but host:5000/ is no user with a password.
_CREDENTIALS = re.compile(r"(?<=://)(?:[^\s/@:'\"]*:(?!\d+/)[^\s'\"]*|[^\s/@'\"]+)@")


class Address(NamedTuple):
    """An http address without its credentials, and the credentials; None if it has none."""

    uri: str
    user: str | None
    password: str | None


def masked(text: str) -> str:
    """Replace the credentials of every address in the text, and the value of every secret variable, by ***."""
    text = _CREDENTIALS.sub(f"{HIDDEN}@", text)
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= MIN_SECRET_LENGTH:
            text = text.replace(value, HIDDEN)
    return text


def holds_credentials(uri: str) -> bool:
    """Whether an address holds a user or a password."""
    return _CREDENTIALS.search(uri) is not None


def split_credentials(uri: str) -> Address:
    """Take user and password out of an http or https address; return any other address unchanged."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return Address(uri, None, None)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    return Address(bare, user, password)
