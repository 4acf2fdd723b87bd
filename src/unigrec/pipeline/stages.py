"""A function per stage: load -> core -> save. The only place, beside the commands, that sees the whole params."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files, paths
from unigrec.base.progress import TrainingProgress
from unigrec.config.schema import Params
from unigrec.pipeline.outputs import (
    load_codes,
    load_embeddings,
    load_item_ids,
    load_item_vectors,
    load_recommender,
    load_sequences,
    load_teacher,
    load_tokenizer,
    load_unified,
    save_identifiers,
    save_trained,
)
from unigrec.pipeline.stage_key import stage_key

if TYPE_CHECKING:
    import numpy as np
    import torch

    from unigrec.core.identifiers.collisions import Resolved
    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.core.models.unified import UnifiedModel
    from unigrec.core.sequences import Sequences
    from unigrec.core.training.checkpoint import CheckpointFolder
    from unigrec.core.training.loop import Trained
    from unigrec.data.drift import Drift

CHECKPOINT_SECONDS = 20.0
FIRST_SNAPSHOT = "the first snapshot: there is none to compare with"
TOKENIZER_SHAPE = {"code_dim", "hidden", "levels", "codebook_size"}


def ingest(params: Params) -> None:
    """Read the source into `interactions.parquet` and `items.parquet`."""
    from unigrec.data.sources.load import load_source

    source = load_source(params.ingest, params.seed)
    files.write_table(paths.INTERACTIONS, source.interactions)
    files.write_table(paths.ITEMS, source.items)
    files.write_json(paths.SOURCE, source.provenance)


def validate(params: Params) -> None:
    """Check the tables against the expectations. Raises InvalidDataError, after the result and the docs are written."""
    from unigrec.data.validation.suite import validate_tables

    snapshot = files.read_json(paths.SOURCE).get("snapshot")
    validate_tables(
        files.read_table(paths.INTERACTIONS),
        files.read_table(paths.ITEMS),
        params.validation,
        text_columns=params.embed.text_columns,
        k_core=params.prepare.k_core,
        reference=reference_sizes(params.ingest.origin),
        drift=_drift(snapshot),
        data=f"snapshot {snapshot['id']}" if snapshot else params.ingest.origin,
    )


def _drift(lineage: dict[str, Any] | None) -> Drift | str:
    """How the snapshot that was ingested differs from the one before it, or why that is not known."""
    from unigrec.data.drift import Drift

    if lineage is None:
        return "the data is no snapshot (see: unigrec snapshot)"
    return FIRST_SNAPSHOT if lineage["drift"] is None else Drift(**lineage["drift"])


def reference_sizes(origin: str) -> dict[str, int] | None:
    """Sizes of the data behind the last registered model, where that came from the same origin."""
    if not paths.REFERENCE.exists():
        return None
    reference = files.read_json(paths.REFERENCE)
    if not isinstance(reference, dict) or reference.pop("origin", None) != origin:
        return None
    return reference


def prepare(params: Params) -> None:
    """Filter, order and index the interactions."""
    from unigrec.data.prepare import prepare_tables

    prepared = prepare_tables(files.read_table(paths.INTERACTIONS), files.read_table(paths.ITEMS), params.prepare)
    files.write_tensors(paths.SEQUENCES, prepared.sequences)
    files.write_table(paths.USERS, prepared.users)
    files.write_table(paths.CATALOGUE, prepared.catalogue)
    files.write_json(paths.PREPARE_STATS, prepared.stats)


def warm_start(params: Params) -> None:
    """What a bundle hands on to this training; nothing, where params name none."""
    from unigrec.pipeline.warm_start import check_shapes, is_warm, prepare_warm_start

    prepare_warm_start(Path(params.warm_start.path))
    if is_warm():
        check_shapes(params.embed, params.tokenizer, params.joint, params.harden)
    print(f"warm_start: {'from ' + params.warm_start.path if is_warm() else 'cold'}")


def embed(params: Params) -> None:
    """Item text to vectors, and the encoder that embeds new items the same way."""
    from unigrec.embedding.encoder import continue_encoder, fit_encoder, load_encoder, save_encoder
    from unigrec.pipeline.warm_start import ENCODER, is_warm

    catalogue = files.read_table(paths.CATALOGUE)
    if is_warm():
        encoder, embedding = continue_encoder(load_encoder(paths.WARM_START / ENCODER), catalogue)
    else:
        encoder, embedding = fit_encoder(catalogue, params.embed, params.seed)
    files.write_tensors(paths.EMBEDDINGS, {"embedding": embedding})
    save_encoder(encoder, paths.TEXT_ENCODER)
    print("\n".join((f"embed: {embedding.shape[0]} items, {embedding.shape[1]} dimensions", *encoder.notes)))


def teacher(params: Params) -> None:
    """Train the collaborative teacher; its item embeddings are what the joint phase distils."""
    from unigrec.core.training.loop import Run
    from unigrec.core.training.teacher import teacher_shape, train_teacher

    with _training("teacher", params) as checkpoints:
        sequences, log = load_sequences(), TrainingProgress("teacher", params.teacher.epochs)
        run = Run(params.seed, training_device(), log, checkpoints=checkpoints)
        trained = train_teacher(sequences, load_embeddings(), params.teacher, run=run)
        config = {"items": sequences.catalogue_size, **teacher_shape(params.teacher)}
        _save_trained(paths.TEACHER, trained, config, "Teacher")


def tokenizer(params: Params) -> None:
    """Pre-train the tokenizer on the catalogue's embeddings, and report the health of its identifiers."""
    from unigrec.core.decisions.gates import identifier_notes
    from unigrec.core.training.loop import Run
    from unigrec.core.training.tokenizer import train_tokenizer
    from unigrec.pipeline.plots import annealing
    from unigrec.pipeline.warm_start import is_warm, read_of_teacher, started_tokenizer

    with _training("tokenizer", params) as checkpoints:
        settings, started = params.tokenizer, None
        if is_warm():
            settings = settings.model_copy(update={"epochs": params.warm_start.tokenizer_epochs})
            started = started_tokenizer()
        content, teacher, weight = load_embeddings(), load_teacher(), params.tokenizer.collaborative_weight
        part = read_of_teacher(content, teacher.item_embedding.weight.detach(), weight, load_item_ids())
        files.write_tensors(paths.TOKENIZER / paths.COLLABORATIVE_FILE, {"part": part})
        vectors, log = load_item_vectors(), TrainingProgress("tokenizer", settings.epochs)
        run = Run(params.seed, training_device(), log, checkpoints=checkpoints)
        trained = train_tokenizer(vectors, settings, run, started=started)
        config = {"embedding_dim": vectors.shape[1], **params.tokenizer.model_dump(include=TOKENIZER_SHAPE)}
        _save_trained(paths.TOKENIZER, trained, config, "Tokenizer")
        annealing(trained.history, params.tokenizer.codebook_size, paths.TOKENIZER / "annealing.png")
        model: Any = trained.model
        report = identifier_health(model, load_sequences(), vectors, params.tokenizer.temperature_end, params.seed)
        files.write_json(paths.TOKENIZER / paths.HEALTH_FILE, report)
        for note in identifier_notes(report, params.gate):
            print(f"tokenizer: target {'met' if note.passed else 'missed'}: {note.reason}")


