"""What the commands that act on the outside world do, once typer has read their options."""

from __future__ import annotations

import json
import re
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from unigrec.base import files, paths
from unigrec.base.errors import EXIT_OK, EXIT_REFUSED, InvalidDataError, UnigrecError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from unigrec.config.schema import Params
    from unigrec.data.drift import Drift
    from unigrec.data.snapshots import Snapshot
    from unigrec.promotion.champion import Promotion
    from unigrec.promotion.judge import Judgement
    from unigrec.serving.bundle import Recommended
    from unigrec.serving.manifest import Subject

NO_CHAMPION = "none"  # the challenger is judged as the first model of all
COLD_START = "src/unigrec/pipeline/warm_start.py"


class Taken(NamedTuple):
    """What became of a delivery. new: false where it brought nothing; said: in a sentence or two."""

    new: bool
    said: str


def snapshot(params: Params, params_file: Path) -> Taken:
    """Take what was delivered as the next snapshot, once it is valid, and let `data/current` point to it.

    With `snapshot.start: champion`, the next training starts from the champion of today, where there is one.

    Raises:
        InvalidDataError: it breaks an expectation, or differs too much from the snapshot before; `data/current` stays.
        UnigrecError: there is no delivery, it cannot be read, or it changed while it was read.
    """
    from unigrec.data.snapshots import current_snapshot, next_snapshot, read_incoming, write_snapshot

    before = current_snapshot()
    now = next_snapshot(before, read_incoming(params.snapshot, params.ingest), params.snapshot.mode)
    if before is not None and now.id == before.id:
        return Taken(False, f"{params.snapshot.incoming}: nothing new beside snapshot {now.id}: nothing to train on")
    drift = _accept(params, before, now)
    # Before the data moves: a process that dies in between finds the delivery new again.
    start = f"\n{_from_champion(params, params_file)}" if params.snapshot.start == "champion" else ""
    folder = write_snapshot(now, None if drift is None else drift._asdict())
    rows, added = now.lineage["rows"], now.lineage["added"]
    said = (
        f"{folder}: {rows['interactions']:,} interactions ({added['interactions']:,} new, {added['repeated']:,} were "
        f"there already), {rows['users']:,} users, {rows['items']:,} items; before it: {now.lineage['parent']}"
    )
    if not reads_snapshots(params):
        advice = f"to let it read the snapshots: unigrec configure --data {paths.CURRENT}"
        said += f"\nthe pipeline reads {params.ingest.origin}; {advice}"
    return Taken(True, said + start)


def _from_champion(params: Params, params_file: Path) -> str:
    from unigrec.registry.tracking import mlflow_client
    from unigrec.registry.versions import CHAMPION, version_of

    with mlflow_client(params.register_) as client:
        champion = version_of(client, params.register_.model_name, CHAMPION)
    return cold_start(params_file) if champion is None else warm_start(params, params_file, CHAMPION)


def reads_snapshots(params: Params) -> bool:
    """Whether the pipeline reads what `data/current` points to."""
    return params.ingest.source == "folder" and Path(params.ingest.path) == paths.CURRENT


def _accept(params: Params, before: Snapshot | None, now: Snapshot) -> Drift | None:
    """Validate a snapshot that is to be; what it differs in from the one before. Raises InvalidDataError."""
    from unigrec.data.drift import measure_drift
    from unigrec.data.validation.suite import validate_tables
    from unigrec.pipeline.stages import FIRST_SNAPSHOT, reference_sizes

    columns, drift = params.embed.text_columns, None
    if before is not None:
        drift = measure_drift((before.interactions, before.items), (now.interactions, now.items), columns)
    reference = reference_sizes(params.ingest.origin)
    try:
        validate_tables(
            now.interactions,
            now.items,
            params.validation,
            columns,
            params.prepare.k_core,
            reference,
            drift or FIRST_SNAPSHOT,
            paths.ARRIVED,
            None,
        )
    except InvalidDataError as error:
        kept = "there is no snapshot yet" if before is None else f"{paths.CURRENT} stays snapshot {before.id}"
        raise InvalidDataError(f"{params.snapshot.incoming} was not taken, {kept}: {error}") from error
    return drift


