"""Every path between stages, and below `state`. Formats: `unigrec.base.files`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

CURRENT = Path("data/current")  # a link to the snapshot that ingest.path may name
SNAPSHOTS = Path("data/snapshots")  # a folder each, named by content: two tables and their lineage
LINEAGE_FILE = "lineage.json"  # in a snapshot: where its rows came from
ARTIFACTS = Path("artifacts")  # stage outputs, owned by DVC
# What outlives a stage's outputs: checkpoints, bundles, locks. Of these, the graph may read the bundle of a warm start.
STATE = Path("state")
INTERACTIONS = ARTIFACTS / "ingest/interactions.parquet"  # user_id str, item_id str, timestamp int64 unix seconds
ITEMS = ARTIFACTS / "ingest/items.parquet"  # item_id str, text columns str or null
SOURCE = ARTIFACTS / "ingest/source.json"  # where the rows came from
VALIDATION = ARTIFACTS / "validate/result.json"  # every expectation with counts and examples
DATA_DOCS = ARTIFACTS / "validate/data_docs"  # HTML, readable offline
VALIDATED = ARTIFACTS / "validated.json"  # what prepare waits for: says which data passed
SEQUENCES = ARTIFACTS / "prepare/sequences.safetensors"  # items int32 (n,), timestamps int64 (n,), offsets int64 (U+1,)
USERS = ARTIFACTS / "prepare/users.parquet"  # user_index int32, user_id str
CATALOGUE = ARTIFACTS / "prepare/items.parquet"  # item_index int32, item_id str, text columns, train_count int32
PREPARE_STATS = ARTIFACTS / "prepare/stats.json"
EMBEDDINGS = ARTIFACTS / "embed/items.safetensors"  # embedding float32 (N, d_in)
TEXT_ENCODER = ARTIFACTS / "embed/encoder"  # what embeds a new item's text the same way
WARM_START = ARTIFACTS / "warm_start"  # what a bundle hands on, where this training starts from one
TEACHER = ARTIFACTS / "teacher"
TOKENIZER = ARTIFACTS / "tokenizer"
JOINT = ARTIFACTS / "joint"
HARDEN = ARTIFACTS / "harden"
FINETUNE = ARTIFACTS / "finetune"
EVALUATE = ARTIFACTS / "evaluate"
DECISION = ARTIFACTS / "gate/decision.json"
MODEL_FILE = "model.safetensors"  # inside a training stage's folder
MODEL_CONFIG_FILE = "config.json"  # the network's shape, enough to rebuild it
HISTORY_FILE = "history.json"  # list of {step, ...}: the stage's curves
METRICS_FILE = "metrics.json"  # the stage's closing figures
IDENTIFIERS_FILE = "identifiers.safetensors"  # codes int32 (N, L or L+1)
HEALTH_FILE = "health.json"
COLLABORATIVE_FILE = "collaborative.safetensors"  # part float32 (N, E): what the tokenizer reads of the teacher
RANKS_FILE = "ranks.parquet"  # user_index, item_index of the test item, {model}_{protocol}: its rank, 0 if not found
CHECKPOINTS = STATE / "checkpoints"
BUNDLES = STATE / "bundles"
REFERENCE = STATE / "registered/reference.json"  # sizes of the data behind the last registered model
COMPARISONS = STATE / "gate"  # a folder for each pair of models that was compared
COMPARISON_FILE, COMPARISON_PAGE = "comparison.json", "comparison.md"
AUDIT = STATE / "audit.jsonl"  # every change of the champion; only ever appended to
PROMOTION_LOCK = STATE / "promotion.lock"
LOCK = STATE / "retrain.lock"  # of whoever changes the data or runs the whole graph
ARRIVED = STATE / "snapshot"  # result and docs of the last delivery's validation
