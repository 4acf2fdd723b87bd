"""A function per stage: load, compute, save. Only these functions and the commands see the whole params.

Stages read and write inside their `Artifacts`. `unigrec.pipeline.running` adds what a process of its own brings.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unigrec.base import files, paths
from unigrec.base.paths import Artifacts
from unigrec.config.schema import Params
from unigrec.pipeline.outputs import (
    load_codes,
    load_embeddings,
    load_fusion,
    load_item_ids,
    load_item_tokens,
    load_item_vectors,
    load_neighbours,
    load_recommender,
    load_sequences,
    load_teacher,
    load_temperature,
    load_tokenizer,
    load_unified,
    load_widths,
    save_finetuned,
    save_identifiers,
    save_ranks,
    save_trained,
)

if TYPE_CHECKING:
    import torch

    from unigrec.core.models.tokenizers.residual import Tokenizer
    from unigrec.core.models.vectors import Vectors
    from unigrec.core.retrieval.fused import FusedRetriever
    from unigrec.core.retrieval.generative import GenerativeRetriever
    from unigrec.core.retrieval.rank_by import RankBy
    from unigrec.core.retrieval.retriever import Retriever
    from unigrec.core.sequences import Sequences
    from unigrec.core.training.loop import Run
    from unigrec.data.drift import Drift
    from unigrec.data.prepare import Prepared

OVERLAP_HISTORY = 20  # items of a history that targets are compared with
FIRST_SNAPSHOT = "the first snapshot: there is none to compare with"
OTHER_PARAMS = ("snapshot", "gate", "promotion", "register", "serve", "spark")  # the stage `gate` writes its thresholds


def ingest(params: Params, artifacts: Artifacts) -> None:
    """Read the source into `interactions.parquet` and `items.parquet`."""
    from unigrec.data.sources.load import load_source

    texts, served = params.embed.text_columns, dict.fromkeys(params.serve.columns)
    source = load_source(params.ingest, params.seed, texts, served, into=artifacts.interactions)
    files.write_table(artifacts.items, source.items)
    if source.served is None:
        artifacts.ingested_columns.unlink(missing_ok=True)  # of an earlier run
    else:
        files.write_table(artifacts.ingested_columns, source.served)
    files.write_json(artifacts.source, source.provenance | {"warnings": list(source.warnings)})
    for warning in source.warnings:
        print(f"ingest: {warning}")


def validate(params: Params, artifacts: Artifacts) -> None:
    """Check the tables against the expectations. Raises InvalidDataError, after the result and the docs are written."""
    from unigrec.data.partitions import read_partitions
    from unigrec.data.spark.session import spark_session
    from unigrec.data.spark.validate import checked_on_spark
    from unigrec.data.validation.suite import allowed_times, judge, validate_tables

    snapshot, events = files.read_json(artifacts.source).get("snapshot"), params.ingest.events
    items, texts, k_core = files.read_table(artifacts.items), params.embed.text_columns, params.prepare.k_core
    about: dict[str, Any] = {
        "reference": reference_sizes(params.ingest.origin),
        "drift": _drift(snapshot),
        "folder": artifacts.folder("validate"),
        "validated": artifacts.validated,
        "data": f"snapshot {snapshot['id']}" if snapshot else params.ingest.origin,
    }
    if params.prepare.engine == "local":
        validate_tables(
            read_partitions(artifacts.interactions, bool(events)), items, params.validation, texts, k_core, **about
        )
        return
    times = allowed_times(params.validation)
    with (
        spark_session(params.spark) as session,
        checked_on_spark(
            session, artifacts.interactions, items, texts, k_core, times, events, scratch=paths.SPARK
        ) as tables,
    ):
        judge(tables, params.validation, texts, k_core, **about)


def _drift(lineage: dict[str, Any] | None) -> Drift | str:
    """How the snapshot that was ingested differs from the one before it, or why that is not known."""
    from unigrec.data.drift import Drift

    if lineage is None:
        return "the data is no snapshot (see: unigrec snapshot)"
    return FIRST_SNAPSHOT if lineage["drift"] is None else Drift.of_lineage(lineage["drift"])


def reference_sizes(origin: str) -> dict[str, int] | None:
    """Sizes of the data behind the last registered model, where that came from the same origin."""
    if not paths.REFERENCE.exists():
        return None
    reference = files.read_json(paths.REFERENCE)
    if not isinstance(reference, dict) or reference.pop("origin", None) != origin:
        return None
    return reference


def prepare(params: Params, artifacts: Artifacts) -> None:
    """Filter, order and index the interactions."""
    from unigrec.data.served_items import served_items
    from unigrec.data.slice_columns import slice_values

    prepared = _prepared(params, artifacts)
    files.write_tensors(artifacts.sequences, prepared.sequences)
    files.write_table(artifacts.users, prepared.users)
    files.write_table(artifacts.catalogue, prepared.catalogue)
    given = files.read_table(artifacts.ingested_columns) if artifacts.ingested_columns.is_file() else None
    files.write_table(artifacts.served_columns, served_items(prepared, given, params.serve.date))
    slice_values(artifacts, params.evaluate.slice_columns)  # a name that is wrong is an error before any training
    files.write_json(artifacts.prepare_stats, prepared.stats)
    for warning in prepared.stats["warnings"]:
        print(f"warning: {warning}")


def _prepared(params: Params, artifacts: Artifacts) -> Prepared:
    """The same result from both engines."""
    from unigrec.data.partitions import read_partitions
    from unigrec.data.prepare import finish, prepare_tables
    from unigrec.data.spark.prepare import gather
    from unigrec.data.spark.session import spark_session

    settings, events, items = params.prepare, params.ingest.events, files.read_table(artifacts.items)
    unknown = params.validation.max_unknown_item_share
    if settings.engine == "local":
        return prepare_tables(read_partitions(artifacts.interactions, bool(events)), items, settings, events, unknown)
    with spark_session(params.spark) as session:
        gathered = gather(
            session, artifacts.interactions, items, settings, events, scratch=paths.SPARK, max_unknown=unknown
        )
    return finish(*gathered, items=items, params=settings, events=events)


def warm_start(params: Params, artifacts: Artifacts) -> None:
    """Copy out of a bundle what this training continues from; in a cold start, write that it is cold."""
    from unigrec.pipeline.warm_start import check_shapes, is_warm, prepare_warm_start

    prepare_warm_start(Path(params.warm_start.path), artifacts)
    warm = is_warm(artifacts)
    if warm:
        check_shapes(artifacts, params.embed, params.tokenizer, joint=params.joint, harden=params.harden)
    print(f"warm_start: {f'from {params.warm_start.path}' if warm else 'cold'}")


def embed(params: Params, artifacts: Artifacts) -> None:
    """Item text to vectors, and the encoder that embeds new items in the same way."""
    from unigrec.embedding.encoder import continue_encoder, fit_encoder, load_encoder, save_encoder
    from unigrec.pipeline.warm_start import ENCODER, is_warm

    catalogue = files.read_table(artifacts.catalogue)
    if is_warm(artifacts):
        encoder, embedding = continue_encoder(load_encoder(artifacts.warm_start / ENCODER), catalogue)
    else:
        encoder, embedding = fit_encoder(catalogue, params.embed, params.seed)
    files.write_tensors(artifacts.embeddings, {"embedding": embedding})
    widths = [{"modality": name, "width": width} for name, width in encoder.widths]
    files.write_json(artifacts.modalities, widths)
    save_encoder(encoder, artifacts.text_encoder)
    print("\n".join((f"embed: {embedding.shape[0]} items, {embedding.shape[1]} dimensions", *encoder.notes)))


def teacher(params: Params, artifacts: Artifacts, run: Run) -> None:
    """Train the collaborative teacher; the joint phase distils its item embeddings. Under torchrun, rank 0 writes."""
    from unigrec.core import distributed
    from unigrec.core.training.teacher import teacher_config, train_teacher

    sequences = load_sequences(artifacts)
    fields = _item_fields(params.teacher.fields, artifacts)
    trained = train_teacher(sequences, load_embeddings(artifacts), params.teacher, run=run, fields=fields)
    if distributed.rank() == 0:
        save_trained(artifacts.teacher, trained, teacher_config(sequences.catalogue_size, params.teacher))


def _item_fields(names: tuple[str, ...], artifacts: Artifacts) -> list[torch.Tensor]:
    """(N, V) classes per usable column of the items. Raises UnigrecError for a column that is not there."""
    import torch

    from unigrec.data.fields import item_fields

    if not names:
        return []
    fields = item_fields(files.read_table(artifacts.catalogue), names)
    for note in fields.notes:
        print(f"teacher: {note}")
    return [torch.as_tensor(classes) for classes in fields.classes]


def tokenizer(params: Params, artifacts: Artifacts, run: Run) -> None:
    """Pre-train the tokenizer on the catalogue's vectors, and measure the health of its identifiers."""
    from unigrec.core.training.tokenizer import tokenizer_shape, train_tokenizer
    from unigrec.pipeline.warm_start import is_warm, read_of_teacher, started_tokenizer

    settings = settings_of("tokenizer", params, artifacts)
    started = started_tokenizer(artifacts) if is_warm(artifacts) else None
    part = read_of_teacher(
        artifacts,
        load_embeddings(artifacts),
        load_teacher(artifacts).item_vectors(),
        weight=params.tokenizer.collaborative_weight,
        item_ids=load_item_ids(artifacts),
    )
    files.write_tensors(artifacts.tokenizer / paths.COLLABORATIVE_FILE, {"part": part})
    vectors = load_item_vectors(artifacts)
    trained = train_tokenizer(vectors, settings, run, started=started)
    save_trained(artifacts.tokenizer, trained, {"embedding_dim": vectors.shape[1], **tokenizer_shape(settings)})
    model: Any = trained.model
    sequences, temperature = load_sequences(artifacts), settings.temperature_end
    widths = load_widths(artifacts)
    report = identifier_health(model, sequences, vectors, temperature=temperature, seed=run.seed, widths=widths)
    files.write_json(artifacts.tokenizer / paths.HEALTH_FILE, report)