def warm_start(params: Params, params_file: Path, model: str) -> str:
    """Let the next training start from a model (alias, version or folder); says so in a line. Raises UnigrecError."""
    import shutil

    from unigrec.registry.versions import load_bundle

    bundle = load_bundle(params.register_, model)
    folder = paths.BUNDLES / bundle.id
    if not folder.exists():
        with files.atomic_folder(folder) as temporary:
            shutil.copytree(bundle.folder, temporary, dirs_exist_ok=True)
    return _start_from(params_file, str(folder), f"the next training starts from {model}, {folder}")


def cold_start(params_file: Path) -> str:
    """Let the next training begin anew; says so in a line."""
    return _start_from(params_file, COLD_START, "the next training begins anew")


def _start_from(params_file: Path, path: str, said: str) -> str:
    from unigrec.config.edit import configure

    changed = configure(params_file, settings=[f"start.path={path}"])
    return f"{said} ({params_file}: start.path)" if changed else f"{said}, as before"


def gate() -> int:
    """Print the decision of the last run; the exit code says whether the model passed.

    Raises:
        UnigrecError: no run has come as far as a decision, or the last one was stopped by its data.
    """
    from unigrec.promotion.report import print_decision

    if not paths.VALIDATED.exists():  # the decision that lies there is of an earlier run's model
        raise UnigrecError(
            f"{paths.VALIDATED}: no such file, so there is no decision: the last run stopped before its data was "
            "valid, or there was none; run `dvc repro`"
        )
    decision = files.read_json(paths.DECISION)
    print_decision(decision)
    return EXIT_OK if decision["passed"] else EXIT_REFUSED


def assemble(params: Params, params_file: Path) -> Path:
    """The artifacts as one bundle; returns its folder. Raises UnigrecError when a stage has not run."""
    from unigrec.serving.manifest import Serving
    from unigrec.serving.manifest import assemble as assemble_bundle

    serving = Serving(params.joint.history, params.evaluate.beam, list(params.embed.text_columns), params.ingest.origin)
    return assemble_bundle(params_file, serving)


def register(params: Params, params_file: Path, folder: Path | None) -> int:
    """Register a bundle, made from the artifacts unless a folder is given. A refused model exits as refused."""
    from unigrec.registry.versions import register as register_bundle

    done = register_bundle(folder or assemble(params, params_file), params.register_)
    print(f"{done.name} version {done.version}: {'registered' if done.created else 'was registered before'}")
    if not done.passed:
        print("its gates refused it: no alias points to it (see: unigrec gate)")
    return EXIT_OK if done.passed else EXIT_REFUSED


def compare(params: Params, challenger: str, champion: str, out: Path | None) -> int:
    """Print and write how a challenger does beside the champion; the exit code says whether it may become champion.

    Args:
        challenger, champion: alias, version number, or a bundle's folder; `none` for a challenger that is the first.
        out: the folder to write comparison.json and comparison.md to.

    Raises:
        UnigrecError: it could not be decided; that is written to `out` as well.
    """
    from unigrec.promotion import report

    out = out or paths.COMPARISONS / f"{_slug(challenger)}-vs-{_slug(champion)}"
    try:
        judgement = _judge(params, challenger, champion)
    except UnigrecError as error:
        report.write_undecided(out, challenger, champion, error)
        raise
    report.write(out, judgement)
    report.print_judgement(judgement)
    print(f"written to {out}")
    return EXIT_OK if judgement.decision.passed else EXIT_REFUSED


