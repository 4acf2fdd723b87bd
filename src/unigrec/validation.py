"""Does the data meet the expectations of params.yaml? Great Expectations decides, Data Docs show it, bad data stops.

Three tables are checked: the interactions, the items, and the users, which are derived from the interactions. What
spans two rows or two tables (an unknown item, a repeated interaction, the k-core) is computed first, in
`validation_tables`, as one more column that holds the offending value where something is wrong and null elsewhere; the
expectation then asks for nulls only, and its unexpected values are examples that a person recognises.
"""

from __future__ import annotations

import html
import json
import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unigrec import artifacts as a
from unigrec.config import ValidateParams
from unigrec.data_docs import make_offline
from unigrec.errors import InvalidDataError, UnigrecError
from unigrec.process import keep_quiet
from unigrec.validation_tables import INTERACTION_COLUMNS, ITEM_COLUMNS, frames, sha256, typed, usable_columns

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

CLOCK_SLACK = 86_400  # seconds that a timestamp may lie ahead of this machine's clock
EXAMPLES = 5  # shown of each expectation's unexpected values
LONGEST = 120  # characters of an example
CRITICAL, WARNING = "critical", "warning"

log = logging.getLogger(__name__)


class Check(NamedTuple):
    """One expectation: what it says in plain words, and the Great Expectations class that decides it."""

    table: str  # interactions | items | users
    name: str
    expectation: str
    arguments: dict[str, Any]
    threshold: str = ""  # key in params.yaml
    severity: str = CRITICAL
    needs: tuple[str, ...] = ()  # TABLE.COLUMN that must be there, with the right type, for the answer to mean anything
    skipped: str = ""  # why it was not checked


def validate_tables(
    interactions: pa.Table,
    items: pa.Table,
    params: ValidateParams,
    text_columns: Sequence[str],
    k_core: int,
    reference: dict[str, int] | None,
) -> dict[str, Any]:
    """Check the two tables and write `validate/result.json`, the Data Docs and, when all is well, `validated.json`.

    Args:
        interactions: user_id str, item_id str, timestamp int64 (unix seconds); one row an interaction.
        items: item_id str and text columns (str or null); one row an item.
        text_columns: columns that count as an item's text, where they exist.
        k_core: users and items with fewer interactions will be removed by the next stage.
        reference: rows of {users, items, interactions} of the last registered run; None on the first.

    Returns:
        What result.json holds: `passed`, `rows` a table, and `expectations`.

    Raises:
        InvalidDataError: an expectation of severity `critical` failed; result and docs are written, `validated.json`
            is not there.
        UnigrecError: `reference` is not of the expected shape, or the disk cannot be written.
    """
    a.VALIDATED.unlink(missing_ok=True)
    interactions, items = typed(interactions), typed(items)
    times = params.min_timestamp, min(params.max_timestamp, int(time.time()) + CLOCK_SLACK)
    tables = frames(interactions, items, text_columns, k_core, times)
    rows = {name: len(table) for name, table in tables.items()}
    checks = [
        *_interaction_checks(params),
        *_item_checks(params, items, text_columns, k_core),
        *_user_checks(params, k_core),
        *_reference_checks(params, reference),
    ]
    checks = _skip_unanswerable(checks, usable_columns(interactions, items))
    findings = _run(tables, checks)
    failed = [finding for finding in findings if finding["success"] is False]
    passed = not any(finding["severity"] == CRITICAL for finding in failed)
    result = {"passed": passed, "rows": rows, "expectations": findings}
    a.write_json(a.VALIDATION, result)
    for finding in failed:
        if finding["severity"] == WARNING:
            log.warning("warning: %s", _sentence(finding))
    if not passed:
        raise InvalidDataError(_complaint(failed))
    hashes = {"interactions": sha256(interactions), "items": sha256(items)}
    a.write_json(a.VALIDATED, {"rows": rows, "sha256": hashes})
    return result


# What is checked


