"""From the folders of results to figures (table.json) and to Markdown (table.md). Nothing is trained or ranked here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.quality import runs
from benchmarks.quality.ladder import Rung
from benchmarks.quality.markdown import markdown
from benchmarks.quality.steps import DONE_FILE, Data, is_done, key_of
from unigrec.base import files, paths
from unigrec.config.profiles import leaves
from unigrec.config.schema import Params
from unigrec.core.evaluation.bootstrap import paired_bootstrap
from unigrec.core.evaluation.metrics import ndcg, recall
from unigrec.core.evaluation.protocol import BASELINES, SELECTED, SHIPPED, Protocol

METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "recall_at_5": lambda ranks: recall(ranks, 5),
    "recall_at_10": lambda ranks: recall(ranks, 10),
    "ndcg_at_5": lambda ranks: ndcg(ranks, 5),
    "ndcg_at_10": lambda ranks: ndcg(ranks, 10),
}
BOOTSTRAP_SEED = 0
SHOWN_DIFFERENCES = 4


@dataclass(frozen=True)
class Measured:
    """Results of a model with one seed."""

    ranks: dict[str, np.ndarray]  # protocol -> (U,)
    slices: list[dict[str, Any]]  # rows of slices.json
    seconds: float | None  # of training
    made_by: tuple[str, str]  # code and device
    identifiers: dict[str, Any]


Seeds = dict[int, Measured]


def make_table(
    out: Path,
    ladder: list[Rung],
    params_of: Callable[[Rung, int], Params],
    data: Data,
    seeds: Sequence[int],
) -> str:
    """Write table.json and table.md of all finished results with these params, and return the text of table.md.

    Args:
        seeds: to be shown; seeds that have a folder are shown too.
    """
    found = {int(folder.name[5:]) for folder in out.glob("seed-*") if re.fullmatch(r"seed-\d+", folder.name)}
    models: dict[str, Seeds] = {}
    notes: list[str] = []
    labels: dict[tuple[str, str], str] = {}  # of baselines of rungs that have another one than the last rung
    params = {(rung.name, seed): params_of(rung, seed) for rung in ladder for seed in sorted(found | set(seeds))}
    for (rung, seed), own in params.items():
        home = runs.rung_folder(out, rung, own, data)
        notes += [f"seed {seed}, {rung}: {note}" for note in _others(home, own, data)]
        for name, measured in _read_baselines(out, own, data).items():
            depends = _depends(name, own)
            is_other = depends != _depends(name, params[ladder[-1].name, seed])
            label = labels.setdefault((name, key_of(depends)), f"{name} of {rung}") if is_other else name
            models.setdefault(label, {})[seed] = measured
        if is_done(home / "evaluate"):
            models.setdefault(rung, {})[seed] = _read_rung(home, runs.student_folder(out, own, data))
    resamples = next(iter(params.values())).evaluate.bootstrap_resamples
    order = [name for name in (*BASELINES, *labels.values(), *(rung.name for rung in ladder)) if name in models]
    models = {name: models[name] for name in order}
    rungs = {rung.name: rung for rung in ladder}
    figures = {
        "protocols": {
            protocol: [_row(name, rungs.get(name), models, protocol, resamples) for name in models]
            for protocol in Protocol
        },
        "parts": {protocol: _over_parts(rungs, models, protocol, resamples) for protocol in Protocol},
        "identifiers": [_identifiers(name, models[name]) for name in models if name in rungs],
        "slices": {protocol: _slices(models, protocol) for protocol in Protocol},
        "notes": notes + _mixtures(models),
    }
    text = markdown(figures)
    files.write_json(out / "table.json", figures)
    with files.atomic_path(out / "table.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return text


def _depends(name: str, params: Params) -> Any:
    """What a baseline's results depend on, besides seed and data."""
    return {"teacher": teacher_params(params), "cooccurrence": params.joint.history}.get(name)


