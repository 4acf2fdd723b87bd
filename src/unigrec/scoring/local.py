"""Lists for all users of a log, on the cores of this machine, in bounded memory; a killed run is continued.

    OUT.parts/plan.json           what is scored: the log, the model, the options, the number of parts
    OUT.parts/log/                the log, spread over the parts by user (unigrec.scoring.log)
    OUT.parts/scored/00012.parquet  the lists of one part, with what was counted in its metadata
    OUT                           the parts, one after the other; then OUT.parts is removed

Every file is written under a temporary name and then renamed, so a part is there as a whole or not at all. A part's
users and their order depend on the log alone: a run that was killed and continued gives the file of a run that was not.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unigrec.base import files
from unigrec.base.errors import UnigrecError
from unigrec.base.lock import exclusive
from unigrec.data.sources.batches import interaction_batches
from unigrec.data.sources.datasets import parts_of
from unigrec.scoring.crew import Crew
from unigrec.scoring.lists import SCHEMA, USERS_AT_ONCE, Counts, score
from unigrec.scoring.log import BATCH_ROWS, counts_of, read_histories, spread

if TYPE_CHECKING:
    from unigrec.config.schema import IngestParams
    from unigrec.serving.bundle import Bundle
    from unigrec.serving.schema import ListRequest

FORMAT = 1  # of a plan and of OUT
ROWS_PER_PART, MOST_PARTS = 5_000, 256  # interactions; a part is seconds of work
BYTES_PER_ROW = 30  # of a log that is text
PREFIX = "unigrec."  # of the keys in the metadata of OUT


class Job(NamedTuple):
    """What is scored.

    log: interactions, as `interaction_batches` reads them. ingest: how. name: of the model for people, as `version 3`.
    """

    bundle: Bundle
    name: str
    request: ListRequest
    log: Path
    ingest: IngestParams
    out: Path


class Progress(NamedTuple):
    """How far a run is: interactions and users. `users` are those that this run scored."""

    done: int
    interactions: int
    users: int


class Watcher(NamedTuple):
    """Who is told of a run: lines for people, and how far it is."""

    say: Callable[[str], None]
    at: Callable[[Progress], None]


def score_log(job: Job, workers: int, watcher: Watcher) -> Counts:
    """Write the lists of all users of the log to `job.out`. If it holds them already, nothing is done.

    Raises:
        UnigrecError: the log cannot be read, the request cannot be met, the disk is full, a worker was killed, or
            another process writes `out`. What is finished stays in OUT.parts, for the next run.
    """
    if job.out.is_dir():
        raise UnigrecError(f"{job.out}: a folder; name the Parquet file that is to be written")
    job.bundle.rank([], **dict(job.request))  # a request that cannot be met is an error now, not after the log was read
    key = _key(job)
    if (counts := _written(job.out, key)) is not None:
        watcher.say(f"{job.out} is up to date: it was made from the same log, model and options")
        return counts
    folder = job.out.with_name(f"{job.out.name}.parts")
    with exclusive(folder / "lock"):
        parts = _planned(job, folder, key, watcher)
        gc.collect()
        gc.freeze()  # a collection in a worker would write into every object, and end its sharing
        with Crew(lambda part: _score_part(job, folder, part), workers) as crew:
            _score_parts(job, folder, parts, crew=crew, watcher=watcher)
        counts = _join(job, folder, parts, key=key)
        shutil.rmtree(folder)
    return counts


def _key(job: Job) -> dict[str, str]:
    """What the lists depend on."""
    if not job.log.exists():
        raise UnigrecError(f"{job.log}: no such file; name a Parquet, CSV or JSON lines file with the interactions")
    digest = hashlib.sha256()
    for part in parts_of(job.log):
        named = [part.file.relative_to(job.log).as_posix(), files.sha256(part.file), part.folders]
        digest.update(json.dumps(named).encode())
    read = job.ingest.model_dump(include={"columns", "events", "where", "min_rating"})
    request = job.request.model_dump(mode="json")
    request |= {name: sorted(request[name]) for name in ("allow", "deny") if request[name] is not None}
    return {
        "format": str(FORMAT),
        "log": digest.hexdigest(),
        "columns": json.dumps(read, sort_keys=True),
        "bundle": job.bundle.id,
        "options": json.dumps(request, sort_keys=True),
    }


def _digest(key: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _written(out: Path, key: dict[str, str]) -> Counts | None:
    """What was counted for a file of this key; None if it is none, or is not there."""
    if not out.is_file():
        return None
    try:
        found = read_metadata(out)
        return Counts(**json.loads(found["counts"])) if found["key"] == _digest(key) else None
    except (pa.ArrowException, OSError, KeyError):
        return None


def read_metadata(out: Path) -> dict[str, str]:
    """What a written file says of itself: bundle, model, data, options, counts and key."""
    found = pq.read_schema(out).metadata or {}
    return {
        name.decode().removeprefix(PREFIX): value.decode()
        for name, value in found.items()
        if name.startswith(PREFIX.encode())
    }


def _planned(job: Job, folder: Path, key: dict[str, str], watcher: Watcher) -> int:
    """The number of parts of this run, or of the run that is continued."""
    file = folder / "plan.json"
    old = files.read_json(file) if file.is_file() else None
    if old is not None and old["key"] == key:
        done = sum(1 for _ in (folder / "scored").glob("*.parquet"))
        watcher.say(f"{folder}: continues with {old['parts'] - done} of {old['parts']} parts")
        return old["parts"]
    if old is not None:
        changed = [name for name in key if old["key"].get(name) != key[name]]
        watcher.say(f"{folder}: of a run with another {' and '.join(changed)}; removed, scoring starts from scratch")
    for path in ("scored", "log"):
        shutil.rmtree(folder / path, ignore_errors=True)
    parts = min(max(_rows_about(job.log) // ROWS_PER_PART, 1), MOST_PARTS)
    files.write_json(file, {"key": key, "parts": parts})
    return parts


def _rows_about(log: Path) -> int:
    """Rows of a log; if it is no Parquet, estimated by its size."""
    rows = 0
    for part in parts_of(log):
        try:
            rows += pq.read_metadata(part.file).num_rows if part.format == "Parquet" else 0
        except (pa.ArrowException, OSError):  # the reader says what is wrong with it
            continue
        rows += 0 if part.format == "Parquet" else part.file.stat().st_size // BYTES_PER_ROW
    return rows


def _score_parts(job: Job, folder: Path, parts: int, crew: Crew, watcher: Watcher) -> None:
    rows = counts_of(folder / "log")
    if rows is None:
        notes: list[str] = []
        try:
            rows = spread(interaction_batches(job.log, job.ingest, BATCH_ROWS, notes), folder / "log", parts)
        except UnigrecError:
            shutil.rmtree(folder)  # there is nothing to continue
            raise
        for note in notes:
            watcher.say(note)
    missing = [part for part in range(parts) if not _scored(folder, part).is_file()]
    done = sum(rows) - sum(rows[part] for part in missing)
    users = 0
    watcher.at(Progress(done, sum(rows), users))
    for report in crew.run(missing):
        done, users = done + report["interactions"], users + report["users"]
        watcher.at(Progress(done, sum(rows), users))


def _scored(folder: Path, part: int) -> Path:
    return folder / f"scored/{part:05}.parquet"


def _score_part(job: Job, folder: Path, part: int) -> Iterator[dict[str, Any]]:
    """Score a part and write it; after some users each, yields how many they and their interactions are."""
    users, histories = read_histories(folder / "log", part)
    tables, counts = [SCHEMA.empty_table()], Counts()
    for start in range(0, len(users), USERS_AT_ONCE):
        some = slice(start, start + USERS_AT_ONCE)
        table, counted = score(job.bundle, users[some], histories[some], job.request)
        tables.append(table)
        counts = counts.plus(counted)
        yield {"users": counted.users, "interactions": counted.interactions}
    told = {f"{PREFIX}counts": json.dumps(counts._asdict())}
    files.write_table(_scored(folder, part), pa.concat_tables(tables).replace_schema_metadata(told))


def _join(job: Job, folder: Path, parts: int, key: dict[str, str]) -> Counts:
    """Write the parts as one file, one part in memory at a time; returns what was counted."""
    scored = [_scored(folder, part) for part in range(parts)]
    counts = Counts()
    for path in scored:
        counts = counts.plus(Counts(**json.loads(read_metadata(path)["counts"])))
    schema = SCHEMA.with_metadata(_metadata(job, key, counts))
    with (
        files.atomic_path(job.out) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for path in scored:
            table = files.read_table(path)
            if table.num_rows:
                writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=table.num_rows)
    return counts


def _metadata(job: Job, key: dict[str, str], counts: Counts) -> dict[str, str]:
    values = {
        "model": job.name,
        "bundle": job.bundle.id,
        "data": str(job.bundle.manifest["data"].get("version")),
        "ranked_by": str(job.request.rank_by or job.bundle.ranks_by),
        "options": key["options"],
        "counts": json.dumps(counts._asdict()),
        "key": _digest(key),
    }
    return {f"{PREFIX}{name}": value for name, value in values.items()}
