"""`unigrec online-report`: what the users of an experiment took, by version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.commands.histories import read_log

if TYPE_CHECKING:
    import pyarrow as pa

    from unigrec.config.schema import Params

WINDOW = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*([dh])")
SECONDS = {"d": 86_400, "h": 3_600}


def online_report(
    params: Params, impressions: Path, interactions: Path, window: str, out: Path | None, experiment: str | None
) -> None:
    """Join a log of impressions with interactions, print what was found, and write it as JSON, Markdown and picture.

    Args:
        impressions: the log's folder. interactions: a file, as the shop's own; where params name events, those of
            `prepare.evaluation_event` count, or all. window: as `7d` or `12h`. out: by default a folder below
            state/online, where the gate looks for it. experiment: as `2-vs-1`; by default the latest.

    Raises:
        UnigrecError: a file cannot be read, the log has no such experiment, or the window is not understood.
    """
    from unigrec.data.sources.impressions import read_experiment
    from unigrec.pipeline import plots
    from unigrec.promotion import online

    seconds = window_of(window)
    table = read_log(interactions, params)
    found = read_experiment(impressions, _that_count(table, params), seconds, experiment)
    report = online.report_of(found, seconds)
    folder = out or paths.ONLINE / found.name
    files.write_json(folder / paths.ONLINE_FILE, report)
    files.write_text(folder / paths.ONLINE_PAGE, online.markdown(report) + f"\n![rates]({paths.ONLINE_PICTURE})\n")
    plots.experiment(report, folder / paths.ONLINE_PICTURE)
    print(online.markdown(report), end="")
    print(f"\nwritten to {folder}")


def online_reports() -> list[dict[str, Any]]:
    """All reports below state/online, the latest last. Raises UnigrecError if one is damaged."""
    found = [files.read_json(path) for path in sorted(paths.ONLINE.glob(f"*/{paths.ONLINE_FILE}"))]
    return sorted(found, key=lambda report: str(report.get("made")))


def window_of(text: str) -> int:
    """Seconds. Raises UnigrecError."""
    match = WINDOW.fullmatch(text.strip())
    seconds = 0 if match is None else round(float(match[1]) * SECONDS[match[2]])
    if not seconds:
        raise UnigrecError(f"--window {text}: expected days or hours, as 7d or 12h")
    return seconds


def _that_count(interactions: pa.Table, params: Params) -> pa.Table:
    """The interactions that a recommendation is for."""
    import pyarrow.compute as pc

    event = params.prepare.evaluation_event
    if event and "event" in interactions.column_names:
        interactions = interactions.filter(pc.equal(interactions["event"], event))
    if not interactions.num_rows:
        raise UnigrecError(f"no interaction is of the event {event!r} (prepare.evaluation_event)")
    return interactions