def teacher_params(params: Params) -> dict[str, Any]:
    """What a teacher's results depend on, besides seed and data."""
    return runs.read_params(params)["teacher"]


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean of values, one per seed, and the half-width of its 95 % t-interval; None if there is one seed only."""
    count, half_width = len(values), None
    if count > 1:
        half_width = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1)) / math.sqrt(count)
    return {"mean": float(np.mean(values)), "half_width": half_width}


def _row(name: str, rung: Rung | None, models: dict[str, Seeds], protocol: str, resamples: int) -> dict[str, Any]:
    measured = models[name]
    seconds = [one.seconds for one in measured.values() if one.seconds is not None]
    row: dict[str, Any] = {
        "model": name,
        "description": rung.description if rung else "",
        "seeds": sorted(measured),
        "training_seconds": float(np.mean(seconds)) if seconds else None,
        "published": (rung.published if rung else {}) or None,
    }
    for metric, of_users in METRICS.items():
        row[metric] = interval([float(of_users(one.ranks[protocol]).mean()) for one in measured.values()])
    if rung and rung.against in models:
        row["difference"] = _difference(measured, models[rung.against], protocol, resamples)
        row["against"] = rung.against
    return row


def _difference(
    own: Seeds, other: Seeds, protocol: str, resamples: int, metric: str = "ndcg_at_10"
) -> dict[str, Any] | None:
    """The metric minus the other model's, for seeds that both have: over seeds, and over users (means over seeds)."""
    seeds = sorted(set(own) & set(other))
    if not seeds:
        return None
    of_users = METRICS[metric]
    gains, reference = (np.stack([of_users(side[s].ranks[protocol]) for s in seeds]) for side in (own, other))
    over_seeds = interval([float(value) for value in (gains - reference).mean(1)])
    over_users = paired_bootstrap(gains.mean(0), reference.mean(0), resamples, BOOTSTRAP_SEED)
    return {"seeds": seeds, "over_seeds": over_seeds, "over_users": over_users}


def _over_parts(
    rungs: dict[str, Rung], models: dict[str, Seeds], protocol: str, resamples: int
) -> list[dict[str, Any]]:
    """A row for each rung and each of its parts, with the difference in both metrics at 10."""
    pairs = [(name, part) for name, rung in rungs.items() for part in rung.parts if name in models and part in models]
    return [
        {"model": name, "against": part}
        | {
            metric: _difference(models[name], models[part], protocol, resamples, metric=metric)
            for metric in ("recall_at_10", "ndcg_at_10")
        }
        for name, part in pairs
    ]


def _identifiers(name: str, measured: Seeds) -> dict[str, Any]:
    """Means over seeds, level by level where a figure has levels; epochs are listed seed by seed."""
    values = [one.identifiers for one in measured.values()]
    means = {
        key: np.mean([value[key] for value in values], axis=0).tolist()
        for key in ("collision_rate", "entropy_bits", "soft_hard_disagreement", "churn")
    }
    best = {
        phase: {
            SELECTED: float(np.mean([value[phase][0] for value in values])),
            "epochs": [value[phase][1] for value in values],
        }
        for phase in ("joint", "finetune")
        if all(value[phase] for value in values)
    }
    return {"model": name, "seeds": sorted(measured), **means, "best": best}


def _slices(models: dict[str, Seeds], protocol: str) -> list[dict[str, Any]]:
    """A row per slice: its users, and each model's NDCG@10 as the mean over seeds."""
    rows: dict[str, dict[str, Any]] = {}
    for name, measured in models.items():
        gathered: dict[str, list[float]] = {}
        for one in measured.values():
            for row in one.slices:
                if row["protocol"] == protocol and row["model"] in (name.split(" of ")[0], SHIPPED):
                    rows.setdefault(row["slice"], {"slice": row["slice"], "users": row["users"], "ndcg_at_10": {}})
                    gathered.setdefault(row["slice"], []).append(row["ndcg_at_10"])
        for which, values in gathered.items():
            rows[which]["ndcg_at_10"][name] = float(np.mean(values))
    return list(rows.values())