def joint(params: Params) -> None:
    """Train tokenizer and recommender end to end; under torchrun, rank 0 writes."""
    from unigrec.core.distributed import rank
    from unigrec.core.training.joint import JointData, train_joint
    from unigrec.core.training.loop import Run
    from unigrec.pipeline.plots import identifiers_over_epochs
    from unigrec.pipeline.warm_start import earlier_identifiers, started_recommender, warm_joint

    with _training("joint", params) as checkpoints:
        ranker = load_teacher()
        data = JointData(load_sequences(), load_item_vectors(), ranker.item_embedding.weight.detach(), ranker)
        settings, started = params.joint, None
        data = data._replace(earlier=earlier_identifiers(load_item_ids()))
        if data.earlier is not None:
            settings = warm_joint(params.joint, params.warm_start)
            started = started_recommender(settings.recommender.dropout)
        log = TrainingProgress("joint", settings.epochs)
        run = Run(params.seed, training_device(), log, checkpoints=checkpoints)
        first, resolution = load_tokenizer(), params.harden.resolution
        trained = train_joint(data, first, settings, resolution=resolution, run=run, recommender=started)
        if rank() == 0:
            recommender: Any = trained.model.recommender
            config = {
                "recommender": recommender.config.to_dict(),
                "tokenizer": files.read_json(paths.TOKENIZER / paths.MODEL_CONFIG_FILE),
                "teacher_dim": data.teacher.shape[1],
            }
            _save_trained(paths.JOINT, trained, config, "Joint training")
            identifiers_over_epochs(trained.history, first.codebook_size, paths.JOINT / "identifiers.png")


