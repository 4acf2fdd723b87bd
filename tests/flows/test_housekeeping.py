"""What housekeeping reports."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

from flows.housekeeping import known_versions, report
from mlflow.store.entities import PagedList


def test_the_report_says_what_was_done_what_was_not_and_why():
    page = report({"Dead runs": ["a: no heartbeat for 12 minutes"], "Old runs": [], "Files": "left: busy"}, True)
    assert "a dry run" in page
    assert "## Dead runs\n- `a: no heartbeat for 12 minutes`" in page
    assert "## Old runs\nnothing" in page
    assert "## Files\nleft: busy" in page


class TwoPages:
    """MLflow's client with three versions on two pages; one has an alias."""

    def search_registered_models(self, query):
        return [SimpleNamespace(aliases={"champion": "2"})]

    def get_model_version(self, name, number):
        return SimpleNamespace(tags={"dvc_lock": f"lock of {number}"})

    def search_model_versions(self, query, page_token=None):
        numbers, token = ([3], "") if page_token == "more" else ([1, 2], "more")
        return PagedList([SimpleNamespace(version=number) for number in numbers], token)


def test_all_versions_exist_and_named_ones_keep_their_data(monkeypatch):
    monkeypatch.setattr("flows.housekeeping.mlflow_client", lambda params: nullcontext(TwoPages()))
    params = SimpleNamespace(model_name="unigrec")
    assert known_versions(params) == ({"1", "2", "3"}, {"lock of 2"})
