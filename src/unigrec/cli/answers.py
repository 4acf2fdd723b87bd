"""The commands that ask a model, serve it, or change its catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unigrec.base.git import PARAMS
from unigrec.cli.options import (
    ANSWERS,
    Allow,
    AsJson,
    Boosts,
    Deny,
    Diverse,
    HowMany,
    Model,
    NewOnes,
    ParamsFile,
    RankedBy,
    Registered,
    Where,
)
from unigrec.core.retrieval.rank_by import RankBy

app = typer.Typer()


@app.command(rich_help_panel=ANSWERS)
def recommend(
    history: Annotated[
        list[str],
        typer.Option(
            help="Item ids, oldest first: with commas between them, as a JSON list, or one id per option "
            "(the last two for ids that hold commas)."
        ),
    ],
    k: HowMany = 10,
    model: Model = "champion",
    allow: Allow = None,
    deny: Deny = None,
    where: Where = None,
    rank_by: RankedBy = None,
    diversity: Diverse = None,
    new_share: NewOnes = None,
    boost: Boosts = None,
    reasons: Annotated[bool, typer.Option("--reasons", help="Say of every item why it is recommended.")] = False,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Print recommended items with titles and scores, by default from the registered champion."""
    from unigrec.commands.recommend import print_recommendations
    from unigrec.config.read import load_params

    print_recommendations(
        load_params(params),
        model,
        history,
        k=k,
        allow=allow or [],
        deny=deny or [],
        filter=where,
        rank_by=rank_by,
        diversity=diversity,
        new_share=new_share,
        boost=boost or [],
        reasons=reasons,
        as_json=as_json,
    )