def harden(params: Params) -> None:
    """Freeze the joint phase's tokenizer into one semantic ID an item."""
    import numpy as np

    from unigrec.core.identifiers.churn import churn_against
    from unigrec.core.identifiers.health import codebook_usage
    from unigrec.pipeline import plots
    from unigrec.pipeline.warm_start import earlier_identifiers

    unified = load_unified()
    earlier = earlier_identifiers(load_item_ids())
    resolved, report = harden_identifiers(unified, load_sequences(), load_item_vectors(), params, earlier)
    if earlier is not None:
        churn = churn_against(earlier, resolved.codes)
        report |= churn.as_dict()
        print(f"harden: of {churn.items} items of the bundle, {_share(churn.changed)} have another id")
    usage = codebook_usage(resolved.codes[:, : unified.tokenizer.levels], unified.tokenizer.codebook_size)
    rows = [
        {"level": level + 1, "rank": place + 1, "usage": float(share)}
        for level, shares in enumerate(usage)
        for place, share in enumerate(np.sort(shares)[::-1])
    ]
    save_identifiers(paths.HARDEN, resolved, report)
    files.write_json(paths.HARDEN / "codebook_usage.json", rows)
    plots.codebook_usage(rows, paths.HARDEN / "codebook_usage.png")


def harden_identifiers(
    unified: UnifiedModel,
    sequences: Sequences,
    vectors: torch.Tensor,
    params: Params,
    earlier: np.ndarray | None = None,
) -> tuple[Resolved, dict[str, Any]]:
    """Identifiers without collisions, and their health.

    vectors: (N, D) as the tokenizer reads them. earlier: (N, L) identifiers to keep where that is possible.
    """
    from unigrec.core.identifiers.collisions import resolve

    popularity, resolution = sequences.train_counts(), params.harden.resolution
    resolved = resolve(unified.tokenizer, vectors, popularity, resolution, earlier)
    report = identifier_health(unified.tokenizer, sequences, vectors, params.joint.temperature_end, params.seed)
    return resolved, report | {"disambiguation": resolved.disambiguation, "extra_distance": resolved.extra_distance}


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def identifier_health(
    model: Tokenizer, sequences: Sequences, vectors: torch.Tensor, temperature: float, seed: int
) -> dict[str, Any]:
    """The figures of `unigrec.core.identifiers.health.health`, hit rates with them."""
    from unigrec.core.identifiers.health import HIT_NEIGHBOURS, HIT_SAMPLE, health
    from unigrec.core.retrieval.cooccurrence import sample_cooccurring

    together = sample_cooccurring(sequences, HIT_NEIGHBOURS, HIT_SAMPLE, seed)
    vectors = vectors.to(model.codebooks.device)
    return health(model, vectors, sequences.train_counts(), temperature, together)


def finetune(params: Params) -> None:
    """Train the recommender on the hardened identifiers; under torchrun, rank 0 writes."""
    from unigrec.core.distributed import rank
    from unigrec.core.training.finetune import train_finetune
    from unigrec.core.training.loop import Run

    with _training("finetune", params) as checkpoints:
        log = TrainingProgress("finetune", params.finetune.epochs)
        run = Run(params.seed, training_device(), log, checkpoints=checkpoints)
        trained = train_finetune(
            load_sequences(),
            load_unified().recommender,
            load_codes(),
            params=params.finetune,
            joint_params=params.joint,
            run=run,
            teacher=load_teacher(),
        )
        if rank() == 0:
            model: Any = trained.model
            _save_trained(paths.FINETUNE, trained, model.config.to_dict(), "Finetuning")


