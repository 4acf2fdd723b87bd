"""`python -m benchmarks.freshness`: training on new data, cold and from the champion: quality, identifiers, time.

Two snapshots of a folder of interactions: the first 80 % in time order, then all. A model is trained on the first; then
two on the second, one that starts cold and one that starts from the first model's bundle. Every stage is the project's
own command. The folders, each a project of its own, stay in `--out`, and a stage that is done there is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.speed.harness import ROOT, run_command
from benchmarks.speed.project import UNIGREC, make_project, must, path_of_tools
from unigrec.base import files, paths
from unigrec.base.markdown import markdown_table
from unigrec.base.paths import Artifacts
from unigrec.config.schema import read_mapping
from unigrec.core.evaluation.protocol import Protocol
from unigrec.core.identifiers.churn import churn_against, known_codes
from unigrec.pipeline import outputs

STAGES = tuple(read_mapping(ROOT / "dvc.yaml")["stages"])
SECONDS_FILE = "seconds.json"  # CPU seconds of every stage that is done


def deliver(source: Path, incoming: Path, share: float) -> None:
    """The first `share` of the interactions in time order, and all items, as a delivery."""
    incoming.mkdir(parents=True, exist_ok=True)
    log = pq.read_table(source / "interactions.parquet")
    order = np.argsort(log["timestamp"].to_numpy(), kind="stable")[: round(share * log.num_rows)]
    pq.write_table(log.take(pa.array(order)), incoming / "interactions.parquet")
    shutil.copyfile(source / "items.parquet", incoming / "items.parquet")


def run_stages(folder: Path) -> dict[str, float]:
    """CPU seconds of each stage; stages that were run before keep theirs. Raises RuntimeError when one fails."""
    file = folder / SECONDS_FILE
    seconds: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    for stage in STAGES:
        if stage not in seconds:
            print(f"{folder.name}: {stage}", flush=True)
            usage = run_command([*UNIGREC, "stage", stage], folder=folder, PATH=path_of_tools())
            if usage.code:
                raise RuntimeError(f"{folder.name}: {stage} ended with code {usage.code}; its output is above")
            seconds[stage] = usage.cpu
            file.write_text(json.dumps(seconds))
    return seconds


def bundle_of(folder: Path) -> Path:
    """The run in a folder as a bundle, absolute."""
    must([*UNIGREC, "bundle"], folder)
    (bundle,) = (folder / paths.BUNDLES).iterdir()
    return bundle.absolute()


def results_of(folder: Path, seconds: dict[str, float], first: Path) -> dict[str, Any]:
    """Quality, seconds, and how many identifiers are those of the first model."""
    before, now = Artifacts(first / "artifacts"), Artifacts(folder / "artifacts")
    earlier = known_codes(outputs.load_item_ids(now), outputs.load_item_ids(before), outputs.load_codes(before))
    churn = churn_against(earlier, outputs.load_codes(now))
    metrics = files.read_json(now.evaluate / paths.METRICS_FILE)
    return {"model": folder.name, "metrics": metrics, "seconds": seconds, **churn.as_dict()}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown with a row per model."""
    header = ["on all data", "NDCG@10", "Recall@10", "NDCG@10 masked", "Recall@10 masked", "teacher NDCG@10"]
    header += ["another identifier", "churn per level", "CPU s", "tokenizer, joint, finetune"]
    rows = []
    for result in results:
        student = result["metrics"]["student"]
        scores = [student[protocol][name] for protocol in Protocol for name in ("ndcg_at_10", "recall_at_10")]
        scores.append(result["metrics"]["teacher"][Protocol.UNMASKED]["ndcg_at_10"])
        churn = "-" if result["start_churn"] is None else " / ".join(f"{share:.1%}" for share in result["start_churn"])
        changed = "-" if result["start_changed"] is None else f"{result['start_changed']:.1%}"
        seconds = result["seconds"]
        trained = sum(seconds[stage] for stage in ("tokenizer", "joint", "finetune"))
        cells = [result["model"], *(f"{score:.4f}" for score in scores), changed, churn]
        cells += [f"{sum(seconds.values()):.0f}", f"{trained:.0f}"]
        rows.append(cells)
    return markdown_table(header, rows)


def compare(source: Path, out: Path, configure: list[str], share: float) -> list[dict[str, Any]]:
    """Train the three models, as far as that is not done yet."""
    first, cold, warm = (out / name for name in ("first", "cold", "warm"))
    if not (first / paths.CURRENT).exists():
        make_project(first, *configure)
        deliver(source, first / "data/incoming", share)
        must([*UNIGREC, "snapshot"], first)
        must([*UNIGREC, "configure", "--data", str(paths.CURRENT)], first)
    run_stages(first)
    results = []
    for folder in (cold, warm):
        if not (folder / Artifacts().root).exists():
            make_project(folder, *configure)
            shutil.copytree(first / "data", folder / "data", symlinks=True, dirs_exist_ok=True)
            deliver(source, folder / "data/incoming", 1.0)
            must([*UNIGREC, "snapshot"], folder)
            must([*UNIGREC, "configure", "--data", str(paths.CURRENT)], folder)
            if folder == warm:
                must([*UNIGREC, "configure", "--set", f"warm_start.path={bundle_of(first)}"], folder)
        results.append(results_of(folder, run_stages(folder), first))
    return results


def main() -> int:
    """Print the table; the same command goes on where it was stopped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with interactions.parquet and items.parquet")
    parser.add_argument("--out", type=Path, default=Path("state/freshness"), help="where the projects are kept")
    parser.add_argument("--profile", default="small")
    parser.add_argument("--share", type=float, default=0.8, help="of the interactions, in the first snapshot")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for unigrec configure")
    options = parser.parse_args()
    settings = [part for value in options.set for part in ("--set", value)]
    configure = ["--profile", options.profile, *settings]
    results = compare(options.data.absolute(), options.out.absolute(), configure, options.share)
    (options.out / "results.json").write_text(json.dumps(results, indent=2))
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
