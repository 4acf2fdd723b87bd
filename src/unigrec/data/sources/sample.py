"""A generated shop: items whose texts describe them, and users whose next item follows from the last ones.

Nothing is copied from real data, so the generator ships with the project; it also makes millions of rows for load
tests. A model can learn:

- *text*: a title names the brand, the style, the series and the kind; items with similar texts have similar buyers;
- *sequence*: most steps go to a complement of the item before (tent -> sleeping bag -> stove), one way only, and
  within the same style and series;
- *taste*: the other steps follow the user's department and style, both of which drift;
- *popularity*: Zipf-like, but so flat that it explains little.

Legend: n items, U users.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from unigrec.config.schema import SampleParams
from unigrec.data.sources.sample_words import BRANDS, COLOURS, DEPARTMENTS, LEAVES, SERIES, STYLES, USES

START = 1_672_531_200  # 2023-01-01 00:00 UTC; a fixed epoch, not a clock, so that a rerun gives the same bytes
DAY = 86_400
ARRIVAL_DAYS = 365  # users arrive over a year
SESSION_GAP_DAYS = 4.0  # mean time between two sessions of a user
STEP_MINUTES = 4.0  # mean time between two items of a session

MIN_LENGTH = 5  # a 5-core keeps nearly every user
FOLLOW, TASTE = 0.62, 0.30  # shares of steps; the rest is noise
COMPLEMENT_SHARES = np.array([0.55, 0.25, 0.12, 0.08])  # among a kind's complements, the usual one first
MATCH = 0.65  # share of follow-up steps within style and series; the others take any item of the complement's kind
DEPARTMENT_DRIFT, STYLE_DRIFT = 0.20, 0.08  # per session
NOISE_UNIFORM = 0.5  # share of the noise steps; the others follow popularity
ZIPF_EXPONENT, ZIPF_OFFSET = 0.7, 12
SERIES_SIZE = 6  # items of a kind and style that share a series
REDRAWS = 4  # draws before an item of the user's history is accepted
MISSING_BRAND, MISSING_DESCRIPTION = 0.05, 0.10
IN_STOCK = 0.9

N_DEPARTMENTS, N_LEAVES, N_STYLES = len(DEPARTMENTS), len(LEAVES), len(STYLES)
LEAF_DEPARTMENT = np.array([DEPARTMENTS.index(leaf.department) for leaf in LEAVES])
COMPLEMENTS = np.array([leaf.complements for leaf in LEAVES])  # (leaves, 4)


class _Catalogue(NamedTuple):
    """Attributes of the items; every array has shape (n,)."""

    leaf: np.ndarray  # index into LEAVES
    style: np.ndarray  # index into STYLES
    series: np.ndarray
    weight: np.ndarray  # popularity, not normalised

    def cell(self) -> np.ndarray:
        """Number of each item's cell (leaf and style): items of one cell are alike."""
        return self.leaf * N_STYLES + self.style


class _Groups(NamedTuple):
    """Tables to draw items by weight within a group, many draws at once."""

    order: np.ndarray  # items, group after group
    edges: np.ndarray  # cumulative weight, (n + 1,)
    low: np.ndarray  # start and end of each group on the scale of `edges`
    high: np.ndarray


def _grouped(group: np.ndarray, weight: np.ndarray, n_groups: int) -> _Groups:
    order = np.argsort(group, kind="stable")
    edges = np.concatenate([[0.0], np.cumsum(weight[order])])
    bounds = np.searchsorted(group[order], np.arange(n_groups + 1))
    return _Groups(order, edges, edges[bounds[:-1]], edges[bounds[1:]])