def joint(params: Params, artifacts: Artifacts, run: Run) -> None:
    """Train tokenizer and recommender end to end; under torchrun, rank 0 writes."""
    from unigrec.core import distributed
    from unigrec.core.training.joint import JointData, train_joint
    from unigrec.pipeline.warm_start import earlier_identifiers, started_recommender

    settings = settings_of("joint", params, artifacts)
    ranker, earlier = load_teacher(artifacts), earlier_identifiers(artifacts, load_item_ids(artifacts))
    data = JointData(
        load_sequences(artifacts),
        load_item_vectors(artifacts),
        ranker.item_vectors(),
        ranker=ranker,
        earlier=earlier,
    )
    trained = train_joint(
        data,
        load_tokenizer(artifacts),
        settings,
        resolution=params.harden.resolution,
        run=run,
        recommender=None if earlier is None else started_recommender(artifacts, settings.recommender.dropout),
    )
    if distributed.rank() == 0:
        recommender: Any = trained.model.recommender
        config = {
            "recommender": recommender.config.to_dict(),
            "tokenizer": files.read_json(artifacts.tokenizer / paths.MODEL_CONFIG_FILE),
            "teacher_dim": data.teacher.shape[1],
            "temperature": trained.kept["temperature"],
        }
        save_trained(artifacts.joint, trained, config)


