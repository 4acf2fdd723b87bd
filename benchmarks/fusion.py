"""`python -m benchmarks.fusion`: what each part of the fused ranking adds, on finished rungs of the ladder.

Of each rung, parts are left out one after the other. The weights are fitted anew to the validation users, and the test
users are ranked. Several rungs (one per seed) give means. docs/quality.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.process import keep_quiet, training_device

keep_quiet()

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.quality.steps import Data, finished_rung, load_data  # noqa: E402
from unigrec.base import files  # noqa: E402
from unigrec.core.evaluation.metrics import rank_in_list, ranking_metrics  # noqa: E402
from unigrec.core.evaluation.protocol import GATED_CUTOFF, Protocol  # noqa: E402
from unigrec.core.evaluation.ranking import protocol_restrictions  # noqa: E402
from unigrec.core.retrieval.fused import FEATURES, Candidates, FusedRetriever, Weights  # noqa: E402
from unigrec.core.retrieval.neighbours import Near  # noqa: E402
from unigrec.core.training.fusion import fit_weights, validation_candidates  # noqa: E402
from unigrec.pipeline.stages import retriever_of  # noqa: E402

PARTS = {
    "dense": ("dense",),
    "dense + neighbours": ("dense", *Near._fields),
    "dense + generative": ("dense", "generative"),
    "dense + own items": ("dense", "own"),
    "all, of neighbours those of the last item": ("dense", "generative", "follows", "alike", "own"),
    "all but own items": tuple(name for name in FEATURES if name != "own"),
    "all": FEATURES,
}
Metrics = dict[str, dict[str, dict[str, float]]]  # parts -> protocol -> metric -> value


def only(candidates: Candidates, parts: tuple[str, ...]) -> Candidates:
    """The candidates, with 0 in the features of all other parts."""
    kept = torch.tensor([float(name in parts) for name in FEATURES])
    return Candidates(candidates.items, candidates.features * kept)


def measure(retriever: FusedRetriever, data: Data) -> tuple[Metrics, dict[str, Weights]]:
    """Test metrics with each of `PARTS`, and the weights that were fitted."""
    sequences, users, retriever = data.sequences, data.sequences.evaluation_users(), retriever.with_weights(None)
    validation = validation_candidates(retriever, sequences, users)
    weights = {
        name: fit_weights(validation._replace(candidates=only(validation.candidates, parts)))
        for name, parts in PARTS.items()
    }
    ranks = {(name, protocol): np.zeros(len(users), np.int64) for name in PARTS for protocol in Protocol}
    for rows in retriever.batches(sequences.lengths[users]):
        histories = sequences.held_out(users[rows], "test", retriever.history)
        targets = torch.as_tensor(histories.targets, device=retriever.device)
        restrictions = protocol_restrictions(retriever.tree, sequences, users[rows])
        searched = retriever.search(histories.items, histories.lengths, list(restrictions.values()))
        for protocol, found in zip(restrictions, searched, strict=True):
            for name, parts in PARTS.items():
                flat = weights[name].of_features().to(retriever.device)
                ranked = only(found.candidates, parts).ranked(flat)
                ranks[name, protocol][rows] = rank_in_list(ranked.items, targets).cpu().numpy()
    metrics: Metrics = {name: {} for name in PARTS}
    for (name, protocol), found_ranks in ranks.items():
        metrics[name][protocol] = ranking_metrics(found_ranks, [GATED_CUTOFF])
    return metrics, weights


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.fusion", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("rungs", type=Path, nargs="+", help="finished rungs: OUT/seed-1/M14/KEY ...")
    options = parser.parse_args()
    try:
        data, device = load_data(options.artifacts), training_device()
        found = []
        for rung in options.rungs:
            read = files.read_json(rung / "params.json")
            history, beam = read["params"]["joint"]["history"], read["params"]["evaluate"]["beam"]
            retriever = retriever_of(finished_rung(rung, data), history, beam=beam, device=device)
            metrics, weights = measure(retriever, data)
            found.append(metrics)
            for name, fitted in weights.items():
                print(f"{rung}: {name}: {fitted}", file=sys.stderr, flush=True)
        header = ["parts", *(f"{protocol} {name}" for protocol in Protocol for name in ("Recall@10", "NDCG@10"))]
        rows = [
            [
                name,
                *(
                    f"{np.mean([one[name][protocol][metric] for one in found]):.4f}"
                    for protocol in Protocol
                    for metric in ("recall_at_10", "ndcg_at_10")
                ),
            ]
            for name in PARTS
        ]
        print(markdown_table(header, rows))
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
