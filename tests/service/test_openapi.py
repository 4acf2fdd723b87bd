"""Requests made from the OpenAPI description get answers that the description promises (schemathesis)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="requirements-dev.lock has it")

EXAMPLES = 60  # per address
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/recommend"),
        ("POST", "/v1/similar"),
        ("POST", "/v1/search"),
        ("POST", "/v1/complement"),
        ("POST", "/v1/audience"),
        ("POST", "/v1/lookalike"),
        ("POST", "/v1/segments"),
        ("GET", "/v1/items/{item}"),
        ("GET", "/v1/model"),
        ("GET", "/v1/explore/titles"),
        ("GET", "/v1/explore/items"),
        ("GET", "/v1/explore/branches"),
        ("GET", "/v1/explore/test-user"),
        ("GET", "/v1/explore/report"),
        ("GET", "/v1/explore/pictures/{stage}/{name}"),
        ("GET", "/readyz"),
        ("GET", "/healthz"),
    ],
)
def test_answers_are_those_that_the_description_promises(served, method, path):
    # A schema does not say which items there are: a request for an unknown one is refused.
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    with served() as parts:
        schema = schemathesis.openapi.from_dict(parts.client.get("/openapi.json").json())

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=schema[path][method].as_strategy())
        def meets(case):
            asked = case.as_transport_kwargs(base_url="http://testserver")
            asked.pop("cookies", None)
            case.validate_response(parts.client.request(**asked), excluded_checks=[positive_data_acceptance])

        meets()