def harden(params: Params, artifacts: Artifacts, run: Run) -> None:
    """Freeze the joint phase's tokenizer into one semantic ID per item, and measure the health of the identifiers."""
    import numpy as np

    from unigrec.core.identifiers.churn import churn_against
    from unigrec.core.identifiers.collisions import resolve
    from unigrec.core.identifiers.health import codebook_usage
    from unigrec.pipeline.warm_start import earlier_identifiers

    model = load_unified(artifacts).tokenizer.to(run.device)
    sequences, vectors = load_sequences(artifacts), load_item_vectors(artifacts).to(run.device)
    earlier = earlier_identifiers(artifacts, load_item_ids(artifacts))
    resolved = resolve(model, vectors, sequences.train_counts(), params.harden.resolution, earlier)
    temperature, widths = load_temperature(artifacts), load_widths(artifacts)
    report = identifier_health(model, sequences, vectors, temperature=temperature, seed=run.seed, widths=widths)
    report |= {"disambiguation": resolved.disambiguation, "extra_distance": resolved.extra_distance}
    if earlier is not None:
        churn = churn_against(earlier, resolved.codes)
        report |= churn.as_dict()
        changed = "none" if churn.changed is None else f"{churn.changed:.1%}"
        print(f"harden: of {churn.items} items of the bundle, {changed} have another id")
    usage = codebook_usage(resolved.codes[:, : model.levels], model.codebook_size)
    rows = [
        {"level": level + 1, "rank": place + 1, "usage": float(share)}
        for level, shares in enumerate(usage)
        for place, share in enumerate(np.sort(shares)[::-1])
    ]
    files.write_json(artifacts.harden / paths.USAGE_FILE, rows)
    save_identifiers(artifacts.harden, resolved, report)


