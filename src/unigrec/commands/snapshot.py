"""`unigrec snapshot`: a delivery becomes the next snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unigrec.base import paths
from unigrec.base.errors import InvalidDataError
from unigrec.commands.bundles import cold_start, warm_start

if TYPE_CHECKING:
    from unigrec.config.schema import Params
    from unigrec.data.drift import Drift
    from unigrec.data.snapshots import Snapshot
    from unigrec.data.sources.source import Source


class Taken(NamedTuple):
    """The result for a delivery. new: False if it brought nothing new. said: the line or lines to print."""

    new: bool
    said: str


def take_delivery(params: Params, params_file: Path) -> Taken:
    """Make a valid delivery the next snapshot, and point `data/current` to it.

    With `snapshot.start: champion`, the next training starts from the present champion, if there is one.

    Raises:
        InvalidDataError: it breaks an expectation, or differs too much from the snapshot before; `data/current` stays.
        UnigrecError: there is no delivery, it cannot be read, or it changed during reading.
    """
    from unigrec.data.snapshots import current_snapshot, next_snapshot, read_incoming, write_snapshot

    before = current_snapshot()
    kept = before.served if before is not None and params.snapshot.mode == "append" else None
    # A column without any value was text for lack of others.
    known = () if kept is None else [name for name in kept.column_names if kept[name].null_count < kept.num_rows]
    types = {} if kept is None else {name: kept.schema.field(name).type for name in known}
    served = {name: types.get(name) for name in params.serve.columns}
    arrived = read_incoming(params.snapshot, params.ingest, params.embed.text_columns, served, first=before is None)
    now = next_snapshot(before, arrived, params.snapshot.mode)
    if before is not None and now.id == before.id:
        incoming = params.snapshot.incoming
        return Taken(False, f"{incoming}: nothing new compared with snapshot {now.id}: nothing to train on")
    drift = _accept(params, before, now, arrived=arrived)
    # Before the data moves: if the process dies in between, the next one finds the delivery new again.
    start = f"\n{_from_champion(params, params_file)}" if params.snapshot.start == "champion" else ""
    folder = write_snapshot(now, None if drift is None else drift._asdict())
    rows, added = now.lineage["rows"], now.lineage["added"]
    said = (
        f"{folder}: {rows['interactions']:,} interactions ({added['interactions']:,} new, {added['repeated']:,} were "
        f"there already), {rows['users']:,} users, {rows['items']:,} items; before it: {now.lineage['parent']}"
    )
    said = "\n".join((*arrived.warnings, said))
    if not reads_snapshots(params):
        advice = f"to let it read the snapshots: unigrec configure --data {paths.CURRENT}"
        said += f"\nthe pipeline reads {params.ingest.origin}; {advice}"
    return Taken(True, said + start)


def _from_champion(params: Params, params_file: Path) -> str:
    from unigrec.core.decisions.comparison import CHAMPION
    from unigrec.registry.tracking import mlflow_client
    from unigrec.registry.versions import version_of

    with mlflow_client(params.register_) as client:
        champion = version_of(client, params.register_.model_name, CHAMPION)
    return cold_start(params_file) if champion is None else warm_start(params, params_file, CHAMPION)


def reads_snapshots(params: Params) -> bool:
    """Whether the pipeline reads the current snapshot, `data/current`."""
    return params.ingest.source == "folder" and Path(params.ingest.path) == paths.CURRENT


def _accept(params: Params, before: Snapshot | None, now: Snapshot, arrived: Source) -> Drift | None:
    """Validate the next snapshot; returns its drift from the one before. Raises InvalidDataError."""
    from unigrec.data.drift import measure_drift
    from unigrec.data.validation.suite import validate_tables
    from unigrec.pipeline.stages import FIRST_SNAPSHOT, reference_sizes

    columns, drift = params.embed.text_columns, None
    if before is not None:
        appended = (arrived.interactions, arrived.items) if params.snapshot.mode == "append" else None
        tables = (before.interactions, before.items), (now.interactions, now.items)
        drift = measure_drift(*tables, text_columns=columns, appended=appended)
    # Of a run on the current snapshot; the pipeline may read something else until now.
    current = params.ingest.model_copy(update={"source": "folder", "path": str(paths.CURRENT)})
    reference = reference_sizes(current.origin)
    try:
        validate_tables(
            now.interactions,
            now.items,
            params.validation,
            text_columns=columns,
            k_core=params.prepare.k_core,
            reference=reference,
            drift=drift or FIRST_SNAPSHOT,
            folder=paths.ARRIVED,
            validated=None,
            data=f"snapshot {now.id}",
        )
    except InvalidDataError as error:
        kept = "there is no snapshot yet" if before is None else f"{paths.CURRENT} stays snapshot {before.id}"
        raise InvalidDataError(f"{params.snapshot.incoming} was not taken, {kept}: {error}") from error
    return drift
