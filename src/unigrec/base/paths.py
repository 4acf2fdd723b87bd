"""Every path between stages, and below `state`. Formats: `unigrec.base.files`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CURRENT = Path("data/current")  # a link to the snapshot that ingest.path may name
SNAPSHOTS = Path("data/snapshots")  # a folder per snapshot, named by content: two tables and their lineage
LINEAGE_FILE = "lineage.json"  # in a snapshot: where its rows came from
MODEL_FILE = "model.safetensors"  # inside a training stage's folder
MODEL_CONFIG_FILE = "config.json"  # the network's shape, enough to rebuild it
HISTORY_FILE = "history.json"  # list of {step, ...}: the stage's curves
METRICS_FILE = "metrics.json"  # the stage's figures; of a training, those of the epoch whose weights it kept
IDENTIFIERS_FILE = "identifiers.safetensors"  # codes int32 (N, L or L+1)
HEALTH_FILE = "health.json"
ITEM_TOKENS_FILE = "item_tokens.safetensors"  # tokens float32 (N, L or 1, E): what the recommender reads of the items
COLLABORATIVE_FILE = "collaborative.safetensors"  # part float32 (N, E): what the tokenizer reads of the teacher
DECISION_FILE = "decision.json"  # every gate with its value, threshold and reason
AGAINST_FILE = "shipped_against.json"  # {protocol: {model: paired bootstrap of the shipped model's NDCG@10 less its}}
SLICES_FILE = "slices.json"  # rows {slice, users, model, protocol, recall_at_10, ndcg_at_10}
USAGE_FILE = "codebook_usage.json"  # rows {level, rank, usage}: the share of items per codeword
NEIGHBOURS_FILE = "neighbours.safetensors"  # what follows an item, and content: see serving/ranking_parts.py
BASKETS_FILE = "baskets.safetensors"  # items that are bought together: see serving/basket_file.py
FUSION_FILE = "fusion.json"  # what ranks the items, the weights of the fused score, and the figures that chose them
SERVED_FILE = "columns.parquet"  # columns of the items with their types, which requests filter by
ENCODER_SETTINGS_FILE = "settings.json"  # inside the folder of a text encoder, with the next two
ENCODER_VOCABULARY_FILE = "vocabulary.json"  # of tfidf-svd alone
ENCODER_TENSORS_FILE = "encoder.safetensors"
FACTS_FILE = "facts.json"  # what the report of a run says, with its pictures
REPORT_PAGE, MODEL_CARD = "report.html", "model_card.md"
RANKS_FILE = "ranks.parquet"  # user_index, item_index of the test item, {model}_{protocol}: its rank, 0 if not found
# What outlives a stage's outputs: checkpoints, bundles, locks. Of these, the graph may read the bundle of a warm start.
STATE = Path("state")
CHECKPOINTS = STATE / "checkpoints"
SPARK = STATE / "spark"  # what Spark writes between its steps; removed at the end
BUNDLES = STATE / "bundles"
LOADED = STATE / "loaded"  # which bundles with large files were loaded before
REFERENCE = STATE / "registered/reference.json"  # sizes of the data behind the last registered model
COMPARISONS = STATE / "gate"  # a folder per pair of models that was compared
COMPARISON_FILE, COMPARISON_PAGE = "comparison.json", "comparison.md"
IMPRESSIONS = "impressions-"  # how names of files in a log of impressions begin
REPORTS = STATE / "reports"  # a folder per registered version: the report with what the registry knows
ONLINE = STATE / "online"  # a folder per pair of models that answered side by side: what their users took
ONLINE_FILE, ONLINE_PAGE, ONLINE_PICTURE = "online.json", "online.md", "online.png"
AUDIT = STATE / "audit.jsonl"  # every change of the champion; only ever appended to
PROMOTION_LOCK = STATE / "promotion.lock"
LOCK = STATE / "retrain.lock"  # held by the process that changes the data or runs the whole graph
ARRIVED = STATE / "snapshot"  # result and docs of the last delivery's validation


class _Inside:
    """A path inside a stage's folder, as an attribute of `Artifacts`."""

    def __init__(self, stage: str, name: str = ""):
        self.stage, self.name = stage, name

    def __get__(self, artifacts: Artifacts, owner: type[Artifacts]) -> Path:
        return artifacts.folder(self.stage) / self.name


@dataclass(frozen=True)
class Artifacts:
    """The outputs of all stages: a folder per stage below `root`, which DVC owns."""

    root: Path = Path("artifacts")

    def folder(self, stage: str) -> Path:
        """Where a stage writes."""
        return self.root / stage

    interactions = _Inside("ingest", "interactions.parquet")  # user_id str, item_id str, timestamp int64 unix seconds
    items = _Inside("ingest", "items.parquet")  # item_id str, text columns str or null
    ingested_columns = _Inside("ingest", SERVED_FILE)  # item_id str, the columns of serve.columns; absent without any
    source = _Inside("ingest", "source.json")  # where the rows came from
    validation = _Inside("validate", "result.json")  # every expectation with counts and examples
    data_docs = _Inside("validate", "data_docs")  # HTML, readable offline
    validated = _Inside("", "validated.json")  # input of `prepare`: says which data passed
    sequences = _Inside("prepare", "sequences.safetensors")  # items int32, timestamps int64 (n,), offsets int64 (U+1,)
    users = _Inside("prepare", "users.parquet")  # user_index int32, user_id str
    catalogue = _Inside("prepare", "items.parquet")  # item_index int32, item_id str, text columns, train_count int32
    served_columns = _Inside("prepare", SERVED_FILE)  # per item of the catalogue: see data/served_items.py
    prepare_stats = _Inside("prepare", "stats.json")
    warm_start = _Inside("warm_start")  # what a bundle hands on to this training; in a cold start, only that it is cold
    embeddings = _Inside("embed", "items.safetensors")  # embedding float32 (N, d_in)
    modalities = _Inside("embed", "modalities.json")  # names and widths, in the order of the embedding's numbers
    text_encoder = _Inside("embed", "encoder")  # embeds the text of new items in the same way
    teacher = _Inside("teacher")
    tokenizer = _Inside("tokenizer")
    joint = _Inside("joint")
    harden = _Inside("harden")
    finetune = _Inside("finetune")
    rank = _Inside("rank")
    evaluate = _Inside("evaluate")
    decision = _Inside("gate", DECISION_FILE)
    report = _Inside("report")