def identifier_health(
    model: Tokenizer,
    sequences: Sequences,
    vectors: Vectors,
    temperature: float,
    seed: int,
    widths: list[int],
) -> dict[str, Any]:
    """The figures of `unigrec.core.identifiers.health.health`, hit rates among them. vectors: (N, D).

    widths: of the modalities, which are the first numbers of the vectors.
    """
    from unigrec.core.identifiers.collisions import hard_codes
    from unigrec.core.identifiers.health import HIT_NEIGHBOURS, HIT_SAMPLE, code_overlap, health
    from unigrec.core.retrieval.cooccurrence import sample_cooccurring
    from unigrec.core.sequences import sample

    together = sample_cooccurring(sequences, HIT_NEIGHBOURS, HIT_SAMPLE, seed)
    vectors = vectors.to(model.codebooks.device)
    figures = health(model, vectors, sequences.train_counts(), temperature, together, widths=widths)
    users = sample(sequences.evaluation_users(), HIT_SAMPLE, seed)
    past = sequences.held_out(users, "validation", OVERLAP_HISTORY)
    overlap = code_overlap(hard_codes(model, vectors), past.items, past.lengths, past.targets) if len(users) else []
    return figures | {"target_code_overlap": overlap}


def finetune(params: Params, artifacts: Artifacts, run: Run) -> None:
    """Train the recommender on the hardened identifiers; under torchrun, rank 0 writes."""
    from unigrec.core import distributed
    from unigrec.core.training.finetune import train_finetune

    recommender, codes = load_unified(artifacts).recommender, load_codes(artifacts)
    vectors = load_item_vectors(artifacts) if recommender.config.vector_width else None
    trained = train_finetune(
        load_sequences(artifacts),
        recommender,
        codes,
        params=params.finetune,
        joint_params=params.joint,
        run=run,
        teacher=load_teacher(artifacts),
        vectors=vectors,
    )
    if distributed.rank() == 0:
        save_finetuned(artifacts.finetune, trained, codes, vectors)