def evaluate(params: Params) -> None:
    """Rank every user's test item with student, teacher and baselines, in both protocols."""
    import pyarrow as pa

    from unigrec.core.evaluation.bootstrap import paired_bootstrap
    from unigrec.core.evaluation.metrics import ndcg, ranking_metrics
    from unigrec.core.evaluation.ranking import rank_test_items
    from unigrec.core.evaluation.slices import metrics_by_slice, slices
    from unigrec.pipeline import plots

    sequences = load_sequences()
    users = sequences.evaluation_users()
    models = load_teacher(), load_recommender(), load_codes()
    ranks = rank_test_items(sequences, users, *models, params.evaluate, params.joint.history, training_device())
    rows = metrics_by_slice(ranks, slices(sequences, users))
    metrics: dict[str, Any] = {}
    table: dict[str, Any] = {"user_index": users, "item_index": sequences.held_out(users, "test", 1).targets}
    for (model, protocol), found in ranks.items():
        metrics.setdefault(model, {})[protocol] = ranking_metrics(found, params.evaluate.cutoffs)
        table[f"{model}_{protocol}"] = found
    comparison = {
        protocol: {
            other: paired_bootstrap(
                ndcg(ranks["student", protocol], 10),
                ndcg(ranks[other, protocol], 10),
                params.evaluate.bootstrap_resamples,
                params.seed,
            )
            for other in ("popularity", "cooccurrence", "teacher")
        }
        for protocol in ("unmasked", "masked")
    }
    files.write_json(paths.EVALUATE / paths.METRICS_FILE, metrics)
    files.write_json(paths.EVALUATE / "student_against.json", comparison)
    files.write_json(paths.EVALUATE / "slices.json", rows)
    files.write_table(paths.EVALUATE / paths.RANKS_FILE, pa.table(table))
    plots.quality_bars(metrics, paths.EVALUATE / "quality.png")
    for protocol in ("unmasked", "masked"):
        plots.metrics_by_slice(rows, paths.EVALUATE / f"slices_{protocol}.png", protocol)


def gate(params: Params) -> None:
    """Hold the metrics against the gates. A refusal is written, not raised: an experiment keeps its metrics."""
    from unigrec.core.decisions.gates import decide

    metrics = files.read_json(paths.EVALUATE / paths.METRICS_FILE)
    decision = decide(metrics, files.read_json(paths.HARDEN / paths.HEALTH_FILE), params.gate)
    files.write_json(paths.DECISION, decision.as_dict())


def _save_trained(folder: Path, trained: Trained, config: dict[str, Any], title: str) -> None:
    from unigrec.pipeline.plots import training_curves

    if any(row["step"] for row in trained.history):  # a warm start may leave a network as it was
        training_curves(trained.history, folder / "curves.png", title)
    save_trained(folder, trained, config)


def training_device() -> torch.device:
    """Where this process trains, set up for it: no denormals, memory is kept; on a CPU, reruns give the same bits."""
    import os

    import torch

    from unigrec.base.process import keep_memory

    keep_memory()
    torch.set_flush_denormal(True)  # optimizer states fade into denormal numbers, which are slow
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    # Several threads add up the gradient of a gather in any order otherwise: a rerun would give other bits.
    torch.use_deterministic_algorithms(True)
    # A pass over every new tensor, for those who look for bugs.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cpu")


@contextmanager
def _training(stage: str, params: Params) -> Iterator[CheckpointFolder]:
    """The stage's checkpoint, keyed by everything that `dvc.yaml` says it depends on, and removed when it is done.

    A stage that fails keeps its process group until it has ended: ranks that lose a peer crash, and the error of the
    one that failed must be reported before.
    """
    import shutil

    from unigrec.core.distributed import leave_process_group, rank
    from unigrec.core.training.checkpoint import CheckpointFolder

    key = stage_key(stage, params.model_dump(mode="json", by_alias=True))
    yield CheckpointFolder(paths.CHECKPOINTS / stage, key, CHECKPOINT_SECONDS)
    if rank() == 0:
        shutil.rmtree(paths.CHECKPOINTS / stage, ignore_errors=True)
    leave_process_group()