@app.command(rich_help_panel=ANSWERS)
def search(
    query: Annotated[str, typer.Argument(metavar="WORDS", help="What is looked for, in quotes.")],
    history: Annotated[
        list[str] | None, typer.Option(help="What the visitor had, as the history of `recommend`; by default nothing.")
    ] = None,
    search_weight: Annotated[
        float | None, typer.Option(min=0.0, help="Weight of the words next to the history (1); 0: the history alone.")
    ] = None,
    k: HowMany = 10,
    model: Model = "champion",
    allow: Allow = None,
    deny: Deny = None,
    where: Where = None,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Print the items that words ask for, and that suit a history."""
    from unigrec.commands.search import print_found
    from unigrec.config.read import load_params

    print_found(
        load_params(params),
        model,
        query,
        history or [],
        search_weight=search_weight,
        k=k,
        allow=allow or [],
        deny=deny or [],
        filter=where,
        as_json=as_json,
    )


@app.command(rich_help_panel=ANSWERS)
def similar(
    item: Annotated[str, typer.Option(help="Id of the item to be replaced.")],
    k: HowMany = 10,
    model: Model = "champion",
    allow: Allow = None,
    deny: Deny = None,
    where: Where = None,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Print the items most like one: of its kind, the nearest texts first."""
    from unigrec.commands.related import print_similar
    from unigrec.config.read import load_params

    print_similar(
        load_params(params), model, item, k=k, allow=allow or [], deny=deny or [], filter=where, as_json=as_json
    )


@app.command(rich_help_panel=ANSWERS)
def complement(
    basket: Annotated[list[str], typer.Option(help="Item ids, as the history of `recommend`.")],
    k: HowMany = 10,
    model: Model = "champion",
    allow: Allow = None,
    deny: Deny = None,
    where: Where = None,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Print what is bought together with the items of a basket, of other kinds, and how often."""
    from unigrec.commands.related import print_complements
    from unigrec.config.read import load_params

    print_complements(
        load_params(params), model, basket, k=k, allow=allow or [], deny=deny or [], filter=where, as_json=as_json
    )


@app.command(rich_help_panel=ANSWERS)
def serve(
    model: Annotated[
        str,
        typer.Option(help="Alias, which is watched for another version; or a version number; or folder of a bundle."),
    ] = "champion",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    workers: Annotated[int, typer.Option(min=0, max=256, help="Processes that search; 0: one per core, up to 4.")] = 0,
    challenger: Annotated[
        str | None, typer.Option(help="Another one, as --model, which answers a share of the visitors.")
    ] = None,
    share: Annotated[float | None, typer.Option(help="Of the visitors, for the challenger: 0.1.")] = None,
    impressions: Annotated[
        Path | None, typer.Option(help="Folder for a log of what users are shown; by default that of params, or none.")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Serve recommendations over HTTP, by default of the registered champion, until Ctrl-C (docs/serving.md)."""
    from unigrec.base.process import keep_quiet
    from unigrec.commands.serve import serve as run
    from unigrec.config.read import load_params

    keep_quiet()
    run(
        load_params(params),
        model,
        host,
        port,
        workers=workers,
        challenger=challenger,
        share=share,
        impressions=impressions,
    )


@app.command(rich_help_panel=ANSWERS)
def audience(
    item: Annotated[str, typer.Option(help="Id of the item.")],
    histories: Annotated[Path, typer.Option(help="Interactions of the users: Parquet, CSV or JSON lines.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many users.")] = 1000,
    model: Model = "champion",
    rank_by: Annotated[RankBy | None, typer.Option(help="What scores the item; by default, what was best.")] = None,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Print the users who are most likely to take an item next, as CSV."""
    from unigrec.commands.audience import print_audience
    from unigrec.config.read import load_params

    print_audience(load_params(params), model, item, histories, k=k, rank_by=rank_by, as_json=as_json)


@app.command(rich_help_panel=ANSWERS)
def score(
    histories: Annotated[Path, typer.Option(help="Interactions of the users: Parquet, CSV or JSON lines.")],
    out: Annotated[Path, typer.Option(help="The Parquet file that is written.")],
    k: HowMany = 10,
    model: Model = "champion",
    allow: Allow = None,
    deny: Deny = None,
    where: Where = None,
    exclude_history: Annotated[
        bool, typer.Option("--exclude-history", help="Do not recommend a user what the user had.")
    ] = False,
    rank_by: RankedBy = None,
    diversity: Diverse = None,
    new_share: NewOnes = None,
    boost: Boosts = None,
    workers: Annotated[int, typer.Option(min=0, max=1024, help="Processes that score; 0: one per core.")] = 0,
    params: ParamsFile = PARAMS,
) -> None:
    """Write lists for all users, as Parquet. A run that was killed continues when it is started again."""
    from unigrec.base.process import keep_quiet
    from unigrec.config.read import load_params

    keep_quiet()
    from unigrec.commands.score import score as run

    told = run(
        load_params(params),
        model,
        histories,
        out,
        workers,
        allow=allow or [],
        deny=deny or [],
        k=k,
        filter=where,
        exclude_history=exclude_history,
        rank_by=rank_by,
        diversity=diversity,
        new_share=new_share,
        boost=boost or [],
    )
    print(told)


@app.command(rich_help_panel=ANSWERS)
def lookalike(
    seed: Annotated[Path, typer.Option(help="User ids, one per line: the users to find others like.")],
    histories: Annotated[Path, typer.Option(help="Interactions of all users: Parquet, CSV or JSON lines.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many users.")] = 1000,
    model: Model = "champion",
    params: ParamsFile = PARAMS,
) -> None:
    """Print the users who are most like given ones, as CSV; they themselves are left out."""
    from unigrec.commands.audience import print_lookalikes
    from unigrec.config.read import load_params

    print_lookalikes(load_params(params), model, seed, histories, k)


@app.command(rich_help_panel=ANSWERS)
def segments(
    histories: Annotated[Path, typer.Option(help="Interactions of the users: Parquet, CSV or JSON lines.")],
    k: Annotated[int, typer.Option("-k", min=2, max=1000, help="How many segments.")] = 12,
    parts: Annotated[int, typer.Option(min=1, max=10, help="Parts of each segment.")] = 3,
    model: Model = "champion",
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Print kinds of users, nested, with the items and words that tell each."""
    from unigrec.commands.segments import print_segments
    from unigrec.config.read import load_params

    print_segments(load_params(params), model, histories, k, parts=parts, as_json=as_json)


@app.command("export-features", rich_help_panel=ANSWERS)
def export_features(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where items.parquet and users.parquet are written.")],
    histories: Annotated[
        Path | None, typer.Option(help="Interactions of users: Parquet, CSV or JSON lines; by default, items alone.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the soft codes: higher, softer.")] = 0.01,
    model: Model = "champion",
    params: ParamsFile = PARAMS,
) -> None:
    """Write identifiers, vectors and states as Parquet, for a shop's own ranking model."""
    from unigrec.commands import features
    from unigrec.config.read import load_params

    print(features.export_features(load_params(params), model, out, histories, temperature))


@app.command("add-items", rich_help_panel=ANSWERS)
def add_items(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The items: Parquet, CSV or JSON lines.")],
    model: Model = "champion",
    registered: Registered = True,
    params: ParamsFile = PARAMS,
) -> None:
    """Add items to a model by their texts, without a training; no published identifier changes."""
    from unigrec.base.process import keep_quiet
    from unigrec.commands import items
    from unigrec.config.read import load_params

    keep_quiet()
    raise typer.Exit(items.add_items(load_params(params), file, model, registered))


@app.command("remove-items", rich_help_panel=ANSWERS)
def remove_items(
    items: Annotated[list[str], typer.Argument(metavar="ITEMS", help="Ids, or files with one id per line.")],
    model: Model = "champion",
    registered: Registered = True,
    params: ParamsFile = PARAMS,
) -> None:
    """Take items out of a model, without a training: they are not recommended any more."""
    from unigrec.base.process import keep_quiet
    from unigrec.commands import items as commands
    from unigrec.config.read import load_params

    keep_quiet()
    raise typer.Exit(commands.remove_items(load_params(params), items, model, registered))
