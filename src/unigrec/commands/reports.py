"""Publishes the report of a registered version: the run's own report, with what the registry and promotion know."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files, paths
from unigrec.base.errors import UnigrecError
from unigrec.base.masking import masked
from unigrec.serving.manifest import FACTS

if TYPE_CHECKING:
    from unigrec.config.schema import Params
    from unigrec.registry.versions import Known


def publish(params: Params, version: str) -> Path | None:
    """Write the report and model card of a version, log them to its MLflow run, and describe the version by the card.

    A report that would be the same as the published one is left as it is.

    Returns:
        The page, in `state/reports`. None: the bundle has no report, because an earlier version made it.

    Raises:
        UnigrecError: MLflow does not answer, or the bundle's facts are not of the expected shape.
    """
    from jinja2 import UndefinedError

    from unigrec.pipeline.report import pages
    from unigrec.registry.versions import attach, known

    about = known(params.register_, version)
    facts = _facts(params, about)
    if facts is None:
        return None
    registered = pages.Registered(
        model=params.register_.model_name,
        version=about.version,
        aliases=about.aliases,
        bundle=about.bundle,
        commit=about.commit,
        verdict=about.verdict,
        comparison=_comparison(about),
    )
    folder = paths.REPORTS / about.version
    with tempfile.TemporaryDirectory() as scratch:
        try:
            pages.write(Path(scratch), facts, registered)
        except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
            raise UnigrecError(f"{about.bundle}/{FACTS}: not of the expected shape: {error!r}") from error
        made = [Path(scratch) / name for name in (paths.REPORT_PAGE, paths.MODEL_CARD)]
        texts = {path.name: path.read_text(encoding="utf-8") for path in made}
        if any(_text(folder / name) != text for name, text in texts.items()):
            attach(params.register_, about, made, texts[paths.MODEL_CARD])
            for name, text in texts.items():  # after they are logged: what lies here was published
                files.write_text(folder / name, text)
    return folder / paths.REPORT_PAGE


def publish_or_warn(params: Params, version: str) -> Path | None:
    """As `publish`; a report that cannot be published is a line on stderr, since nothing depends on it."""
    try:
        return publish(params, version)
    except (UnigrecError, OSError) as error:
        print(
            f"warning: the report of version {version} was not published: {masked(str(error))}; "
            "`unigrec register` tries again",
            file=sys.stderr,
        )
        return None


def place(params: Params, version: str) -> str:
    """Where the report of a version is, as Markdown: the path here and, if MLflow is a server, the address of its run.

    Raises UnigrecError if MLflow does not answer.
    """
    from unigrec.registry.versions import known

    about = known(params.register_, version)
    path = f"`{paths.REPORTS / about.version / paths.REPORT_PAGE}`"
    return path if about.url is None else f"{path}, [in MLflow]({masked(about.url)}/artifacts)"


def _facts(params: Params, about: Known) -> dict[str, Any] | None:
    """The facts in the version's bundle. None: it has none, or none that this version shows."""
    from unigrec.pipeline.report import SCHEMA
    from unigrec.registry.versions import locate

    with tempfile.TemporaryDirectory() as scratch:
        folder = paths.BUNDLES / about.bundle
        if not folder.is_dir():
            folder = locate(params.register_, about.version, Path(scratch)).folder
        facts = files.read_json(folder / FACTS) if (folder / FACTS).is_file() else None
    return facts if isinstance(facts, dict) and facts.get("schema") == SCHEMA else None


def _comparison(about: Known) -> dict[str, Any] | None:
    """The last comparison of this version's bundle with a champion, or as the first model."""
    found = sorted(paths.COMPARISONS.glob(f"{about.version}-vs-*/{paths.COMPARISON_FILE}"), key=_modified)
    comparisons = [files.read_json(path) for path in reversed(found)]
    return next((one for one in comparisons if one.get("challenger_bundle") == about.bundle), None)


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
