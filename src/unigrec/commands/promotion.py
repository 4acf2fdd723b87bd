"""`unigrec gate`, `promote` and `rollback`: the last decision, a comparison of two models, the champion moved."""

from __future__ import annotations

import re
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base import files, paths
from unigrec.base.errors import EXIT_OK, EXIT_REFUSED, UnigrecError
from unigrec.base.paths import Artifacts

if TYPE_CHECKING:
    from unigrec.config.schema import Params
    from unigrec.promotion.champion import Promotion
    from unigrec.promotion.judge import Judgement
    from unigrec.serving.manifest import Subject

NO_CHAMPION = "none"  # the challenger is judged as the first model of all
SLUG_LENGTH = 100  # two of them are part of one file name


def print_last_decision() -> int:
    """Print the decision of the last run; the exit code says whether the model passed.

    Raises:
        UnigrecError: no run has reached a decision, or the data of the last run were invalid.
    """
    from unigrec.promotion.report import print_decision

    artifacts = Artifacts()
    if not artifacts.validated.exists():  # an existing decision is of an earlier run
        raise UnigrecError(
            f"{artifacts.validated}: no such file, so there is no decision: the last run stopped before its data was "
            "valid, or there was none; run `dvc repro`"
        )
    decision = files.read_json(artifacts.decision)
    print_decision(decision)
    return EXIT_OK if decision["passed"] else EXIT_REFUSED


def compare(params: Params, challenger: str, champion: str, out: Path | None) -> int:
    """Compare a challenger with the champion, print and write it; the exit code says whether it may become champion.

    Args:
        challenger, champion: alias, version number, or a bundle's folder; champion `none`: the challenger is the first.
        out: the folder for comparison.json and comparison.md.

    Raises:
        UnigrecError: no decision was possible; `out` says so as well.
    """
    from unigrec.promotion import report

    out = out or paths.COMPARISONS / f"{_slug(challenger)}-vs-{_slug(champion)}"
    try:
        judgement = _judge(params, challenger, champion)
    except UnigrecError as error:
        report.write_undecided(out, challenger, champion, error=error)
        raise
    report.write(out, judgement)
    report.print_judgement(judgement)
    print(f"written to {out}")
    return EXIT_OK if judgement.decision.passed else EXIT_REFUSED


def _judge(params: Params, challenger: str, champion: str) -> Judgement:
    """Measure both on the prepared data. Raises UnigrecError if no decision is possible."""
    from unigrec.commands.online import online_reports
    from unigrec.pipeline.outputs import load_sequences
    from unigrec.promotion.judge import Settings, judge, today

    artifacts = Artifacts()
    if not (artifacts.sequences.is_file() and artifacts.catalogue.is_file()):
        raise UnigrecError(
            f"{artifacts.sequences.parent}: no prepared data, so there are no test users to compare on; run `dvc repro "
            "prepare`, or `dvc pull artifacts/prepare` where somebody pushed it"
        )
    with tempfile.TemporaryDirectory() as scratch:
        new = _located(params, challenger, Path(scratch) / "challenger")
        old = None if champion == NO_CHAMPION else _located(params, champion, Path(scratch) / "champion")
        sequences, names = load_sequences(artifacts), params.evaluate.slice_columns
        now = today(artifacts, sequences, params.promotion.max_users, params.seed, slice_columns=names)
        online = tuple(online_reports()) if params.promotion.max_online_p else ()
        settings = Settings(params.gate, params.promotion, params.seed, online)
        try:
            return judge(new, old, now, settings=settings)
        except UnigrecError:
            raise
        except Exception as error:  # unexpected: not refused (1), but undecided (2)
            traceback.print_exc()
            raise UnigrecError(f"could not decide: {type(error).__name__}: {error}") from error


def _located(params: Params, model: str, scratch: Path) -> Subject:
    from unigrec.registry.versions import locate

    scratch.mkdir()
    return locate(params.register_, model, scratch)


def _slug(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(model).name)[:SLUG_LENGTH] or "bundle"


def promote(params: Params, version: str | None, unless_rolled_back: bool = False) -> Promotion:
    """Compare the version with the champion, and promote it if it passes. Raises UnigrecError.

    The report of the version is written again, with the comparison.
    """
    from unigrec.commands import reports
    from unigrec.promotion import report
    from unigrec.promotion.champion import Verdict
    from unigrec.promotion.champion import promote as promote_version

    def judge(challenger: str, champion: str | None) -> Verdict:
        judgement = _judge(params, challenger, champion or NO_CHAMPION)
        where = reports.place(params, challenger)
        report.write(paths.COMPARISONS / f"{challenger}-vs-{champion or NO_CHAMPION}", judgement, where)
        return Verdict(judgement.outcome, judgement.reason, report.markdown(judgement, where))

    done = promote_version(
        params.register_,
        judge,
        version,
        unless_rolled_back=unless_rolled_back,
        wait_seconds=params.promotion.wait_seconds,
    )
    reports.publish_or_warn(params, done.version)
    return done


def rollback(params: Params, version: str | None, why: str) -> Promotion:
    """Return to the previous champion, or to a version that was champion before. Raises UnigrecError."""
    from unigrec.promotion.champion import rollback as roll_back

    return roll_back(params.register_, version, why, wait_seconds=params.promotion.wait_seconds)