def rank(params: Params, artifacts: Artifacts, run: Run) -> None:
    """Count neighbours and baskets, fit weights to validation users, and choose what is shipped."""
    from unigrec.core.retrieval.basket_counts import count_baskets
    from unigrec.core.retrieval.neighbour_ranking import count_neighbours
    from unigrec.core.sequences import sample
    from unigrec.core.training.fusion import choose_ranking, validation_candidates
    from unigrec.pipeline.search_weight import fitted_search_weight
    from unigrec.serving.basket_file import write_baskets
    from unigrec.serving.ranking_parts import Fusion, write_neighbours

    sequences = load_sequences(artifacts)
    write_neighbours(artifacts.rank / paths.NEIGHBOURS_FILE, count_neighbours(sequences, load_embeddings(artifacts)))
    write_baskets(artifacts.rank / paths.BASKETS_FILE, count_baskets(sequences))
    retriever = fused_retriever(params, artifacts, run.device)
    users = sample(sequences.evaluation_users(), params.rank.validation_users, run.seed)
    chosen = choose_ranking(validation_candidates(retriever, sequences, users), params.rank.by, run.seed)
    figures = {"users": len(users), "validation_ndcg_at_10": chosen.validation}
    shipped = ranked_by(retriever.with_weights(chosen.weights), chosen.by)
    weight = fitted_search_weight(
        artifacts, params.embed.text_columns, sequences, shipped, retriever.neighbours.content.cpu(), seed=run.seed
    )
    fusion = Fusion(chosen.by, chosen.weights, search_weight=weight)
    files.write_json(artifacts.rank / paths.FUSION_FILE, fusion.as_dict() | figures)
    found = ", ".join(f"{by} {value:.4f}" for by, value in chosen.validation.items())
    print(f"rank: ranking by {chosen.by}; validation NDCG@10: {found}")


def fused_retriever(params: Params, artifacts: Artifacts, device: torch.device) -> FusedRetriever:
    """As `retriever_of`, for these params."""
    return retriever_of(artifacts, params.joint.history, beam=params.evaluate.beam, device=device)


def generative_retriever(artifacts: Artifacts, history: int, beam: int, device: torch.device) -> GenerativeRetriever:
    """The finetuned recommender with the hardened identifiers."""
    from unigrec.core.retrieval.generative import GenerativeRetriever

    recommender, codes = load_recommender(artifacts), load_codes(artifacts)
    tokens = load_item_tokens(artifacts, recommender)
    return GenerativeRetriever.hardened(recommender, codes, history, beam=beam, device=device, tokens=tokens)


def retriever_of(artifacts: Artifacts, history: int, beam: int, device: torch.device) -> FusedRetriever:
    """All trained parts together, with the weights of the fused score if the stage `rank` has written them."""
    from unigrec.core.retrieval.dense import DenseRetriever
    from unigrec.core.retrieval.fused import FusedRetriever

    generative = generative_retriever(artifacts, history, beam=beam, device=device)
    dense = DenseRetriever(load_teacher(artifacts), generative.tree, device)
    weights = load_fusion(artifacts).weights if (artifacts.rank / paths.FUSION_FILE).is_file() else None
    return FusedRetriever(generative, dense, load_neighbours(artifacts), weights)