def _interaction_checks(params: ValidateParams) -> list[Check]:
    return [
        *_column_checks("interactions", INTERACTION_COLUMNS),
        *_given_checks("interactions", INTERACTION_COLUMNS),
        Check(
            "interactions",
            "every interaction's item is in the items table",
            *_all_null("unknown_item_id"),
            needs=("interactions.item_id", "items.item_id"),
        ),
        Check(
            "interactions",
            f"at most {_percent(params.max_duplicate_share)} of the interactions repeat an earlier one "
            "(same user, item and time)",
            *_all_null("repeated_interaction", mostly=1 - params.max_duplicate_share),
            threshold="validate.max_duplicate_share",
            needs=tuple(f"interactions.{column}" for column in INTERACTION_COLUMNS),
        ),
        Check(
            "interactions",
            f"timestamps are unix seconds from {params.min_timestamp} to {params.max_timestamp}, at most a day ahead "
            "of the clock",
            *_all_null("time_out_of_range"),
            threshold="validate.min_timestamp, validate.max_timestamp",
            needs=("interactions.timestamp",),
        ),
        _size_check("interactions", params.min_interactions),
    ]


def _item_checks(params: ValidateParams, items: pa.Table, text_columns: Sequence[str], k_core: int) -> list[Check]:
    present = [column for column in text_columns if column in items.column_names]
    no_text_asked = "" if text_columns else "embed.text_columns is empty"
    return [
        *_column_checks("items", ITEM_COLUMNS | dict.fromkeys(present, "str")),
        *_given_checks("items", ITEM_COLUMNS),
        Check(
            "items",
            "no item_id is there twice",
            "ExpectColumnValuesToBeUnique",
            {"column": "item_id"},
            needs=("items.item_id",),
        ),
        Check(
            "items",
            f"there is at least one text column ({', '.join(text_columns)})",
            "ExpectColumnToExist",
            {"column": next(iter([*present, *text_columns]), None)},
            threshold="embed.text_columns",
            skipped=no_text_asked,
        ),
        Check(
            "items",
            f"at least {_percent(params.min_text_coverage)} of the items have some text in {', '.join(text_columns)}",
            *_all_null("item_without_text", mostly=params.min_text_coverage),
            threshold="validate.min_text_coverage",
            needs=("items.item_id", *(f"items.{column}" for column in present)),
            skipped=no_text_asked,
        ),
        _size_check("items", params.min_items),
        _core_check("items", k_core),
    ]


def _user_checks(params: ValidateParams, k_core: int) -> list[Check]:
    return [
        _size_check("users", params.min_users),
        _core_check("users", k_core),
        Check(
            "users",
            f"at most {_percent(params.max_single_time_user_share)} of the users have two or more interactions that "
            "all carry one time: their order is the order of the rows",
            *_all_null("user_with_one_time", mostly=1 - params.max_single_time_user_share),
            threshold="validate.max_single_time_user_share",
            severity=WARNING,
            needs=("interactions.user_id", "interactions.item_id", "interactions.timestamp"),
        ),
    ]


def _reference_checks(params: ValidateParams, reference: dict[str, int] | None) -> list[Check]:
    checks = []
    for table in ("interactions", "items", "users"):
        bounds, skipped = {}, "no earlier run is registered"
        if reference is not None:
            rows = reference.get(table)
            if not isinstance(rows, int):
                raise UnigrecError(
                    f"{a.REFERENCE}: {table!r} should be a number of rows, found {rows!r}; delete the file"
                )
            bounds = {
                "min_value": math.ceil(rows * (1 - params.max_row_change)),
                "max_value": math.floor(rows * (1 + params.max_row_change)),
            }
            skipped = ""
        name = f"the number of {table} is within {_percent(params.max_row_change)} of the last registered run's"
        checks.append(
            Check(
                table,
                name if reference is None else f"{name}, {rows}",
                "ExpectTableRowCountToBeBetween",
                bounds,
                threshold="validate.max_row_change",
                needs=("interactions.user_id", "interactions.item_id") if table == "users" else (),
                skipped=skipped,
            )
        )
    return checks