def _draw(rng: np.random.Generator, groups: _Groups, group: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Draw one item per entry of `group`, by weight; for a group without items, take the entry of `otherwise`."""
    low, high = groups.low[group], groups.high[group]
    target = low + rng.random(len(group)) * (high - low)
    place = np.searchsorted(groups.edges, target, side="right") - 1
    return np.where(high > low, groups.order[np.minimum(place, len(groups.order) - 1)], otherwise)


def generate_sample(params: SampleParams, seed: int) -> tuple[pa.Table, pa.Table]:
    """Generate interactions (user_id, item_id, timestamp in unix seconds; by time) and items (item_id, texts).

    Equal params and seed give equal tables. Every user has at least 5 interactions if `interactions` suffices. Time and
    memory grow linearly with the interactions.
    """
    rng = np.random.default_rng(seed)
    catalogue = _make_catalogue(rng, params.items)
    items = _item_table(rng, catalogue)
    lengths = _lengths(rng, params)
    users, chosen, new_session = _histories(rng, catalogue, lengths)
    timestamps = _timestamps(rng, lengths, new_session)
    order = np.argsort(timestamps, kind="stable")
    user_ids = _names("U", len(lengths))
    interactions = pa.table(
        {
            "user_id": user_ids.take(pa.array(users[order])),
            "item_id": items["item_id"].combine_chunks().take(pa.array(chosen[order])),
            "timestamp": pa.array(timestamps[order]),
        }
    )
    return interactions, items


def _names(prefix: str, count: int) -> pa.Array:
    width = len(str(count))
    return pa.array([f"{prefix}{number:0{width}d}" for number in range(1, count + 1)], pa.string())


# --- the catalogue --------------------------------------------------------------------------------------------------


def _make_catalogue(rng: np.random.Generator, n: int) -> _Catalogue:
    leaf = rng.permutation(n) % N_LEAVES
    style = rng.integers(0, N_STYLES, n)
    weight = 1.0 / (rng.permutation(n) + 1.0 + ZIPF_OFFSET) ** ZIPF_EXPONENT
    cell = leaf * N_STYLES + style
    order = np.argsort(cell, kind="stable")
    start = np.searchsorted(cell[order], np.arange(N_LEAVES * N_STYLES))
    place = np.empty(n, dtype=np.int64)  # rank of an item among those of its leaf and style
    place[order] = np.arange(n) - start[cell[order]]
    return _Catalogue(leaf, style, place // SERIES_SIZE, weight)


def _item_table(rng: np.random.Generator, catalogue: _Catalogue) -> pa.Table:
    n = len(catalogue.leaf)
    brand_pick, colour_pick = rng.integers(0, 1 << 30, n).tolist(), rng.integers(0, len(COLOURS), n).tolist()
    attribute_picks = rng.integers(0, 1 << 30, (n, 2)).tolist()
    no_brand, no_description = (rng.random(n) < MISSING_BRAND).tolist(), (rng.random(n) < MISSING_DESCRIPTION).tolist()
    titles, brands, paths, descriptions = [], [], [], []
    rows = zip(catalogue.leaf.tolist(), catalogue.style.tolist(), catalogue.series.tolist(), strict=True)
    for number, (leaf_index, style_index, series) in enumerate(rows):
        leaf, style = LEAVES[leaf_index], STYLES[style_index]
        makers = BRANDS[style.name]
        brand = makers[brand_pick[number] % len(makers)]
        first, second = (style.attributes[pick % len(style.attributes)] for pick in attribute_picks[number])
        line = _line(style_index, series)
        titles.append(f"{brand} {line} {first} {leaf.name}, {COLOURS[colour_pick[number]]}")
        brands.append(None if no_brand[number] else brand)
        paths.append(f"{leaf.department} > {leaf.category} > {leaf.name}")
        goes_with = " and ".join(LEAVES[other].name.lower() for other in leaf.complements[:2])
        text = (
            f"{style.phrase} {leaf.name.lower()} of the {line} line, {first.lower()} and {second.lower()}, "
            f"for {USES[leaf.department]}. Goes with {goes_with}."
        )
        descriptions.append(None if no_description[number] else text)
    texts = {"title": titles, "brand": brands, "categories": paths, "description": descriptions}
    return pa.table({"item_id": _names("P", n), **{name: pa.array(text, pa.string()) for name, text in texts.items()}})


def sample_columns(items: pa.Table, seed: int) -> pa.Table:
    """What a shop knows of the generated items besides texts: item_id, brand, categories as lists, price, in_stock.

    A generator of its own draws them: the items and the interactions do not depend on them.
    """
    rng = np.random.default_rng([seed, 1])
    prices = np.round(np.exp(rng.normal(3.0, 0.7, items.num_rows)), 2)
    levels = [path.split(" > ") for path in items["categories"].to_pylist()]
    return pa.table(
        {
            "item_id": items["item_id"],
            "brand": items["brand"],
            "categories": pa.array(levels, pa.list_(pa.string())),
            "price": prices,
            "in_stock": rng.random(items.num_rows) < IN_STOCK,
        }
    )


def _line(style: int, series: int) -> str:
    """Name a series of a style; in a large catalogue editions are numbered."""
    per_style = len(SERIES) // N_STYLES
    name, edition = SERIES[style * per_style + series % per_style], series // per_style
    return f"{name} {edition + 1}" if edition else name


# --- the users ------------------------------------------------------------------------------------------------------


def _lengths(rng: np.random.Generator, params: SampleParams) -> np.ndarray:
    """History lengths, (U,), longest first; their sum is `params.interactions`."""
    least = min(MIN_LENGTH, params.interactions // params.users)
    share = rng.gamma(1.2, size=params.users)
    extra = rng.multinomial(params.interactions - least * params.users, share / share.sum())
    return np.sort(least + extra)[::-1]


class _Shelves(NamedTuple):
    """The catalogue, grouped for drawing."""

    catalogue: _Catalogue
    by_taste: _Groups  # department and style
    by_series: _Groups  # leaf, style and series
    by_leaf: _Groups
    n_series: int


def _shelve(catalogue: _Catalogue) -> _Shelves:
    weight, n_series = catalogue.weight, int(catalogue.series.max()) + 1
    taste = LEAF_DEPARTMENT[catalogue.leaf] * N_STYLES + catalogue.style
    return _Shelves(
        catalogue,
        _grouped(taste, weight, N_DEPARTMENTS * N_STYLES),
        _grouped(catalogue.cell() * n_series + catalogue.series, weight, N_LEAVES * N_STYLES * n_series),
        _grouped(catalogue.leaf, weight, N_LEAVES),
        n_series,
    )


def _histories(
    rng: np.random.Generator, catalogue: _Catalogue, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk all users at once, one step at a time.

    Returns user index, item index and whether the step began a session, each of shape (interactions,), user after user.
    """
    shelves = _shelve(catalogue)
    n_users, longest = len(lengths), int(lengths.max())
    seen = np.full((n_users, longest), -1, dtype=np.int32)
    session = np.ones((n_users, longest), dtype=bool)
    likes = rng.integers(0, N_DEPARTMENTS, (n_users, 2))  # favourite departments
    department = likes[:, 0].copy()
    style = rng.integers(0, N_STYLES, n_users)

    for step in range(longest):
        # Which users take this step, and which of them follow their last item; the others begin a session.
        active = int(np.searchsorted(-lengths, -step, side="left"))  # lengths fall, so the first `active` go on
        follows = rng.random(active) < (FOLLOW if step else 0.0)
        session[:active, step] = ~follows
        _drift(rng, ~follows, department, style, likes)
        # Draw an item per user; users that get one of their history draw again.
        wanting = np.arange(active)
        for _ in range(REDRAWS):
            item = _by_taste(rng, shelves, department[wanting], style[wanting])
            after = follows[wanting]
            item[after] = _complement(rng, shelves, seen[wanting[after], step - 1])
            met = (seen[wanting, :step] == item[:, None]).any(axis=1)
            seen[wanting, step] = item
            wanting = wanting[met]

    filled = np.arange(longest) < lengths[:, None]
    return np.repeat(np.arange(n_users), lengths), seen[filled], session[filled]


def _complement(rng: np.random.Generator, shelves: _Shelves, previous: np.ndarray) -> np.ndarray:
    """Draw an item of a kind that complements the previous item, mostly of the same style and series."""
    count, catalogue = len(previous), shelves.catalogue
    rank = np.searchsorted(np.cumsum(COMPLEMENT_SHARES)[:-1], rng.random(count), side="right")
    leaf = COMPLEMENTS[catalogue.leaf[previous], rank]
    item = _draw(rng, shelves.by_leaf, leaf, otherwise=rng.integers(0, len(catalogue.leaf), count))
    series = (leaf * N_STYLES + catalogue.style[previous]) * shelves.n_series + catalogue.series[previous]
    return np.where(rng.random(count) < MATCH, _draw(rng, shelves.by_series, series, otherwise=item), item)


def _by_taste(rng: np.random.Generator, shelves: _Shelves, department: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Draw an item of the user's department and style; noise draws any item, half by popularity, half uniformly."""
    count, taste = len(department), shelves.by_taste
    anything = rng.random(count) * taste.edges[-1]
    popular = taste.order[np.minimum(np.searchsorted(taste.edges, anything, side="right") - 1, len(taste.order) - 1)]
    noise = np.where(rng.random(count) < NOISE_UNIFORM, rng.integers(0, len(taste.order), count), popular)
    own = _draw(rng, taste, department * N_STYLES + style, otherwise=noise)
    return np.where(rng.random(count) < TASTE / (1.0 - FOLLOW), own, noise)


def _drift(
    rng: np.random.Generator, begins: np.ndarray, department: np.ndarray, style: np.ndarray, likes: np.ndarray
) -> None:
    """Move taste at the start of a session: to a favourite department, rarely a new one, or to another style."""
    active = len(begins)
    moves = begins & (rng.random(active) < DEPARTMENT_DRIFT)
    explores = rng.random(active) < 0.25
    favourite = likes[np.arange(active), rng.integers(0, 2, active)]
    goal = np.where(explores, rng.integers(0, N_DEPARTMENTS, active), favourite)
    department[:active] = np.where(moves, goal, department[:active])
    restyles = begins & (rng.random(active) < STYLE_DRIFT)
    style[:active] = np.where(restyles, rng.integers(0, N_STYLES, active), style[:active])


def _timestamps(rng: np.random.Generator, lengths: np.ndarray, new_session: np.ndarray) -> np.ndarray:
    """Unix seconds, (interactions,), rising within each user: minutes inside a session, days between sessions."""
    total = len(new_session)
    days = rng.exponential(SESSION_GAP_DAYS, total) * DAY + 3600
    minutes = rng.exponential(STEP_MINUTES, total) * 60 + 5
    gaps = np.where(new_session, days, minutes).astype(np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])[lengths > 0]
    arrival = rng.integers(0, ARRIVAL_DAYS * DAY, len(first))
    elapsed = np.cumsum(gaps)
    base = np.repeat(elapsed[first] - arrival, lengths[lengths > 0])
    return START + elapsed - base
