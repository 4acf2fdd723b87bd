"""params.yaml as frozen, typed objects. `unigrec.config.read` makes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from unigrec.base.masking import holds_credentials
from unigrec.base.paths import CURRENT
from unigrec.config.section import Section
from unigrec.config.spark import SparkParams

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Processes = Annotated[int, Field(ge=1, le=64)]
Widths = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Engine = Literal["deepspeed", "torch"]
Schedule = Literal["constant", "cosine"]
PASSWORD_IN_QUERY = re.compile(r"\b(password|passwd|pwd|secret|session_token)\b\W{0,3}[= ]\s*'?[^\s']", re.IGNORECASE)
OWN_COLUMNS = ("item_index", "item_id", "train_count", "first_seen")  # columns of every bundle's catalogue
Source = Literal["sample", "folder", "sql", "amazon-2014", "amazon-2023", "movielens"]


class SampleParams(Section):
    users: Count
    items: Annotated[int, Field(ge=10)]
    interactions: Count


class ColumnsParams(Section):
    user_id: Annotated[str, Field(min_length=1)] = "user_id"
    item_id: Annotated[str, Field(min_length=1)] = "item_id"
    timestamp: Annotated[str, Field(min_length=1)] = "timestamp"
    items_id: str = ""
    rating: str = ""
    event: Annotated[str, Field(min_length=1)] = "event"


class FilesParams(Section):
    interactions: Annotated[str, Field(min_length=1)] = "interactions"
    items: Annotated[str, Field(min_length=1)] = "items"


class SqlParams(Section):
    interactions: str = ""
    items: str = ""
    attach: dict[str, str] = Field(default_factory=dict)

    @field_validator("interactions", "items", "attach")
    @classmethod
    def _no_credentials(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        for text in value.values() if isinstance(value, dict) else [value]:
            if holds_credentials(text) or PASSWORD_IN_QUERY.search(text):
                raise ValueError("holds a password; give it in the environment: PGPASSWORD, AWS_SECRET_ACCESS_KEY")
        return value


class IngestParams(Section):
    source: Source
    path: Annotated[str, Field(min_length=1)]
    min_rating: float
    files: FilesParams = FilesParams()
    columns: ColumnsParams = ColumnsParams()
    events: dict[str, NonNegative] = Field(default_factory=dict)
    where: str = ""
    sql: SqlParams = SqlParams()
    sample: SampleParams

    @field_validator("events")
    @classmethod
    def _something_to_learn(cls, events: dict[str, float]) -> dict[str, float]:
        if events and not any(events.values()):
            raise ValueError("no event has a weight above 0: nothing would be learned")
        return events

    @model_validator(mode="after")
    def _queries_for_sql(self) -> IngestParams:
        if self.source == "sql" and not (self.sql.interactions.strip() and self.sql.items.strip()):
            raise ValueError("ingest.source: sql needs two queries, ingest.sql.interactions and ingest.sql.items")
        return self

    @property
    def origin(self) -> str:
        """Where the data comes from, as text: runs of one origin are compared with each other."""
        return f"{self.source}: {self.path}"


class SnapshotParams(Section):
    incoming: Annotated[str, Field(min_length=1)]
    source: Literal["folder", "sql", "amazon-2014", "amazon-2023", "movielens"]
    mode: Literal["append", "replace"]
    start: Literal["cold", "champion"]


class Bound(Section):
    """Bound on a figure that compares two snapshots: above `warn` a warning, above `stop` an error."""

    warn: NonNegative
    stop: NonNegative

    @model_validator(mode="after")
    def _in_order(self) -> Bound:
        if self.warn > self.stop:
            raise ValueError(f"warn ({self.warn}) must not be above stop ({self.stop})")
        return self


class PreviousParams(Section):
    growth: Bound
    shrinkage: Bound
    new_users: Bound
    lost_users: Bound
    new_items: Bound
    lost_items: Bound
    popularity_shift: Bound
    text_coverage_drop: Bound


class ValidateParams(Section):
    min_users: Count
    min_items: Count
    min_interactions: Count
    min_timestamp: int
    max_timestamp: int
    max_duplicate_share: Share
    max_unknown_item_share: Share = 0.0  # params of an earlier version lack it
    min_text_coverage: Share
    max_single_time_user_share: Share
    max_row_change: NonNegative
    previous: PreviousParams


class PrepareParams(Section):
    engine: Literal["local", "spark"] = "local"
    evaluation_event: str = ""
    k_core: Count
    ties: Literal["given", "shuffled"]
    max_user_interactions: Annotated[int, Field(ge=0)]
    min_users_after: Count
    min_items_after: Count

    @model_validator(mode="after")
    def _cap_leaves_enough(self) -> PrepareParams:
        least = max(self.k_core, 3)
        if 0 < self.max_user_interactions < least:
            raise ValueError(
                f"max_user_interactions ({self.max_user_interactions}) must be 0 (no limit) or at least {least}"
            )
        return self


class EmbedParams(Section):
    encoder: Literal["tfidf-svd", "minilm", "sentence-transformers"]
    model: str
    text_columns: Names
    dimensions: Annotated[int, Field(ge=2)]
    max_features: Annotated[int, Field(ge=10)]
    modalities: Names

    @model_validator(mode="after")
    def _named_model(self) -> EmbedParams:
        if self.encoder == "sentence-transformers" and not self.model:
            raise ValueError("embed.model must name a model when embed.encoder is sentence-transformers")
        return self


class WarmStartParams(Section):
    path: Annotated[str, Field(min_length=1)]
    tokenizer_epochs: Annotated[int, Field(ge=0)]
    joint_epochs: Count
    rate: Annotated[float, Field(gt=0.0, le=1.0)]


class TeacherParams(Section):
    processes: Processes = 1
    members: Annotated[int, Field(ge=1, le=16)]
    architecture: Literal["sasrec", "bsarec"]
    filter_share: Share
    filter_components: Count
    content: bool
    fields: Names
    field_weight: NonNegative
    d_model: Count
    blocks: Count
    heads: Count
    history: Annotated[int, Field(ge=1, le=1000)]
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)]
    loss: Literal["full", "sampled"] = "full"
    negatives: Count = 4096
    repeat_bias: bool
    lr: Positive
    weight_decay: NonNegative
    batch_size: Count
    epochs: Count
    epoch_samples: Annotated[int, Field(ge=0)] = 0
    patience: Count
    validate_every: Count
    validation_users: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _heads_divide(self) -> TeacherParams:
        if self.d_model % self.heads:
            raise ValueError(f"d_model ({self.d_model}) must be a multiple of heads ({self.heads})")
        if self.architecture == "bsarec" and self.filter_components > self.history // 2 + 1:
            raise ValueError(f"filter_components is at most history // 2 + 1 = {self.history // 2 + 1}")
        return self


class TokenizerParams(Section):
    levels: Annotated[int, Field(ge=1, le=8)]
    codebook_size: Annotated[int, Field(ge=2, le=65536)]
    code_dim: Count
    hidden: Widths
    lr: Positive
    weight_decay: NonNegative
    batch_size: Count
    epochs: Count
    temperature_start: Positive
    temperature_end: Positive
    uniformity_weight: NonNegative
    collaborative_weight: NonNegative


class RecommenderParams(Section):
    d_model: Count
    d_ff: Count
    heads: Count
    d_kv: Count
    encoder_layers: Count
    decoder_layers: Count
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    causal: bool
    repeat_bias: bool
    merge: bool
    item_vectors: bool = False  # params of an earlier version lack it
    decoder: Literal["beam", "set"]


class JointParams(Section):
    engine: Engine
    processes: Processes
    precision: Literal["fp32", "bf16"]
    recommender: RecommenderParams
    tokenizer: Literal["trained", "frozen", "hard"]
    history: Annotated[int, Field(ge=1, le=1000)]
    history_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    epochs: Count
    epoch_samples: Annotated[int, Field(ge=0)] = 0
    batch_size: Count
    recommender_lr: Positive
    tokenizer_lr: NonNegative
    weight_decay: NonNegative
    warmup_share: Annotated[float, Field(ge=0.0, lt=1.0)]
    schedule: Schedule
    temperature_start: Positive
    temperature_end: Positive
    reconstruction_weight: NonNegative
    uniformity_weight: NonNegative
    w_tokenizer_distillation: NonNegative
    w_recommender_distillation: NonNegative
    w_ranking_distillation: NonNegative
    ranking_items: Count
    ranking_search: Literal["exact", "index"] = "exact"
    ranking_samples: Count
    distillation_temperature: Positive
    contrast_temperature: Positive
    distillation_warmup_epochs: Annotated[int, Field(ge=0)]
    patience: Count
    validate_every: Count
    validation_users: Count
    validation_beam: Count


class HardenParams(Section):
    resolution: Literal["disambiguate", "reassign"]


class FinetuneParams(Section):
    engine: Engine
    epochs: Annotated[int, Field(ge=0)]
    epoch_samples: Annotated[int, Field(ge=0)] = 0
    lr: Positive
    schedule: Schedule
    batch_size: Count
    weight_decay: NonNegative
    w_ranking_distillation: NonNegative
    patience: Count
    validate_every: Count


class RankParams(Section):
    by: Literal["best", "fused", "generative", "dense"]
    validation_users: Count


class EvaluateParams(Section):
    beam: Count
    batch_size: Count
    cutoffs: Widths
    bootstrap_resamples: Annotated[int, Field(ge=100)]
    max_users: Annotated[int, Field(ge=0)] = 0
    slice_columns: Names


class GateParams(Section):
    protocol: Literal["unmasked", "masked"]
    min_recall_at_10: Share
    min_ndcg_at_10: Share
    min_margin_over_popularity: float
    min_margin_over_cooccurrence: float
    min_margin_over_own_items: float = 0.0  # params of an earlier version lack it
    min_margin_over_neighbours: float
    max_drop_below_teacher: NonNegative
    max_collision_rate: Share
    min_codebook_utilisation: Share
    note_max_gini_of_first_level: Share
    note_min_hit_rate_kept: NonNegative
    note_max_soft_hard_disagreement: Share
    note_min_entropy_share: Share


class ReportParams(Section):
    users: Annotated[int, Field(ge=0, le=100)]


class PromotionParams(Section):
    mode: Literal["better", "not_worse"]
    max_p: Annotated[float, Field(gt=0.0, lt=0.5)]
    max_loss: Share
    max_online_p: Annotated[float, Field(ge=0.0, lt=0.5)]
    resamples: Annotated[int, Field(ge=100, le=1_000_000)]
    max_users: Annotated[int, Field(ge=0)]
    max_slice_drop: Share
    min_slice_users: Count
    max_latency_ms: Positive
    latency_requests: Count
    max_load_seconds: Positive
    max_size_mb: Positive
    max_churn: Share
    wait_seconds: NonNegative


class RegisterParams(Section):
    tracking_uri: Annotated[str, Field(min_length=1)]
    experiment: Annotated[str, Field(min_length=1)]
    model_name: Annotated[str, Field(min_length=1)]

    @field_validator("tracking_uri")
    @classmethod
    def _no_credentials(cls, uri: str) -> str:
        if holds_credentials(uri):  # this file is committed, and copied into every bundle and run
            raise ValueError(
                "holds a user or a password; give them in the environment: MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or the whole address as MLFLOW_TRACKING_URI"
            )
        return uri


class ServeParams(Section):
    columns: Names
    date: str
    batch_size: Annotated[int, Field(ge=1, le=1024)]
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)]
    queue: Annotated[int, Field(ge=1)]
    deadline_ms: Annotated[float, Field(gt=0)]
    max_body_kb: Annotated[int, Field(ge=1, le=1 << 17)]
    max_histories: Annotated[int, Field(ge=1)]
    max_history: Annotated[int, Field(ge=1)]
    max_users: Annotated[int, Field(ge=1)]
    max_k: Annotated[int, Field(ge=1)]
    max_list: Annotated[int, Field(ge=1)]
    watch_seconds: Annotated[float, Field(ge=0.1)]
    drain_seconds: NonNegative
    impressions: str
    impressions_seconds: Annotated[float, Field(ge=0.1)]
    impressions_mb: Positive
    log: Literal["events", "requests", "bodies"]

    @field_validator("columns")
    @classmethod
    def _no_own_names(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        for name in columns:
            if name in OWN_COLUMNS or columns.count(name) > 1:
                raise ValueError(f"{name!r} is in every bundle, or named twice; name other columns of the items")
        return columns

    @model_validator(mode="after")
    def _date_is_served(self) -> ServeParams:
        if self.date and self.date not in self.columns:
            raise ValueError(f"serve.date ({self.date}) must be one of serve.columns")
        return self


class ScoreParams(Section):
    histories: str
    out: Annotated[str, Field(min_length=1)]
    k: Count
    filter: str
    exclude_history: bool
    workers: Annotated[int, Field(ge=0, le=1024)]


class Params(Section):
    """All of params.yaml. Only commands and stage functions see it; the rooms below take their own section."""

    profile: str
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    threads: Annotated[int, Field(ge=0, le=1024)]
    snapshot: SnapshotParams
    ingest: IngestParams
    validation: Annotated[ValidateParams, Field(alias="validate")]
    prepare: PrepareParams
    embed: EmbedParams
    warm_start: WarmStartParams
    teacher: TeacherParams
    tokenizer: TokenizerParams
    joint: JointParams
    harden: HardenParams
    finetune: FinetuneParams
    rank: RankParams
    evaluate: EvaluateParams
    gate: GateParams
    report: ReportParams
    promotion: PromotionParams
    register_: Annotated[RegisterParams, Field(alias="register")]
    serve: ServeParams
    score: ScoreParams
    spark: SparkParams = SparkParams()

    @model_validator(mode="after")
    def _known_evaluation_event(self) -> Params:
        event, events = self.prepare.evaluation_event, self.ingest.events
        if event and event not in events:
            named = ", ".join(events) or "none"
            raise ValueError(f"prepare.evaluation_event = {event!r} is not one of ingest.events ({named})")
        return self

    @model_validator(mode="after")
    def _events_where_there_are_some(self) -> Params:
        reads_snapshots = self.ingest.source == "folder" and Path(self.ingest.path) == CURRENT
        sources = {self.ingest.source} | ({self.snapshot.source} if reads_snapshots else set())
        if self.ingest.events and (bare := sorted(sources - {"folder", "sql"})):
            raise ValueError(f"ingest.events: the source {bare[0]} has no types of events; set ingest.events={{}}")
        return self

    @model_validator(mode="after")
    def _cutoffs_within_beam(self) -> Params:
        if max(self.evaluate.cutoffs) > self.evaluate.beam:
            raise ValueError(
                f"evaluate.cutoffs asks for the first {max(self.evaluate.cutoffs)}, but evaluate.beam finds only "
                f"{self.evaluate.beam}; raise the beam"
            )
        if 10 not in self.evaluate.cutoffs:
            raise ValueError("evaluate.cutoffs must contain 10: the gates read Recall@10 and NDCG@10")
        return self
