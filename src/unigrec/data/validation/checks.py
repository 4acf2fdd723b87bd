"""What validation expects of the data: each expectation in plain words, with the class that decides it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from unigrec.base import paths
from unigrec.base.errors import UnigrecError
from unigrec.config.schema import Bound, ValidateParams
from unigrec.data.drift import Drift
from unigrec.data.validation.tables import INTERACTION_COLUMNS, ITEM_COLUMNS

CRITICAL, WARNING = "critical", "warning"


class Check(NamedTuple):
    """One expectation: its sentence in plain words, and the Great Expectations class that decides it."""

    table: str  # interactions | items | users | snapshot
    name: str
    expectation: str
    arguments: dict[str, Any]
    threshold: str = ""  # key in params.yaml
    severity: str = CRITICAL
    needs: tuple[str, ...] = ()  # TABLE.COLUMN that must exist with the right type, else the check is skipped
    skipped: str = ""  # why it was not checked


def interaction_checks(params: ValidateParams) -> list[Check]:
    unknown, all_known = params.max_unknown_item_share, "every interaction's item is in the items table"
    if unknown:
        all_known = f"at most {percent(unknown)} of the interactions are of items that the items table lacks"
    return [
        *_column_checks("interactions", INTERACTION_COLUMNS),
        *_given_checks("interactions", INTERACTION_COLUMNS),
        Check(
            "interactions",
            all_known,
            *_all_null("unknown_item_id", mostly=1 - unknown),
            threshold="validate.max_unknown_item_share",
            needs=("interactions.item_id", "items.item_id"),
        ),
        Check(
            "interactions",
            f"at most {percent(params.max_duplicate_share)} of the interactions repeat an earlier one "
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


def item_checks(
    params: ValidateParams, columns: Sequence[str], text_columns: Sequence[str], k_core: int
) -> list[Check]:
    """columns: of the items."""
    present = [column for column in text_columns if column in columns]
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
            f"at least {percent(params.min_text_coverage)} of the items have some text in {', '.join(text_columns)}",
            *_all_null("item_without_text", mostly=params.min_text_coverage),
            threshold="validate.min_text_coverage",
            needs=("items.item_id", *(f"items.{column}" for column in present)),
            skipped=no_text_asked,
        ),
        _size_check("items", params.min_items),
        _core_check("items", k_core),
    ]


def user_checks(params: ValidateParams, k_core: int) -> list[Check]:
    return [
        _size_check("users", params.min_users),
        _core_check("users", k_core),
        Check(
            "users",
            f"at most {percent(params.max_single_time_user_share)} of the users have two or more interactions that "
            "all carry one time: their order is the order of the rows",
            *_all_null("user_with_one_time", mostly=1 - params.max_single_time_user_share),
            threshold="validate.max_single_time_user_share",
            severity=WARNING,
            needs=("interactions.user_id", "interactions.item_id", "interactions.timestamp"),
        ),
    ]


def reference_checks(params: ValidateParams, reference: dict[str, int] | None, has_previous: bool) -> list[Check]:
    """has_previous: the data is compared with the snapshot before it, whose bounds (`validate.previous`) are wider."""
    checks = []
    for table in ("interactions", "items", "users"):
        bounds, skipped = {}, "no earlier run is registered"
        if has_previous:
            reference, skipped = None, "the snapshot before it is compared instead"
        if reference is not None:
            rows = reference.get(table)
            if not isinstance(rows, int):
                raise UnigrecError(
                    f"{paths.REFERENCE}: {table!r} should be a number of rows, found {rows!r}; delete the file"
                )
            bounds = {
                "min_value": math.ceil(rows * (1 - params.max_row_change)),
                "max_value": math.floor(rows * (1 + params.max_row_change)),
            }
            skipped = ""
        name = f"the number of {table} is within {percent(params.max_row_change)} of the last registered run's"
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


class DriftFigure(NamedTuple):
    """The words for a figure of `Drift`; `{0}` stands for the bound."""

    expectation: str
    values: str  # what it was computed from, `Drift`'s fields by name
    look_at: str


DRIFT_FIGURES = {
    "growth": DriftFigure(
        "interactions grow by at most {0}",
        "{interactions_before:,} -> {interactions:,}",
        "an export that holds another shop's or a longer period's data, or rows twice",
    ),
    "shrinkage": DriftFigure(
        "at most {0} of the interactions are gone",
        "{interactions_before:,} -> {interactions:,}",
        "a partial export, or one that begins later",
    ),
    "new_users": DriftFigure(
        "at most {0} of the users are new",
        "{new_users_count:,} of {new_users_of:,}; before: {users_before:,} users",
        "user ids in another form (prefix, hash, leading zeros)",
    ),
    "lost_users": DriftFigure(
        "at most {0} of the users before are gone",
        "{lost_users_count:,} of {users_before:,}; now: {users:,} users",
        "a partial export, or user ids in another form",
    ),
    "new_items": DriftFigure(
        "at most {0} of the items are new",
        "{new_items_count:,} of {new_items_of:,}; before: {items_before:,} items",
        "item ids in another form, or variants listed as items",
    ),
    "lost_items": DriftFigure(
        "at most {0} of the items before are gone",
        "{lost_items_count:,} of {items_before:,}; now: {items:,} items",
        "a partial catalogue, or item ids in another form",
    ),
    "popularity_shift": DriftFigure(
        "the items' shares of the interactions moved by at most {0} (Jensen-Shannon divergence, in bits)",
        "{interactions_before:,} -> {interactions:,} interactions, of {items_before:,} -> {items:,} items",
        "events of another kind counted as interactions, a campaign, robots, or item ids in another form",
    ),
    "text_coverage_drop": DriftFigure(
        "the share of items with text falls by at most {0}",
        "{text_coverage_before:.1%} -> {text_coverage:.1%}",
        "an items table written without some of its texts",
    ),
}


def drift_checks(params: ValidateParams, drift: Drift | str) -> list[Check]:
    """Compare the data with the snapshot before: above a figure's `warn` a warning, above its `stop` an error.

    drift: the figures, or why there is nothing to compare with.
    """
    checks = []
    for name, figure in DRIFT_FIGURES.items():
        bound: Bound = getattr(params.previous, name)
        too_far = isinstance(drift, Drift) and getattr(drift, name) > bound.stop
        limit, key = (bound.stop, "stop") if too_far else (bound.warn, "warn")
        shown = f"{limit:.4g}" if name == "popularity_shift" else percent(limit)
        sentence = f"against the snapshot before, {figure.expectation.format(shown)}"
        if isinstance(drift, Drift):
            sentence += f" ({figure.values.format(**drift._asdict())}); if not: {figure.look_at}"
        checks.append(
            Check(
                "snapshot",
                sentence,
                "ExpectColumnMaxToBeBetween",
                {"column": name, "max_value": limit},
                threshold=f"validate.previous.{name}.{key}",
                severity=CRITICAL if too_far else WARNING,
                skipped="" if isinstance(drift, Drift) else drift,
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
    # Rounded: 1 - 0.7 is slightly above 0.3, and a share that just meets the threshold must pass.
    return "ExpectColumnValuesToBeNull", {"column": column, "mostly": round(mostly, 12)}


def skip_unanswerable(checks: list[Check], usable: set[str]) -> list[Check]:
    """Mark the checks whose columns are missing or of the wrong type as skipped; `usable`: see `usable_columns`."""
    kept = []
    for check in checks:
        missing = [column.removesuffix("?") for column in check.needs if column not in usable]
        if missing and not check.skipped:
            check = check._replace(skipped=f"{', '.join(missing)} is missing or has the wrong type")
        kept.append(check)
    return kept


def percent(share: float) -> str:
    """0.25 -> `25 %`."""
    return f"{100 * share:.4g} %"