def _judge(params: Params, challenger: str, champion: str) -> Judgement:
    """Measure both on the prepared data. Raises UnigrecError where nothing can be said."""
    from unigrec.pipeline.outputs import load_sequences
    from unigrec.promotion.judge import Settings, judge, today

    if not (paths.SEQUENCES.is_file() and paths.CATALOGUE.is_file()):
        raise UnigrecError(
            f"{paths.SEQUENCES.parent}: no prepared data, so there are no test users to compare on; run `dvc repro "
            "prepare`, or `dvc pull artifacts/prepare` where somebody pushed it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        new = _located(params, challenger, Path(scratch) / "challenger")
        old = None if champion == NO_CHAMPION else _located(params, champion, Path(scratch) / "champion")
        now = today(load_sequences(), params.promotion.max_users, params.seed)
        try:
            return judge(new, old, now, Settings(params.gate, params.promotion, params.seed))
        except UnigrecError:
            raise
        except Exception as error:  # what nobody foresaw is no refusal either, and no traceback's exit code 1
            traceback.print_exc()
            raise UnigrecError(f"could not decide: {type(error).__name__}: {error}") from error


def _located(params: Params, model: str, scratch: Path) -> Subject:
    from unigrec.registry.versions import locate

    scratch.mkdir()
    return locate(params.register_, model, scratch)


def _slug(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(model).name) or "bundle"


def promote(params: Params, version: str | None) -> Promotion:
    """Judge the version beside the champion, and promote it if it passes. Raises UnigrecError."""
    from unigrec.promotion import report
    from unigrec.promotion.champion import Verdict
    from unigrec.promotion.champion import promote as promote_version

    def judge(challenger: str, champion: str | None) -> Verdict:
        judgement = _judge(params, challenger, champion or NO_CHAMPION)
        report.write(paths.COMPARISONS / f"{challenger}-vs-{champion or NO_CHAMPION}", judgement)
        return Verdict(judgement.outcome, judgement.reason, report.markdown(judgement))

    return promote_version(params.register_, judge, version, params.promotion.wait_seconds)


def rollback(params: Params, version: str | None, why: str) -> Promotion:
    """Back to the champion before, or to a version that was champion. Raises UnigrecError."""
    from unigrec.promotion.champion import rollback as roll_back

    return roll_back(params.register_, version, why, params.promotion.wait_seconds)


def recommend(
    params: Params,
    model: str,
    histories: Sequence[str],
    k: int,
    allow: Sequence[str],
    deny: Sequence[str],
    as_json: bool,
) -> None:
    """Print recommendations for one history."""
    from unigrec.registry.versions import load_bundle

    bundle = load_bundle(params.register_, model)
    history = parse_ids(histories, bundle.index_of)
    answer = bundle.recommend([history], k, read_ids(allow) if allow else None, read_ids(deny))[0]
    if as_json:
        items = [item._asdict() for item in answer.items]
        answered = {"items": items, "unknown": answer.unknown, "by_popularity": answer.by_popularity}
        print(json.dumps(answered, ensure_ascii=False, indent=2))
    else:
        _print_recommended(answer, len(history))


def parse_ids(values: Sequence[str], known: Collection[str]) -> list[str]:
    """Item ids from the command line, oldest first.

    Several values are one id each. A single value may be a JSON list, an id that the catalogue knows (commas and all),
    or ids with commas between them. Raises UnigrecError on a broken JSON list.
    """
    if len(values) != 1:
        return list(values)
    value = values[0]
    if value in known:
        return [value]
    if value.lstrip().startswith("["):
        try:
            ids = json.loads(value)
        except json.JSONDecodeError as error:
            raise UnigrecError(f"--history {value!r}: looks like a JSON list, but is none: {error}") from error
        if not all(isinstance(item, str) for item in ids):
            raise UnigrecError(f"--history {value!r}: every id must be a string")
        return ids
    return [part.strip() for part in value.split(",") if part.strip()]


def read_ids(values: Sequence[str]) -> set[str]:
    """Item ids of an allow- or deny-list: a value is a file with one id a line, or else an id."""
    ids: set[str] = set()
    for value in values:
        path = Path(value)
        if path.is_file():
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except UnicodeDecodeError as error:
                raise UnigrecError(f"{path}: expected UTF-8 text with one item id a line: {error}") from error
            ids |= {line for line in lines if line}
        else:
            ids.add(value)
    return ids


def _print_recommended(answer: Recommended, asked: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if answer.by_popularity:
        console.print("No item of the history is in the catalogue: these are the most popular items.")
    elif answer.unknown:
        console.print(f"{answer.unknown} of {asked} items of the history are not in the catalogue and were left out.")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("", "right"), ("item", "left"), ("title", "left"), ("score", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for place, item in enumerate(answer.items, start=1):
        table.add_row(str(place), *(_plain(text) for text in (item.item_id, item.title)), f"{item.score:.3f}")
    console.print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