def _read_rung(home: Path, student: Path) -> Measured:
    table = files.read_table(home / "evaluate" / paths.RANKS_FILE)
    done = {step: files.read_json(student / step / DONE_FILE) for step in ("joint", "finetune")}
    health = files.read_json(student / "harden" / paths.HEALTH_FILE)
    joint, finetune = (files.read_json(student / step / paths.HISTORY_FILE) for step in ("joint", "finetune"))
    levels, kept = len(health["entropy_bits"]), files.read_json(student / "joint" / paths.METRICS_FILE)
    identifiers = {key: health[key] for key in ("collision_rate", "entropy_bits", "soft_hard_disagreement")} | {
        "churn": [kept[f"churn_level_{level + 1}"] for level in range(levels)],
        "joint": _best(joint),
        "finetune": _best(finetune),
    }
    return Measured(
        ranks={protocol: table[f"{SHIPPED}_{protocol}"].to_numpy() for protocol in Protocol},
        slices=files.read_json(home / "evaluate" / paths.SLICES_FILE),
        seconds=done["joint"]["seconds"] + done["finetune"]["seconds"],
        made_by=(done["joint"]["code"], done["joint"]["device"]),
        identifiers=identifiers,
    )


def _read_baselines(out: Path, params: Params, data: Data) -> dict[str, Measured]:
    folder = runs.baselines_folder(out, params, data)
    if not is_done(folder):
        return {}
    table, rows = files.read_table(folder / paths.RANKS_FILE), files.read_json(folder / paths.SLICES_FILE)
    done = files.read_json(runs.teacher_folder(out, params, data) / DONE_FILE)
    return {
        name: Measured(
            ranks={protocol: table[f"{name}_{protocol}"].to_numpy() for protocol in Protocol},
            slices=rows,
            seconds=done["seconds"] if name == "teacher" else None,
            made_by=(done["code"], done["device"]),
            identifiers={},
        )
        for name in BASELINES
    }


def _best(history: list[dict[str, float]]) -> tuple[float, int] | None:
    """The highest validation NDCG@10 and its epoch, the first of equals: the weights that were kept."""
    validated = [row for row in history if row.get(SELECTED) is not None]
    if not validated:
        return None
    best = max(validated, key=lambda row: row[SELECTED])
    return best[SELECTED], int(best["epoch"])


def _others(home: Path, params: Params, data: Data) -> list[str]:
    """Results of a rung with other params or data, and in which values they differ."""
    own, lines = dict(leaves(runs.read_params(params))), []
    for file in sorted(home.parent.glob("*/params.json")):
        if file.parent == home or not is_done(file.parent / "evaluate"):
            continue
        there = files.read_json(file)
        theirs = dict(leaves(there["params"]))
        differ = [
            f"{key} {theirs.get(key)} there, {own.get(key)} here"
            for key in sorted(own | theirs)
            if own.get(key) != theirs.get(key)
        ]
        if there["data"] != data.fingerprint:
            differ.insert(0, "other data")
        more = f" and {len(differ) - SHOWN_DIFFERENCES} more" if len(differ) > SHOWN_DIFFERENCES else ""
        lines.append(
            f"results of other params are left out ({file.parent.name}: {'; '.join(differ[:SHOWN_DIFFERENCES])}{more})"
        )
    return lines


def _mixtures(models: dict[str, Seeds]) -> list[str]:
    """Notes if the rows were not all made by the same code on the same device."""
    made = [one.made_by for measured in models.values() for one in measured.values()]
    codes, devices = sorted({code for code, _ in made}), sorted({device for _, device in made})
    notes = [f"made by {len(codes)} versions of the code: {', '.join(codes)}"] if len(codes) > 1 else []
    return notes + ([f"made on several devices: {', '.join(devices)}"] if len(devices) > 1 else [])