def _column_checks(table: str, columns: dict[str, str]) -> list[Check]:
    checks = []
    for column, kind in columns.items():
        words = {"str": "text", "int64": "whole numbers"}[kind]
        of_type = {"column": column, "type_": kind}
        checks += [
            Check(table, f"there is a column {column}", "ExpectColumnToExist", {"column": column}),
            Check(
                table, f"{column} holds {words}", "ExpectColumnValuesToBeOfType", of_type, needs=(f"{table}.{column}?",)
            ),
        ]
    return checks


def _given_checks(table: str, columns: dict[str, str]) -> list[Check]:
    return [
        Check(
            table,
            f"no {column} is null" + (" or blank" if kind == "str" else ""),
            "ExpectColumnValuesToNotBeNull",
            {"column": column},
            needs=(f"{table}.{column}",),
        )
        for column, kind in columns.items()
    ]


def _size_check(table: str, minimum: int) -> Check:
    return Check(
        table,
        f"there are at least {minimum} {table}",
        "ExpectTableRowCountToBeBetween",
        {"min_value": minimum},
        threshold=f"validate.min_{table}",
        needs=("interactions.user_id", "interactions.item_id") if table == "users" else (),
    )


def _core_check(table: str, k_core: int) -> Check:
    return Check(
        table,
        f"the {k_core}-core has {table}: some are left when users and items with fewer than {k_core} interactions go",
        "ExpectColumnSumToBeBetween",
        {"column": "left_after_k_core", "min_value": 1},
        threshold="prepare.k_core",
        needs=("interactions.user_id", "interactions.item_id", "items.item_id"),
    )


def _all_null(column: str, mostly: float = 1.0) -> tuple[str, dict[str, Any]]:
    # Rounded: 1 - 0.7 is a hair above 0.3, and a share that just meets the threshold must pass.
    return "ExpectColumnValuesToBeNull", {"column": column, "mostly": round(mostly, 12)}


def _skip_unanswerable(checks: list[Check], usable: set[str]) -> list[Check]:
    kept = []
    for check in checks:
        missing = [column.removesuffix("?") for column in check.needs if column not in usable]
        if missing and not check.skipped:
            check = check._replace(skipped=f"{', '.join(missing)} is missing or has the wrong type")
        kept.append(check)
    return kept


# Great Expectations


def _run(tables: dict[str, pd.DataFrame], checks: list[Check]) -> list[dict[str, Any]]:
    """Ask Great Expectations about each check and write the Data Docs. A finding for each check, in their order."""
    keep_quiet()
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

    findings: dict[tuple[str, str], dict[str, Any]] = {}
    answer: Any
    with a.atomic_folder(a.DATA_DOCS) as folder:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        context.variables.data_docs_sites = _docs_site(folder)
        source = context.data_sources.add_pandas("tables")
        for table, frame in tables.items():
            mine = [check for check in checks if check.table == table and not check.skipped]
            suite = context.suites.add(gx.ExpectationSuite(table, expectations=[_expectation(check) for check in mine]))
            batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
            definition = context.validation_definitions.add(
                gx.ValidationDefinition(name=table, data=batch, suite=suite)
            )
            outcome = definition.run(
                batch_parameters={"dataframe": frame},
                result_format={"result_format": "SUMMARY"},
                run_id=RunIdentifier(run_name="validate"),
            )
            for answer in outcome.results:
                findings[table, answer.expectation_config.meta["name"]] = _outcome(answer)
        _escape_values(context.validation_results_store)
        context.build_data_docs()
        make_offline(folder)
    return [_finding(check, findings.get((check.table, check.name))) for check in checks]


def _docs_site(folder: Path) -> dict[str, Any]:
    return {
        "unigrec": {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.absolute())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder", "show_cta_footer": False},
        }
    }


