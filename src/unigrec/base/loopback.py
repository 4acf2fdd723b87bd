"""Servers on this machine are asked directly, whatever proxies the environment names."""

from __future__ import annotations

import importlib.util
import os
import sys
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost", "::1")
NO_PROXY = ("no_proxy", "NO_PROXY")  # some programs read the one, some the other, some the first that there is
PROXIES = [form(f"{kind}_proxy") for kind in ("http", "https", "all") for form in (str.lower, str.upper)]


def ask_this_machine_directly() -> None:
    """Exempt this machine from the proxies of this process, and of the processes that it starts from now on."""
    given = [os.environ.get(name, "") for name in NO_PROXY]
    hosts = list(dict.fromkeys(host.strip() for value in given for host in value.split(",") if host.strip()))
    if "*" in hosts:  # no proxy at all; next to other hosts, some programs do not understand it
        hosts = ["*"]
    else:
        hosts += [host for host in HOSTS if host not in hosts]
    for name in NO_PROXY:
        os.environ[name] = ",".join(hosts)


def drop_proxies_that_httpx_refuses() -> None:
    """Remove proxies with which no client of httpx can be made, even for a server that is asked directly."""
    for name in PROXIES:
        scheme = urlsplit(os.environ.get(name, "")).scheme if "://" in os.environ.get(name, "") else "http"
        if scheme in ("http", "https") or (
            scheme in ("socks5", "socks5h") and importlib.util.find_spec("socksio") is not None
        ):
            continue
        advice = "install socksio to use it" if scheme.startswith("socks5") else "expected http, https or socks5"
        print(f"the proxy in {name} is of kind {scheme}, and is not used here: {advice}", file=sys.stderr)
        del os.environ[name]
