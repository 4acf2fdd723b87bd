"""Time of a single request: `recommend` of a bundle, one history per call."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.harness import Options, Table, in_child, say
from benchmarks.speed.served import UNTRAINED, item_id, serving_params, shipped_params, write_bundle
from benchmarks.speed.shapes import learning_data
from unigrec.config.schema import Params
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.retrieval.rank_by import RankBy
from unigrec.core.sequences import Sequences
from unigrec.serving.bundle import Bundle

REQUESTS, WARM_UP, QUICK_REQUESTS = 300, 30, 5
BEAMS = {30: 60.0, 10: 25.0}  # beam -> target of the 99th percentile in milliseconds
QUICK_BEAMS = {5: 60.0}
DESIGNS: dict[str, Callable[[bool], Params]] = {
    "published": serving_params,
    "shipped": shipped_params,
    "shipped, set decoder": partial(shipped_params, decoder="set"),
}
PLAIN = "a history"
FORMS: dict[str, dict[str, Any]] = {  # form of a request -> what is special about it
    PLAIN: {},
    "with an id that the catalogue lacks": {"unknown": True},
    "without what is in the history": {"exclude_history": True},
    "only what is in stock, half of the items": {"allow": 0.5},
    "one item denied": {"deny": True},
    "a filter that half of the items pass": {"half": True},
    "no history": {"empty": True},
    "ranked by the dense part": {"rank_by": RankBy.DENSE},
    "ranked by all parts": {"rank_by": RankBy.FUSED},
}


def run(options: Options) -> list[Table]:
    artifacts = str(options.artifacts.absolute()) if options.artifacts else None
    beams, count = (QUICK_BEAMS, QUICK_REQUESTS) if options.quick else (BEAMS, REQUESTS)
    widest = max(beams)
    plain, others = [(beam, PLAIN) for beam in beams], [(widest, form) for form in FORMS if form != PLAIN]
    rows, forms = [], []
    for design in DESIGNS:
        with tempfile.TemporaryDirectory() as temporary:
            given: dict[str, Any] = {"artifacts": artifacts, "quick": options.quick}
            given["folder"], _ = in_child(make_bundle, folder=temporary, design=design, **given)
            for threads, cases in ((1, plain + others), (2, plain)):
                found, usage = in_child(serve, threads, cases=cases, count=count, **given)
                for (beam, form), seconds in zip(cases, found, strict=True):
                    cells = _cells(seconds)
                    if form == PLAIN:
                        row = {"recommender": design, "beam": beam, "threads": threads, **cells}
                        rows.append(row | {"wanted p99": beams[beam], "peak GB": usage.peak / 1e9})
                        say(f"latency: {design}, beam {beam}, {threads} threads: p99 {cells['p99 ms']:.1f} ms")
                    else:
                        forms.append({"recommender": design, "request": form, **cells})
    notes = [
        UNTRAINED,
        "Recommender: of the published kind, or of the kind that is shipped (`joint.recommender` of the profile "
        "`small`), both of the paper's size.",
        f"The paper's network and catalogue; {count} requests after a warm-up, one after the other. Each has the "
        "history of another test user, of which the last 20 items count. Wall time is the time that a caller waits, so "
        "it depends on other work on the machine. CPU time is the sum over all threads.",
    ]
    return [
        Table("a single request", rows, notes),
        Table(f"other forms of a request, beam {widest}, one thread", forms),
    ]


def _cells(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    wall, cpu = (np.array(seconds[kind]) * 1e3 for kind in ("wall", "cpu"))
    shown = {f"p{share} ms": float(np.percentile(wall, share)) for share in (50, 95, 99)}
    return shown | {f"CPU p{share} ms": float(np.percentile(cpu, share)) for share in (50, 99)}


def make_bundle(folder: str, artifacts: str | None, quick: bool, design: str) -> str:
    """Write a bundle; returns its folder. Runs in its own process."""
    sequences = learning_data(artifacts, 1, quick).sequences
    return str(write_bundle(Path(folder), sequences.catalogue_size, DESIGNS[design](quick)))


def serve(
    folder: str, artifacts: str | None, quick: bool, cases: list[tuple[int, str]], count: int
) -> list[dict[str, list[float]]]:
    """Wall and CPU seconds of each request, per case (beam, form). Runs in its own process, like a server."""
    bundle, sequences = Bundle.load(Path(folder)), learning_data(artifacts, 1, quick).sequences
    return [answered(bundle, beam, requests_of(sequences, count + WARM_UP, FORMS[form])) for beam, form in cases]


def answered(bundle: Bundle, beam: int, requests: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Wall and CPU seconds of each request after the warm-up."""
    generative, k = bundle.retrievers[RankBy.GENERATIVE], min(10, beam)
    assert isinstance(generative, GenerativeRetriever)
    generative.beam = beam
    taken: dict[str, list[float]] = {"wall": [], "cpu": []}
    for request in requests:
        wall, cpu = time.perf_counter(), time.process_time()
        (answer,) = bundle.recommend(k=k, **request)
        taken["cpu"].append(time.process_time() - cpu)
        taken["wall"].append(time.perf_counter() - wall)
        assert len({item.item_id for item in answer.items}) == k
    return {kind: seconds[WARM_UP:] for kind, seconds in taken.items()}


def requests_of(sequences: Sequences, count: int, form: dict[str, Any]) -> list[dict[str, Any]]:
    """Arguments of `recommend` for `count` test users."""
    generator = np.random.default_rng(0)
    users = generator.choice(sequences.evaluation_users(), count)
    in_stock = generator.random(sequences.catalogue_size) < form.get("allow", 1.0)
    stock = [item_id(item) for item in np.flatnonzero(in_stock).tolist()]
    calls = []
    for user in users:
        start, end = sequences.offsets[user : user + 2]
        history = [] if form.get("empty") else [item_id(item) for item in sequences.items[start : end - 1]]
        call: dict[str, Any] = {"histories": [history + ["unknown"] * form.get("unknown", False)]}
        call |= {name: form[name] for name in ("exclude_history", "rank_by") if name in form}
        if "allow" in form:
            call["allow"] = stock
        if "half" in form:
            call["filter"] = f"item_index < {sequences.catalogue_size // 2} and not title is null"
        if "deny" in form:
            call["deny"] = [item_id(0)]
        calls.append(call)
    return calls