def _escape_values(results: Any) -> None:
    """The pages show values of the data as they are: an id that is HTML must not run in the reader's browser."""
    for key in results.list_keys():
        outcome = results.get(key)
        for answer in outcome.results:
            answer.result = _escaped(answer.result)
        results.set(key, outcome)


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return html.escape(value) if isinstance(value, str) else value


def _expectation(check: Check) -> Any:
    import great_expectations.expectations as gxe

    description = f"{check.name} ({check.threshold})" if check.threshold else check.name
    if check.severity == WARNING:
        description = f"a warning, nothing more: {description}"
    return getattr(gxe, check.expectation)(
        **check.arguments, description=description, severity=check.severity, meta={"name": check.name}
    )


def _outcome(answer: Any) -> dict[str, Any]:
    """What Great Expectations found, in our words: success, observed, unexpected count and share, examples, reason."""
    result = answer.result
    unexpected = result.get("unexpected_count")
    examples = result.get("partial_unexpected_list") or []
    if answer.expectation_config.type == "expect_column_values_to_not_be_null":  # the values tell nothing, the rows do
        examples = [f"row {row}" for row in result.get("partial_unexpected_index_list") or []]
    observed = result.get("observed_value")
    if unexpected is not None:
        observed = f"{unexpected} of {result['element_count']} rows"
    elif answer.expectation_config.type == "expect_column_to_exist":
        observed = "there" if answer.success else "missing"
    return {
        "success": bool(answer.success),
        "observed": _plain(observed),
        "unexpected_count": unexpected,
        "unexpected_share": unexpected / max(1, result["element_count"]) if unexpected is not None else None,
        "examples": [_plain(value) for value in list(dict.fromkeys(examples))[:EXAMPLES]],
        "reason": _exception_message(answer.exception_info or {}),
    }


def _finding(check: Check, outcome: dict[str, Any] | None) -> dict[str, Any]:
    empty = ("success", "observed", "unexpected_count", "unexpected_share")
    not_asked: dict[str, Any] = {**dict.fromkeys(empty), "examples": [], "reason": f"not checked: {check.skipped}"}
    return {
        "table": check.table,
        "name": check.name,
        "severity": check.severity,
        "threshold": check.threshold or None,
        **(outcome or not_asked),
    }


def _exception_message(info: dict[str, Any]) -> str | None:
    """The first message of an expectation that raised; the library gives one entry, or one for each metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    messages = [entry["exception_message"] for entry in entries if entry["raised_exception"]]
    return messages[0] if messages else None


def _plain(value: Any) -> Any:
    """A numpy or pandas value as what JSON knows; NaN as null, long texts cut."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and len(value) > LONGEST:
        return value[: LONGEST - 1] + "…"
    return value if isinstance(value, (str, int, float, list, type(None))) else str(value)


# Words


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _sentence(finding: dict[str, Any]) -> str:
    parts = [f"{finding['table']}: expected that {finding['name']}"]
    if finding["reason"]:
        parts.append(f"could not be checked: {finding['reason']}")
    elif finding["unexpected_count"] is not None:
        parts.append(f"broken by {finding['observed']} ({_percent(finding['unexpected_share'])})")
    else:
        parts.append(f"found {json.dumps(finding['observed'], ensure_ascii=False)}")
    if finding["examples"]:
        parts.append(f"such as {', '.join(json.dumps(value, ensure_ascii=False) for value in finding['examples'])}")
    if finding["threshold"]:
        parts.append(f"set by {finding['threshold']}")
    return "; ".join(parts)


def _complaint(failed: list[dict[str, Any]]) -> str:
    critical = [finding for finding in failed if finding["severity"] == CRITICAL]
    lines = [
        f"the data breaks {len(critical)} expectation{'s' if len(critical) > 1 else ''}; nothing after it will run"
    ]
    lines += [f"  - {_sentence(finding)}" for finding in critical]
    lines.append(f"every expectation: {a.VALIDATION}; to look at: {a.DATA_DOCS / 'index.html'}")
    return "\n".join(lines)
