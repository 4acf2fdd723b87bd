"""A service within the test's process: its worker calls a bundle instead of another process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from support.local_service import LocalFleet, LocalWorker, Parts, parts_of
from support.project import PARAMS_FILE
from support.tiny_model import bundle_in
from unigrec.config.read import load_params
from unigrec.config.schema import ServeParams
from unigrec.serving.bundle import Bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Bundle:
    return Bundle.load(bundle_in(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory) -> Bundle:
    """Of another model, over the same catalogue."""
    return Bundle.load(bundle_in(tmp_path_factory.mktemp("other"), seed=1))


@pytest.fixture(scope="session")
def serve_params() -> ServeParams:
    return load_params(Path(PARAMS_FILE)).serve


@pytest.fixture
def served(tiny_bundle, serve_params) -> Callable:
    """Makes a client of a service. Arguments: settings that differ, and options of `parts_of`."""

    @contextmanager
    def make(
        tokens: tuple[str, ...] = (), model: object = tiny_bundle, share: float | None = None, **settings: object
    ) -> Iterator[Parts]:
        parts = parts_of(serve_params.model_copy(update=settings), tokens, share)
        with TestClient(parts.guard, raise_server_exceptions=False) as client:
            parts.client = client
            if model is not None:
                client.portal.call(LocalFleet.take, parts.service.fleet, LocalWorker(model))
            yield parts

    return make


@pytest.fixture
def client(served) -> Iterator[TestClient]:
    with served() as parts:
        yield parts.client
