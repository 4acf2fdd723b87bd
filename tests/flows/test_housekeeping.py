"""What housekeeping reports."""

from __future__ import annotations

from flows.housekeeping import report


def test_the_report_says_what_was_done_what_was_not_and_why():
    page = report({"Dead runs": ["a: no heartbeat for 12 minutes"], "Old runs": [], "Files": "left: busy"}, True)
    assert "a dry run" in page
    assert "## Dead runs\n- `a: no heartbeat for 12 minutes`" in page
    assert "## Old runs\nnothing" in page
    assert "## Files\nleft: busy" in page
