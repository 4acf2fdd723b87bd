"""Names of the states in which our flows and tasks end well, in addition to Prefect's own `Completed`."""

from __future__ import annotations

from enum import StrEnum


class StateName(StrEnum):
    """Every name is also the name of an event (`prefect.flow-run.Refused`), to which automations and webhooks react."""

    CACHED = "Cached"  # nothing to do: the result is there
    PASSED = "Passed"  # the gates accept the model
    REFUSED = "Refused"  # a gate refuses the model
    PROMOTED = "Promoted"  # the version is champion now
    KEPT = "Kept"  # the champion stays; the challenger is only no better
    UNCHANGED = "Unchanged"  # no stage had anything to do
    SKIPPED = "Skipped"  # not asked for, or another run is at work
