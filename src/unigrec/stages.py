"""A function per stage: load -> core -> save. The only place, beside the commands, that sees the whole params."""

from __future__ import annotations

from unigrec import artifacts as a
from unigrec.config import Params


def ingest(params: Params) -> None:
    """Read the source into `interactions.parquet` and `items.parquet`."""
    from unigrec.data.sources import load_source

    source = load_source(params.ingest, params.seed)
    a.write_table(a.INTERACTIONS, source.interactions)
    a.write_table(a.ITEMS, source.items)
    a.write_json(a.SOURCE, source.provenance)


def validate(params: Params) -> None:
    """Check the tables against the expectations. Raises InvalidDataError, after the result and the docs are written."""
    from unigrec.validation import validate_tables

    validate_tables(
        a.read_table(a.INTERACTIONS),
        a.read_table(a.ITEMS),
        params.validation,
        text_columns=params.embed.text_columns,
        k_core=params.prepare.k_core,
        reference=a.read_json(a.REFERENCE) if a.REFERENCE.exists() else None,
    )


def prepare(params: Params) -> None:
    """Filter, order and index the interactions."""
    from unigrec.data.prepare import prepare_tables

    prepared = prepare_tables(a.read_table(a.INTERACTIONS), a.read_table(a.ITEMS), params.prepare)
    a.write_tensors(a.SEQUENCES, prepared.sequences)
    a.write_table(a.USERS, prepared.users)
    a.write_table(a.CATALOGUE, prepared.catalogue)
    a.write_json(a.PREPARE_STATS, prepared.stats)


def embed(params: Params) -> None:
    """Item text to vectors, and the encoder that embeds new items the same way."""
    from unigrec.embedding import fit_encoder, save_encoder

    encoder, embedding = fit_encoder(a.read_table(a.CATALOGUE), params.embed, params.seed)
    a.write_tensors(a.EMBEDDINGS, {"embedding": embedding})
    save_encoder(encoder, a.TEXT_ENCODER)
    print("\n".join((f"embed: {embedding.shape[0]} items, {embedding.shape[1]} dimensions", *encoder.notes)))
