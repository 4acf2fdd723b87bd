"""What the report of a run says, as plain JSON, from what the stages wrote. Pictures are SVG texts among the facts.

The facts hold no id of a user: users of the examples have numbers.

Shapes: U test users, N items, T codes per identifier.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unigrec.base import files, paths
from unigrec.base.data_version import data_version, test_set_version
from unigrec.base.masking import masked
from unigrec.config.profiles import PROFILES, leaves, profile_names, profile_values
from unigrec.core.evaluation.bootstrap import bootstrap_means
from unigrec.core.evaluation.metrics import ndcg, recall
from unigrec.core.evaluation.protocol import GATED_CUTOFF, SELECTED, SHIPPED, Protocol
from unigrec.core.identifiers.health import codebook_usage
from unigrec.core.retrieval.rank_by import MODEL_OF
from unigrec.core.sequences import sample
from unigrec.data.validation.pages import grouped
from unigrec.pipeline import plots
from unigrec.pipeline.outputs import data_warnings, load_codes, load_fusion, load_sequences
from unigrec.pipeline.plots import NothingToDraw
from unigrec.pipeline.report import SCHEMA

if TYPE_CHECKING:
    from unigrec.base.paths import Artifacts
    from unigrec.core.retrieval.retriever import Retriever

TITLES = ("title", "name")  # columns that may hold what a person calls an item; other texts are descriptions
SHOWN_HISTORY = 8  # last items of an example user
SHOWN_PREFIXES, SHOWN_ITEMS = 6, 3  # first codes, and most popular items of each
LONGEST = 120  # characters of a title
# Of the joint phase: the other losses are in its own picture, artifacts/joint/curves.png.
CURVES = ("step", "loss", "recommendation_loss", SELECTED)


def gather(
    artifacts: Artifacts, params: dict[str, Any], retriever: Retriever, users: int, resamples: int
) -> dict[str, Any]:
    """All facts. The same stage outputs and params give the same facts.

    Args:
        params: of the run, as plain JSON: those that stages read.
        retriever: the model that requests are answered with.
        users: number of examples. resamples: of the bootstrap.

    Raises:
        UnigrecError: a stage has not run.
    """
    catalogue = files.read_table(artifacts.catalogue)
    ids = catalogue["item_id"].to_pylist()
    text = next((name for name in TITLES if name in catalogue.column_names), "item_id")
    titles = [_shortened(title or item_id) for title, item_id in zip(catalogue[text].to_pylist(), ids, strict=True)]
    items = [{"id": _shortened(item_id), "title": title} for item_id, title in zip(ids, titles, strict=True)]
    metrics = files.read_json(artifacts.evaluate / paths.METRICS_FILE)
    fusion = files.read_json(artifacts.rank / paths.FUSION_FILE)
    result = files.read_json(artifacts.validation)
    return {
        "schema": SCHEMA,
        "data": _data(artifacts, result["data"]),
        "warnings": data_warnings(artifacts),
        "params": _params(params),
        "shipped_as": MODEL_OF[load_fusion(artifacts).by],
        "validation": fusion.get("validation_ndcg_at_10", {}),
        "metrics": metrics,
        "intervals": _intervals(artifacts, resamples, params["seed"]),
        "against": files.read_json(artifacts.evaluate / paths.AGAINST_FILE),
        "slices": files.read_json(artifacts.evaluate / paths.SLICES_FILE),
        "identifiers": _identifiers(artifacts, catalogue["train_count"].to_numpy(), items, params["tokenizer"]),
        "examples": _examples(artifacts, retriever, items, users=users, seed=params["seed"]),
        "checks": grouped(result),
        "decision": files.read_json(artifacts.decision),
        "pictures": _pictures(artifacts, params["tokenizer"]["codebook_size"]),
    }


def _data(artifacts: Artifacts, name: str) -> dict[str, Any]:
    stats, source = files.read_json(artifacts.prepare_stats), files.read_json(artifacts.source)
    times = files.read_arrays(artifacts.sequences)["timestamps"]
    return {
        "name": name,
        "version": data_version(artifacts),
        "test_set": test_set_version(artifacts),
        "snapshot": (source.get("snapshot") or {}).get("id"),
        "sizes": {when: stats[when] for when in ("before", "after")},
        "k_core": stats.get("k_core"),
        "length": stats.get("length"),
        "tie_share": stats.get("adjacent_tie_share"),
        "from": _day(int(times.min())),
        "until": _day(int(times.max())),
    }


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _params(params: dict[str, Any]) -> dict[str, Any]:
    """All values, and those that differ from the profile: of the keys that profiles set."""
    values = {key: masked(str(value)) for key, value in leaves(params)}
    name = params["profile"]
    known = name in profile_names(PROFILES)
    of_profile = {key: str(value) for key, value in profile_values(PROFILES, name).items()} if known else {}
    changed = [[key, value, values[key]] for key, value in of_profile.items() if values.get(key, value) != value]
    return {"profile": name, "known": known, "changed": changed, "all": [list(pair) for pair in values.items()]}


def _intervals(artifacts: Artifacts, resamples: int, seed: int) -> dict[str, dict[str, dict[str, list[float]]]]:
    """{model: {protocol: {metric: [low, high]}}}, 95 % by bootstrap over users, of models whose ranks are there."""
    table = files.read_table(artifacts.evaluate / paths.RANKS_FILE)
    gains: dict[str, Callable] = {f"recall_at_{GATED_CUTOFF}": recall, f"ndcg_at_{GATED_CUTOFF}": ndcg}
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for column in table.column_names:
        model, _, protocol = column.rpartition("_")
        if protocol in list(Protocol):
            ranks = table[column].to_numpy()
            bounds = found.setdefault(model, {}).setdefault(protocol, {})
            for metric, gain in gains.items():
                means = bootstrap_means(gain(ranks, GATED_CUTOFF), resamples, seed)
                bounds[metric] = [float(bound) for bound in np.quantile(means, [0.025, 0.975])]
    return found


def _identifiers(
    artifacts: Artifacts, counts: np.ndarray, items: list[dict[str, str]], params: dict[str, Any]
) -> dict[str, Any]:
    """Health before and after the joint phase, churn, the prefix tree, and what the first codes stand for."""
    codes = load_codes(artifacts)
    levels = params["levels"]
    kept = files.read_json(artifacts.joint / paths.METRICS_FILE)  # of the epoch whose weights were kept
    churn = {name: value for name, value in kept.items() if name.startswith("churn_level_")}
    prefixes = [len(np.unique(codes[:, : level + 1], axis=0)) for level in range(codes.shape[1])]
    first = codebook_usage(codes[:, :1], int(codes[:, 0].max()) + 1)[0]
    groups = []
    for code in np.argsort(-first, kind="stable")[:SHOWN_PREFIXES]:
        members = np.flatnonzero(codes[:, 0] == code)
        best = members[np.argsort(-counts[members], kind="stable")[:SHOWN_ITEMS]]
        examples = [items[item] | {"codes": "-".join(map(str, codes[item]))} for item in best]
        groups.append({"code": int(code), "items": len(members), "examples": examples})
    return {
        "before": files.read_json(artifacts.tokenizer / paths.HEALTH_FILE),
        "after": files.read_json(artifacts.harden / paths.HEALTH_FILE),
        "churn": churn,
        "levels": levels,
        "codebook_size": params["codebook_size"],
        "length": codes.shape[1],
        "tree": [
            {"level": level + 1, "nodes": nodes, "children": nodes / before}
            for level, (nodes, before) in enumerate(zip(prefixes, [1, *prefixes], strict=False))
        ],
        "groups": groups,
    }


def _examples(
    artifacts: Artifacts, retriever: Retriever, items: list[dict[str, str]], users: int, seed: int
) -> list[dict[str, Any]]:
    """Ranked test users, drawn with the seed: the end of the history, what is recommended, and what the user took."""
    sequences = load_sequences(artifacts)
    ranks = files.read_table(artifacts.evaluate / paths.RANKS_FILE, ["user_index", f"{SHIPPED}_{Protocol.UNMASKED}"])
    chosen = sample(ranks["user_index"].to_numpy(), users, seed)
    if not len(chosen):
        return []
    seen, lengths = sequences.seen(chosen, "test")
    histories = [row[:length].tolist() for row, length in zip(seen, lengths, strict=True)]
    targets = sequences.held_out(chosen, "test", 1).targets.tolist()
    best = retriever.retrieve(histories, min(GATED_CUTOFF, len(items))).items.tolist()
    rank_of = dict(zip(*(column.to_pylist() for column in ranks.columns), strict=True))
    return [
        {
            "history": [items[item] for item in history[-SHOWN_HISTORY:]],
            "earlier": max(len(history) - SHOWN_HISTORY, 0),
            "recommended": [
                items[item] | {"taken": item == target, "seen": item in history} for item in found if item >= 0
            ],
            "taken": items[target],
            "rank": rank_of[int(user)],
        }
        for user, history, target, found in zip(chosen, histories, targets, best, strict=True)
    ]


def _pictures(artifacts: Artifacts, codebook_size: int) -> dict[str, str]:
    """SVG texts by name. A picture is left out if there is nothing to draw: a warm start may train no tokenizer."""
    joint, tokenizer = (_history(artifacts, stage) for stage in ("joint", "tokenizer"))
    few = [{name: row.get(name) for name in CURVES} for row in joint]
    usage, against = (
        files.read_json(path) for path in (artifacts.harden / paths.USAGE_FILE, artifacts.evaluate / paths.AGAINST_FILE)
    )
    drawings: dict[str, Callable[[Path], None]] = {
        "intervals": lambda path: plots.intervals(against, path),
        "teacher": lambda path: plots.training_curves(_history(artifacts, "teacher"), path, "Teacher"),
        "tokenizer": lambda path: plots.training_curves(tokenizer, path, "Tokenizer"),
        "joint": lambda path: plots.training_curves(few, path, "Joint training"),
        "finetune": lambda path: plots.training_curves(_history(artifacts, "finetune"), path, "Finetuning"),
        "annealing": lambda path: plots.annealing(tokenizer, codebook_size, path),
        "identifiers": lambda path: plots.identifiers_over_epochs(joint, codebook_size, path),
        "codebook_usage": lambda path: plots.codebook_usage(usage, path),
    }
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, draw in drawings.items():
            path = Path(scratch) / f"{name}.svg"
            with contextlib.suppress(NothingToDraw):
                draw(path)
                found[name] = _compact(path.read_text(encoding="utf-8"))
    return found


def _history(artifacts: Artifacts, stage: str) -> list[dict[str, Any]]:
    return files.read_json(artifacts.folder(stage) / paths.HISTORY_FILE)


def _compact(svg: str) -> str:
    """One line without prologue, with a short list of fonts, and two digits after the point in coordinates."""
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg[svg.index("<svg") :])
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", " ".join(tag[0].split())), svg)
    return re.sub(r">\s+<", "><", svg).strip()


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