def evaluate(params: Params, artifacts: Artifacts, run: Run) -> None:
    """Rank the users' test items with the fused ranking, its parts and the baselines, in both protocols."""
    from unigrec.core.evaluation.baselines import Baselines
    from unigrec.core.evaluation.bootstrap import paired_bootstrap
    from unigrec.core.evaluation.metrics import ndcg
    from unigrec.core.evaluation.protocol import BASELINES, GATED_CUTOFF, SHIPPED, Protocol
    from unigrec.core.evaluation.ranking import rank_test_items
    from unigrec.core.retrieval.rank_by import MODEL_OF
    from unigrec.core.retrieval.retriever import CPU
    from unigrec.core.sequences import sample
    from unigrec.data.slice_columns import slice_values

    sequences, retriever = load_sequences(artifacts), fused_retriever(params, artifacts, run.device)
    users = sequences.evaluation_users()
    users = sample(users, params.evaluate.max_users or len(users), run.seed)
    baselines = Baselines(
        sequences,
        params.joint.history,
        teacher=retriever.dense.model,
        neighbours=retriever.neighbours.to(CPU),
        device=run.device,
    )
    ranks = rank_test_items(sequences, users, retriever, baselines, batch_size=params.evaluate.batch_size)
    shipped = MODEL_OF[load_fusion(artifacts).by]
    ranks |= {(SHIPPED, protocol): ranks[shipped, protocol] for protocol in Protocol}
    comparison = {
        protocol: {
            other: paired_bootstrap(
                ndcg(ranks[SHIPPED, protocol], GATED_CUTOFF),
                ndcg(ranks[other, protocol], GATED_CUTOFF),
                params.evaluate.bootstrap_resamples,
                seed=run.seed,
            )
            for other in (*BASELINES, "student")
        }
        for protocol in Protocol
    }
    files.write_json(artifacts.evaluate / paths.AGAINST_FILE, comparison)
    columns = slice_values(artifacts, params.evaluate.slice_columns)
    save_ranks(artifacts.evaluate, sequences, users, ranks=ranks, cutoffs=params.evaluate.cutoffs, columns=columns)


def gate(params: Params, artifacts: Artifacts) -> None:
    """Compare the metrics with the gates. A refusal is written, not raised: an experiment keeps its metrics.

    The targets of the tokenizer before the joint phase are printed here: if its own stage read them, the trainings
    would run again for a change of a target.
    """
    from unigrec.core.decisions.gates import decide, identifier_notes

    decision = decide(
        files.read_json(artifacts.evaluate / paths.METRICS_FILE),
        files.read_json(artifacts.evaluate / paths.AGAINST_FILE),
        files.read_json(artifacts.harden / paths.HEALTH_FILE),
        params=params.gate,
    )
    files.write_json(artifacts.decision, decision.as_dict())
    for note in identifier_notes(files.read_json(artifacts.tokenizer / paths.HEALTH_FILE), params.gate):
        print(f"tokenizer: target {'met' if note.passed else 'missed'}: {note.reason}")


def report(params: Params, artifacts: Artifacts, run: Run) -> None:
    """Write the report of the run: its facts, the page and the model card. Registration adds what only it knows."""
    from unigrec.pipeline.report import pages
    from unigrec.pipeline.report.facts import gather

    values = params.model_dump(mode="json", by_alias=True)
    facts = gather(
        artifacts,
        {name: value for name, value in values.items() if name not in OTHER_PARAMS},
        shipped_retriever(params, artifacts, run.device),
        users=params.report.users,
        resamples=params.evaluate.bootstrap_resamples,
    )
    files.write_json(artifacts.report / paths.FACTS_FILE, facts)
    pages.write(artifacts.report, facts)


def shipped_retriever(params: Params, artifacts: Artifacts, device: torch.device) -> Retriever:
    """The model that requests are answered with."""
    return ranked_by(fused_retriever(params, artifacts, device), load_fusion(artifacts).by)


def ranked_by(fused: FusedRetriever, by: RankBy) -> Retriever:
    """The fused ranking, or one of its parts."""
    from unigrec.core.retrieval.rank_by import RankBy

    return {RankBy.FUSED: fused, RankBy.GENERATIVE: fused.generative, RankBy.DENSE: fused.dense}[by]


def settings_of(stage: str, params: Params, artifacts: Artifacts) -> Any:
    """A stage's section of params; a warm start changes those of tokenizer and joint."""
    from unigrec.pipeline.warm_start import is_warm, warm_joint

    settings = getattr(params, stage)
    if stage == "tokenizer" and is_warm(artifacts):
        return settings.model_copy(update={"epochs": params.warm_start.tokenizer_epochs})
    return warm_joint(settings, params.warm_start) if stage == "joint" and is_warm(artifacts) else settings
