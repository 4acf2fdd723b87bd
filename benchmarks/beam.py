"""`python -m benchmarks.beam`: what beam search loses against scoring every item exactly, on a finished rung.

The results are those of `benchmarks.quality`; the same users, the unmasked protocol.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from unigrec.base.errors import UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.paths import Artifacts
from unigrec.base.process import keep_quiet, training_device

keep_quiet()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.quality.steps import load_data  # noqa: E402
from unigrec.base import files  # noqa: E402
from unigrec.core.evaluation.metrics import rank_in_list, ranking_metrics  # noqa: E402
from unigrec.core.evaluation.protocol import GATED_CUTOFF  # noqa: E402
from unigrec.core.retrieval.beam import beam_search, exact_scores  # noqa: E402
from unigrec.core.retrieval.generative import GenerativeRetriever  # noqa: E402
from unigrec.core.sequences import Sequences, in_chunks  # noqa: E402
from unigrec.pipeline import outputs  # noqa: E402
from unigrec.pipeline.stages import generative_retriever  # noqa: E402

USERS_AT_ONCE = 32


def compare(
    retriever: GenerativeRetriever, codes: np.ndarray, sequences: Sequences, users: np.ndarray, beams: list[int]
) -> str:
    """A Markdown table: metrics of each beam and of exact scoring, and how far their first ten agree."""
    all_codes = torch.as_tensor(codes, device=retriever.device)
    lists: dict[str, list[Tensor]] = {}
    targets = []
    for chunk in in_chunks(users, USERS_AT_ONCE):
        held_out = sequences.held_out(chunk, "test", retriever.history)
        source, mask = retriever.embed(held_out.items, held_out.lengths)
        scores = exact_scores(retriever.recommender, all_codes, source, mask)
        lists.setdefault("exact", []).append(scores.topk(GATED_CUTOFF).indices)
        for beam in beams:
            found = beam_search(retriever.recommender, retriever.tree, source, mask, beam)
            lists.setdefault(str(beam), []).append(found.items[:, :GATED_CUTOFF])
        targets.append(torch.as_tensor(held_out.targets, device=retriever.device))
    best, target = torch.cat(lists.pop("exact")), torch.cat(targets)
    header = ["beam", "Recall@10", "NDCG@10", "of the exact first ten", "first item the same"]
    rows = []
    for name, parts in [*lists.items(), ("exact", [best])]:
        shown = torch.cat(parts)
        metrics = ranking_metrics(rank_in_list(shown, target).cpu().numpy(), [GATED_CUTOFF])
        kept = (shown[:, :, None] == best[:, None]).any(1).float().mean()
        first = (shown[:, 0] == best[:, 0]).float().mean()
        rows.append(
            [name, f"{metrics['recall_at_10']:.4f}", f"{metrics['ndcg_at_10']:.4f}", f"{kept:.1%}", f"{first:.1%}"]
        )
    return markdown_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.beam", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("--rung", type=Path, required=True, help="a finished rung: OUT/seed-1/M7/KEY")
    parser.add_argument("--users", type=int, default=1000, help="test users, drawn with seed 0")
    parser.add_argument("--beams", default="10,30,100")
    options = parser.parse_args()
    try:
        data, device = load_data(options.artifacts), training_device()
        read = files.read_json(options.rung / "params.json")
        student = Artifacts(options.rung.absolute().parents[1] / read["student"])
        codes = outputs.load_codes(student)
        beams = [int(part) for part in options.beams.split(",")]
        users = data.sequences.evaluation_users()
        drawn = np.sort(np.random.default_rng(0).permutation(users)[: options.users])
        history = read["params"]["joint"]["history"]
        retriever = generative_retriever(student, history, beam=max(beams), device=device)
        print(compare(retriever, codes, data.sequences, users=drawn, beams=beams))
    except UnigrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
