"""Does the data meet the expectations of params.yaml? Great Expectations decides; bad data stops the pipeline.

Three tables are checked: interactions, items, and users, which are derived from the interactions. If the data is a
snapshot that follows another, a row of figures that compare the two is the fourth (checks.py). What spans two rows or
two tables (an unknown item, a repeated interaction, the k-core) is computed first, in tables.py, as one more column: it
holds the offending value where something is wrong and null elsewhere. The expectation then only asks for nulls, and its
unexpected values are examples that a person recognises. pages.py shows the result.
"""

from __future__ import annotations

import gc
import json
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unigrec.base import files
from unigrec.base.errors import InvalidDataError
from unigrec.base.paths import Artifacts
from unigrec.base.process import keep_quiet
from unigrec.config.schema import ValidateParams
from unigrec.data.drift import Drift
from unigrec.data.validation.checks import (
    CRITICAL,
    WARNING,
    Check,
    drift_checks,
    interaction_checks,
    item_checks,
    percent,
    reference_checks,
    skip_unanswerable,
    user_checks,
)
from unigrec.data.validation.pages import write_page
from unigrec.data.validation.tables import Checked, checked, one_row, typed

if TYPE_CHECKING:
    import pyarrow as pa

CLOCK_SLACK = 86_400  # seconds that a timestamp may lie ahead of this machine's clock
EXAMPLES = 5  # shown of each expectation's unexpected values
LOOKED_AT = 20  # unexpected values, among which equal ones are shown once; Great Expectations' own number for pandas
LONGEST = 120  # characters of an example
log = logging.getLogger(__name__)


def validate_tables(
    interactions: pa.Table,
    items: pa.Table,
    params: ValidateParams,
    text_columns: Sequence[str],
    k_core: int,
    reference: dict[str, int] | None,
    drift: Drift | str,
    folder: Path,
    validated: Path | None,
    data: str,
) -> dict[str, Any]:
    """Check the two tables and write `result.json`, the Data Docs and, when all is well, `validated.json`.

    Args:
        interactions: user_id str, item_id str, timestamp int64 (unix seconds); one row per interaction.
        items: item_id str and text columns (str or null); one row per item.
        text_columns: columns that count as an item's text, where they exist.
        k_core: users and items with fewer interactions will be removed by the next stage.
        reference: rows of {users, items, interactions} of the last registered run; None on the first.
        drift: how the data differs from the snapshot before, or why there is nothing to compare with.
        folder: where result and docs are written.
        validated: the file that says which data passed; None for no file.
        data: names the data for the reader of result and docs.

    Returns:
        What result.json holds: `data`, `passed`, `rows` per table, and `expectations`.

    Raises:
        InvalidDataError: an expectation of severity `critical` failed; result and docs are written, `validated.json`
            is not there.
        UnigrecError: `reference` is not of the expected shape, or the disk cannot be written.
    """
    interactions, items = typed(interactions), typed(items)
    tables = checked(interactions, items, text_columns, k_core, allowed_times(params))
    del interactions, items  # Great Expectations needs memory of its own
    return judge(
        tables,
        params,
        text_columns,
        k_core,
        reference=reference,
        drift=drift,
        folder=folder,
        validated=validated,
        data=data,
    )


def allowed_times(params: ValidateParams) -> tuple[int, int]:
    """The least and the largest time that is expected, in unix seconds."""
    return params.min_timestamp, min(params.max_timestamp, int(time.time()) + CLOCK_SLACK)


def judge(
    tables: Checked,
    params: ValidateParams,
    text_columns: Sequence[str],
    k_core: int,
    *,
    reference: dict[str, int] | None,
    drift: Drift | str,
    folder: Path,
    validated: Path | None,
    data: str,
) -> dict[str, Any]:
    """As `validate_tables`, of tables that have their computed columns; frames are of pandas or of Spark."""
    if validated is not None:
        validated.unlink(missing_ok=True)
    checks = [
        *interaction_checks(params),
        *item_checks(params, list(tables.frames["items"].columns), text_columns, k_core),
        *user_checks(params, k_core),
        *reference_checks(params, reference, has_previous=isinstance(drift, Drift)),
        *drift_checks(params, drift),
    ]
    checks = skip_unanswerable(checks, tables.usable)
    frames = tables.frames | ({"snapshot": one_row(drift)} if isinstance(drift, Drift) else {})
    findings = _run(frames, checks)
    failed = [finding for finding in findings if finding["success"] is False]
    passed = not any(finding["severity"] == CRITICAL for finding in failed)
    result = {"data": data, "passed": passed, "rows": tables.rows, "expectations": findings}
    files.write_json(folder / Artifacts().validation.name, result)
    write_page(folder / Artifacts().data_docs.name, result)
    for finding in failed:
        if finding["severity"] == WARNING:
            log.warning("warning: %s", _sentence(finding))
    if not passed:
        raise InvalidDataError(_complaint(failed, folder))
    if validated is not None:
        files.write_json(validated, {"rows": tables.rows, "sha256": tables.sha256})
    return result


