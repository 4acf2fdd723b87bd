"""A proxy on 127.0.0.1 between MLflow and its clients, which breaks requests on demand."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASS, ERROR, PAGE, CUT, HANG, SLOW = "pass", "error", "page", "cut", "hang", "slow"
HOPS = {"transfer-encoding", "connection", "content-length"}  # headers of a connection, not of the response
SLOW_SECONDS = 0.3


class Proxy:
    """fault: a function from the number of a request (from 0) to its fault. It may be replaced at any time.

    pass: forward the request. slow: forward it after a delay. error: respond with 500. page: respond with 200 and an
    HTML page, like a sign-in page. cut: close the connection without a response. hang: do not respond until the proxy
    ends.
    """

    def __init__(self, upstream: int | None, fault: Callable[[int], str]):
        self.upstream, self.fault, self.seen = upstream, fault, 0
        self.over = threading.Event()
        self.counting = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                proxy.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self.counting:
            number, self.seen = self.seen, self.seen + 1
        what = self.fault(number)
        if what == HANG:
            self.over.wait()
        elif what == ERROR:
            request.send_error(500, "internal error")
        elif what == PAGE:
            self.reply(request, 200, [("Content-Type", "text/html")], b"<!doctype html><p>Sign in</p>")
        elif what in (PASS, SLOW):
            time.sleep(SLOW_SECONDS if what == SLOW else 0.0)
            self.hand_on(request, body)
        request.close_connection = True

    def hand_on(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        assert self.upstream is not None
        behind = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=120)
        behind.request(request.command, request.path, body, dict(request.headers))
        answer = behind.getresponse()
        self.reply(request, answer.status, answer.getheaders(), answer.read())
        behind.close()

    def reply(self, request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in HOPS:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def faulty_proxy(fault: Callable[[int], str], upstream: int | None = None) -> Iterator[Proxy]:
    """Run a proxy. upstream: port of the server behind it; None if no request is forwarded."""
    proxy = Proxy(upstream, fault)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.over.set()
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()
