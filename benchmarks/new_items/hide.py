"""`python -m benchmarks.new_items.hide`: a copy of prepared data in which some items never were. docs/answers.md.

The ladder (`python -m benchmarks.quality`) then trains on it, and `python -m benchmarks.new_items` adds the items.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.quality.__main__ import ROOT, as_command
from benchmarks.quality.ladder import profile_params
from unigrec.base import files
from unigrec.base.errors import EXIT_OK
from unigrec.base.paths import Artifacts
from unigrec.config.read import parse_params
from unigrec.core.sequences import Sequences
from unigrec.pipeline.outputs import load_sequences
from unigrec.pipeline.stages import embed

HIDDEN_FILE = "hidden.parquet"  # item_id and texts of the hidden items, as `unigrec add-items` reads them


class Hidden(NamedTuple):
    """Data without some of its items."""

    sequences: Sequences  # without the hidden items and all interactions with them
    kept: np.ndarray  # (N,) bool, the items that stay, in their order


def hide(sequences: Sequences, share: float, seed: int) -> Hidden:
    """Draw items and take them out of every sequence. Users without an item are left with none."""
    count = round(share * sequences.catalogue_size)
    kept = np.ones(sequences.catalogue_size, bool)
    kept[np.random.default_rng(seed).choice(len(kept), count, replace=False)] = False
    rows = kept[sequences.items]
    number = np.cumsum(kept) - 1
    users = np.repeat(np.arange(len(sequences.lengths)), sequences.lengths)
    lengths = np.bincount(users[rows], minlength=len(sequences.lengths))
    assert sequences.weights is None, "for data without event types"
    return Hidden(
        Sequences(
            number[sequences.items[rows]],
            np.r_[0, np.cumsum(lengths)],
            int(kept.sum()),
            timestamps=None if sequences.timestamps is None else sequences.timestamps[rows],
        ),
        kept,
    )


def write(artifacts: Artifacts, out: Path, share: float, seed: int, profile: str) -> str:
    """Write the outputs of `prepare`, `embed` and `warm_start` without the hidden items; returns a line."""
    full = load_sequences(artifacts)
    hidden = hide(full, share, seed)
    reduced, items = Artifacts(out / "artifacts"), files.read_table(artifacts.catalogue)
    sequences = hidden.sequences
    assert sequences.timestamps is not None
    arrays = {"items": sequences.items.astype(np.int32), "offsets": sequences.offsets}
    files.write_tensors(reduced.sequences, arrays | {"timestamps": sequences.timestamps})
    stay = items.filter(pa.array(hidden.kept))
    stay = stay.set_column(0, "item_index", pa.array(np.arange(stay.num_rows, dtype=np.int32)))
    place = stay.column_names.index("train_count")
    stay = stay.set_column(place, "train_count", pa.array(sequences.train_counts().astype(np.int32)))
    files.write_table(reduced.catalogue, stay)
    files.write_table(
        out / HIDDEN_FILE, items.filter(pa.array(~hidden.kept)).drop_columns(["item_index", "train_count"])
    )
    shutil.copytree(artifacts.warm_start, reduced.warm_start, dirs_exist_ok=True)
    embed(parse_params(profile_params(ROOT, profile) | {"seed": seed}, profile), reduced)
    gone = len(full.items) - len(sequences.items)
    return f"{out}: {int((~hidden.kept).sum())} of {len(hidden.kept)} items hidden, with {gone} interactions"


def run() -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.new_items.hide", description=__doc__)
    parser.add_argument("--artifacts", type=Path, required=True, help="a project's artifacts folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the copy")
    parser.add_argument("--share", type=float, default=0.1, help="of the items that are hidden (default: 0.1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--profile", default="small", help="whose text embedding is fitted (default: small)")
    options = parser.parse_args()
    print(write(Artifacts(options.artifacts), options.out, options.share, options.seed, options.profile))
    return EXIT_OK


if __name__ == "__main__":
    as_command(lambda given: run())