def _run(tables: dict[str, Any], checks: list[Check]) -> list[dict[str, Any]]:
    """Let Great Expectations decide each check. Returns a finding per check, in their order."""
    keep_quiet()
    # Most of the stage's time is this import. It makes hundreds of thousands of objects that stay, and nothing to
    # collect: without the collector, which would look at all of them again and again, it takes a fifth less.
    gc.disable()
    try:
        import great_expectations as gx
        import great_expectations.expectations as gxe
        from great_expectations.data_context.types.base import ProgressBarsConfig
    finally:
        gc.freeze()
        gc.enable()

    outcomes: dict[tuple[str, str], dict[str, Any]] = {}
    answer: Any
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    sources: dict[bool, Any] = {}
    for table, frame in tables.items():
        on_spark = hasattr(frame, "sparkSession")
        if on_spark and on_spark not in sources:
            sources[True] = context.data_sources.add_spark("frames", persist=False)  # else it keeps a copy of a frame
        elif on_spark not in sources:
            sources[False] = context.data_sources.add_pandas("tables")
        expectations = [
            getattr(gxe, check.expectation)(
                **_arguments(check, on_spark), severity=check.severity, meta={"name": check.name}
            )
            for check in checks
            if check.table == table and not check.skipped
        ]
        suite = context.suites.add(gx.ExpectationSuite(table, expectations=expectations))
        batch = sources[on_spark].add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=table, data=batch, suite=suite))
        found = definition.run(batch_parameters={"dataframe": frame}, result_format={"result_format": "SUMMARY"})
        for answer in found.results:
            outcome = _outcome(answer)
            if on_spark and outcome["unexpected_count"]:  # Spark's first rows are any rows
                outcome["examples"] = _examples_on_spark(frame, answer)
            outcomes[table, answer.expectation_config.meta["name"]] = outcome
    return [_finding(check, outcomes.get((check.table, check.name))) for check in checks]


SPARK_TYPES = {"str": "StringType", "int64": "LongType"}


def _arguments(check: Check, on_spark: bool) -> dict[str, Any]:
    """Arguments of a check, with types as Spark names them."""
    if on_spark and "type_" in check.arguments:
        return check.arguments | {"type_": SPARK_TYPES[check.arguments["type_"]]}
    return check.arguments


def _examples_on_spark(frame: Any, answer: Any) -> list[Any]:
    from unigrec.data.spark.validate import examples

    nulls = answer.expectation_config.type == "expect_column_values_to_not_be_null"
    found = examples(frame, answer.expectation_config.kwargs["column"], LOOKED_AT, nulls=nulls)
    return _shown_examples([f"row {value}" for value in found] if nulls else found)


def _shown_examples(values: list[Any]) -> list[Any]:
    return [_plain(value) for value in list(dict.fromkeys(values))[:EXAMPLES]]


def _outcome(answer: Any) -> dict[str, Any]:
    """Translate an answer of Great Expectations: success, observed, unexpected count and share, examples, reason."""
    result = answer.result
    unexpected = result.get("unexpected_count")
    examples = result.get("partial_unexpected_list") or []
    if answer.expectation_config.type == "expect_column_values_to_not_be_null":  # values are null: name rows
        examples = [f"row {row}" for row in result.get("partial_unexpected_index_list") or []]
    observed = result.get("observed_value")
    if unexpected is not None:
        observed = f"{unexpected} of {result['element_count']} rows"
    elif answer.expectation_config.type == "expect_column_to_exist":
        observed = "present" if answer.success else "missing"
    observed = {kind: name for name, kind in SPARK_TYPES.items()}.get(observed, observed)
    if answer.expectation_config.type == "expect_column_sum_to_be_between" and observed is not None:
        observed = int(observed)  # a count, of which Spark makes 0.0 if there is none
    return {
        "success": bool(answer.success),
        "observed": _plain(observed),
        "unexpected_count": unexpected,
        "unexpected_share": unexpected / max(1, result["element_count"]) if unexpected is not None else None,
        "examples": _shown_examples(examples),
        "reason": _exception_message(answer.exception_info or {}),
    }


def _finding(check: Check, outcome: dict[str, Any] | None) -> dict[str, Any]:
    empty = ("success", "observed", "unexpected_count", "unexpected_share")
    not_checked: dict[str, Any] = {**dict.fromkeys(empty), "examples": [], "reason": f"not checked: {check.skipped}"}
    return {
        "table": check.table,
        "name": check.name,
        "severity": check.severity,
        "threshold": check.threshold or None,
        **(outcome or not_checked),
    }


def _exception_message(info: dict[str, Any]) -> str | None:
    """The first message of an expectation that raised; the library gives one entry, or one per metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    messages = [entry["exception_message"] for entry in entries if entry["raised_exception"]]
    return messages[0] if messages else None


def _plain(value: Any) -> Any:
    """Turn a numpy or pandas value into one that JSON knows: NaN becomes null, long texts are cut."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and len(value) > LONGEST:
        return value[: LONGEST - 1] + "…"
    return value if isinstance(value, (str, int, float, list, type(None))) else str(value)


def _sentence(finding: dict[str, Any]) -> str:
    parts = [f"{finding['table']}: expected that {finding['name']}"]
    if finding["reason"]:
        parts.append(f"could not be checked: {finding['reason']}")
    elif finding["unexpected_count"] is not None:
        parts.append(f"broken by {finding['observed']} ({percent(finding['unexpected_share'])})")
    else:
        parts.append(f"found {json.dumps(finding['observed'], ensure_ascii=False)}")
    if finding["examples"]:
        parts.append(f"such as {', '.join(json.dumps(value, ensure_ascii=False) for value in finding['examples'])}")
    if finding["threshold"]:
        parts.append(f"set by {finding['threshold']}")
    return "; ".join(parts)


def _complaint(failed: list[dict[str, Any]], folder: Path) -> str:
    critical = [finding for finding in failed if finding["severity"] == CRITICAL]
    lines = [
        f"the data breaks {len(critical)} expectation{'s' if len(critical) > 1 else ''}; nothing after it will run"
    ]
    lines += [f"  - {_sentence(finding)}" for finding in critical]
    pages = folder / Artifacts().data_docs.name / "index.html"
    lines.append(f"every expectation: {folder / Artifacts().validation.name}; to look at: {pages}")
    return "\n".join(lines)
