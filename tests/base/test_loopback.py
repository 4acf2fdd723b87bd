"""Our own servers are asked directly, whatever proxy is set and however."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import requests

from unigrec.base.loopback import NO_PROXY, PROXIES, ask_this_machine_directly, drop_proxies_that_httpx_refuses

NOWHERE = "http://127.0.0.1:9"  # a proxy that does not answer


class Here(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Here) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Nothing that a test sets is left."""
    for name in (*PROXIES, *NO_PROXY):
        monkeypatch.setenv(name, "")
        os.environ.pop(name)


def answers(url: str) -> list[str]:
    """What the clients of Prefect, of MLflow and of our own waiting get."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        waited = answer.read().decode()
    with httpx.Client(timeout=5) as client:
        return [client.get(url).text, requests.get(url, timeout=5).text, waited]


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("exempt", [{}, {"no_proxy": "shop.example"}, {"NO_PROXY": ".corp"}, {"no_proxy": "*"}])
def test_a_server_on_this_machine_is_asked_directly(port, monkeypatch, name, exempt):
    monkeypatch.setenv(name, NOWHERE)
    for variable, hosts in exempt.items():
        monkeypatch.setenv(variable, hosts)
    ask_this_machine_directly()
    for host in ("127.0.0.1", "localhost"):
        assert answers(f"http://{host}:{port}/") == ["here"] * 3


def test_other_hosts_keep_their_proxy_and_their_exemption(monkeypatch):
    monkeypatch.setenv("http_proxy", NOWHERE)
    monkeypatch.setenv("no_proxy", "shop.example, 10.0.0.1")
    monkeypatch.setenv("NO_PROXY", "other.example")
    ask_this_machine_directly()
    ask_this_machine_directly()  # a second call changes nothing
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"]
    assert os.environ["no_proxy"] == "shop.example,10.0.0.1,other.example,127.0.0.1,localhost,::1"
    with httpx.Client(timeout=5) as client, pytest.raises(httpx.ConnectError):
        client.get("http://elsewhere.example/")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks4://127.0.0.1:9", "ftp://127.0.0.1:9"])
def test_a_proxy_with_which_no_client_can_be_made_is_left_out_with_a_word(port, monkeypatch, capsys, proxy):
    if proxy.startswith("socks5"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("all_proxy", proxy)
    monkeypatch.setenv("HTTP_PROXY", NOWHERE)
    ask_this_machine_directly()
    drop_proxies_that_httpx_refuses()
    assert answers(f"http://127.0.0.1:{port}/") == ["here"] * 3
    assert f"the proxy in all_proxy is of kind {proxy.split(':')[0]}" in capsys.readouterr().err
    assert ("all_proxy" in os.environ, os.environ["HTTP_PROXY"]) == (False, NOWHERE)


@pytest.mark.parametrize("proxy", ["proxy.example:3128", "http://user:secret@proxy.example", "https://proxy.example"])
def test_usual_proxies_stay(monkeypatch, capsys, proxy):
    monkeypatch.setenv("https_proxy", proxy)
    drop_proxies_that_httpx_refuses()
    assert os.environ["https_proxy"] == proxy
    assert capsys.readouterr().err == ""
