"""`python -m benchmarks.freshness`: compare a cold start with a warm start on new data: quality, identifiers, time.

There are two snapshots of a folder of interactions: the first 80 % in time order, and all. One model is trained on the
first snapshot. Two are trained on the second: one starts cold, one starts from the bundle of the first model. Every
stage runs as the project's own command. Each model has its own project folder in `--out`, and a finished stage is not
run again.
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
from unigrec.config.read import read_mapping
from unigrec.core.evaluation.protocol import SHIPPED, Protocol
from unigrec.core.identifiers.churn import churn_against, known_codes
from unigrec.pipeline import outputs

STAGES = tuple(read_mapping(ROOT / "dvc.yaml")["stages"])
SECONDS_FILE = "seconds.json"  # CPU seconds of every finished stage


def deliver(source: Path, incoming: Path, share: float) -> None:
    """Write the first `share` of the interactions in time order, and all items, as a delivery."""
    incoming.mkdir(parents=True, exist_ok=True)
    log = pq.read_table(source / "interactions.parquet")
    order = np.argsort(log["timestamp"].to_numpy(), kind="stable")[: round(share * log.num_rows)]
    pq.write_table(log.take(pa.array(order)), incoming / "interactions.parquet")
    shutil.copyfile(source / "items.parquet", incoming / "items.parquet")


def run_stages(folder: Path) -> dict[str, float]:
    """Run the stages that have not run yet; returns CPU seconds per stage. Raises RuntimeError if one fails."""
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
    """Bundle the run in a folder; returns the absolute path."""
    must([*UNIGREC, "bundle"], folder)
    (bundle,) = (folder / paths.BUNDLES).iterdir()
    return bundle.absolute()


def results_of(folder: Path, seconds: dict[str, float], first: Path) -> dict[str, Any]:
    """Quality, seconds, and how many identifiers stayed as in the first model."""
    before, now = Artifacts(first / "artifacts"), Artifacts(folder / "artifacts")
    earlier = known_codes(outputs.load_item_ids(now), outputs.load_item_ids(before), outputs.load_codes(before))
    churn = churn_against(earlier, outputs.load_codes(now))
    metrics = files.read_json(now.evaluate / paths.METRICS_FILE)
    return {"model": folder.name, "metrics": metrics, "seconds": seconds, **churn.as_dict()}


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table with one row per model."""
    header = ["on all data", "NDCG@10", "Recall@10", "NDCG@10 masked", "Recall@10 masked", "teacher NDCG@10"]
    header += ["another identifier", "churn per level", "CPU s", "tokenizer, joint, finetune"]
    rows = []
    for result in results:
        shipped = result["metrics"][SHIPPED]
        scores = [shipped[protocol][name] for protocol in Protocol for name in ("ndcg_at_10", "recall_at_10")]
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
    """Run the missing stages of the three models; returns the results of cold and warm start."""
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
    """Run the benchmark and print its table. After a stop, the same command resumes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with interactions.parquet and items.parquet")
    parser.add_argument("--out", type=Path, default=Path("state/freshness"), help="folder of the projects")
    parser.add_argument("--profile", default="small")
    parser.add_argument("--share", type=float, default=0.8, help="of the interactions: size of the first snapshot")
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
