"""The command line. Heavy imports happen inside the commands, so that `unigrec --help` answers at once."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from unigrec.base import paths
from unigrec.base.errors import EXIT_BAD_INPUT, UnigrecError
from unigrec.base.git import PARAMS, trust_clone
from unigrec.core.retrieval.rank_by import RankBy

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, check, gate, register and use a generative recommender. Run inside the project's folder.",
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The params file to read.")]
HowMany = Annotated[int, typer.Option("-k", min=1, help="How many items.")]
Model = Annotated[str, typer.Option(help="Alias, version number, or folder of a bundle.")]
Allow = Annotated[
    list[str] | None, typer.Option(help="Recommend only these: an id, or a file with one id per line; repeatable.")
]
Deny = Annotated[list[str] | None, typer.Option(help="Do not recommend these: as --allow.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Where = Annotated[
    str | None,
    typer.Option("--filter", help='Only items that this holds for: brand = "Canon" and not categories has "Ink".'),
]
Registered = Annotated[bool, typer.Option("--register/--no-register", help="Register the new bundle.")]
STAGES = (
    *("ingest", "validate", "prepare", "warm_start", "embed", "teacher"),
    *("tokenizer", "joint", "harden", "finetune", "rank", "evaluate", "gate"),
    "report",
)
OVER_RANKS = {"joint", "finetune"}  # stages that joint.processes spreads over several processes
DATA = "Data"
PROJECT = "Project"
MODELS = "Models"


@app.command(rich_help_panel=PROJECT)
def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"Its name in dvc.yaml: {', '.join(STAGES)}.")],
    params: ParamsFile = PARAMS,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", envvar="UNIGREC_VERBOSE", help="Show every figure of every epoch."),
    ] = False,
) -> None:
    """Run one stage, as `dvc repro` does: read files below artifacts/, write files below artifacts/.

    A training shows a bar on a terminal, and lines in a log.
    """
    from unigrec.base.launcher import run_and_end
    from unigrec.base.process import die_with_parent, keep_quiet

    if name not in STAGES:
        raise UnigrecError(f"no stage {name!r}; there are {', '.join(STAGES)}")
    die_with_parent()
    keep_quiet()
    run_and_end(lambda: _run_stage(name, params, verbose))


def _run_stage(name: str, params_file: Path, verbose: bool) -> None:
    from unigrec.base.launcher import is_rank, run_ranks
    from unigrec.commands import bars
    from unigrec.config.schema import load_params
    from unigrec.pipeline.stages import TRAININGS, run_stage

    params = load_params(params_file)
    if name in OVER_RANKS and params.joint.processes > 1 and not is_rank():
        options = ["--params", str(params_file), *(["--verbose"] if verbose else [])]
        run_ranks(["-m", "unigrec.cli", "stage", name, *options], params.joint.processes)
    elif name in TRAININGS:
        with bars.screen(verbose) as screen:
            run_stage(name, params, screen, verbose)
    else:
        run_stage(name, params)


@app.command(rich_help_panel=PROJECT)
def configure(
    profile: Annotated[str | None, typer.Option(help="Size of model and training: a name in infra/profiles.")] = None,
    data: Annotated[str | None, typer.Option(help="Folder with interactions and items, or 'sample'.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Kind of the data: folder (default), amazon-2014, amazon-2023, movielens.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, as joint.epochs=20; repeatable.")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Change values in params.yaml and keep its comments; without an option, print the present values."""
    from unigrec.config.edit import configure as rewrite
    from unigrec.config.edit import describe

    if profile is None and data is None and source is None and not settings:
        print(describe(params))
        return
    changes = rewrite(params, profile, data, source=source, settings=settings or [])
    print(f"{params}: {len(changes) or 'no'} value{'s' * (len(changes) != 1)} changed")
    for change in changes:
        print(f"  {change}")


@app.command(rich_help_panel=DATA)
def fetch(
    source: Annotated[str, typer.Option(help="amazon-2014, amazon-2023 or movielens.")],
    category: Annotated[str, typer.Option(help="As its site spells it: Beauty, All_Beauty, ml-1m.")],
    to: Annotated[Path, typer.Option(help="The folder to download into; then the value of ingest.path.")],
    base_url: Annotated[str | None, typer.Option(help="A mirror with the layout of the official address.")] = None,
) -> None:
    """Download a public data set from its official address."""
    from unigrec.base.masking import masked
    from unigrec.data.fetch import fetch_source

    files = fetch_source(source, category, to, base_url, report=lambda line: typer.echo(masked(line)))
    typer.echo(f"ready: {', '.join(file.name for file in files)}. Set ingest.source: {source} and ingest.path: {to}")


@app.command(rich_help_panel=DATA)
def look(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that holds the shop's files.")],
    write: Annotated[bool, typer.Option("--write", help="Write the proposal into params.yaml.")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Propose how to read a folder: which file and which column is what. Exit code 2: with --write, if it is unsure."""
    from unigrec.commands.look import look_at
    from unigrec.config.schema import load_params

    print(look_at(folder, load_params(params), params, write))


@app.command(rich_help_panel=DATA)
def snapshot(params: ParamsFile = PARAMS) -> None:
    """Make the delivery in snapshot.incoming the next snapshot of the data; exit code 3 if it is not valid."""
    from unigrec.base.lock import exclusive
    from unigrec.base.process import keep_quiet
    from unigrec.commands.snapshot import take_delivery
    from unigrec.config.schema import load_params

    keep_quiet()
    with exclusive(paths.LOCK):
        print(take_delivery(load_params(params), params).said)


@app.command("warm-start", rich_help_panel=MODELS)
def warm_start(
    model: Annotated[str, typer.Option("--from", help="Alias, version number, or folder of a bundle.")] = "champion",
    cold: Annotated[bool, typer.Option("--cold", help="Start from scratch instead.")] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Let the next training start from a model, so that items keep most of their identifiers."""
    from unigrec.commands import bundles
    from unigrec.config.schema import load_params

    settings = load_params(params)
    print(bundles.cold_start(params) if cold else bundles.warm_start(settings, params, model))


@app.command(rich_help_panel=MODELS)
def gate(
    challenger: Annotated[
        str | None, typer.Option(help="Alias, version number, or folder of a bundle; it is compared with the champion.")
    ] = None,
    champion: Annotated[
        str | None,
        typer.Option(help="The same, for the other model (default: champion); none: there is no other model."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for comparison.json and comparison.md (default: state/gate/...).")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Print the gates' decision on the last run, or compare two bundles on the test users of the prepared data.

    Exit code 0: the model passed. 1: it was refused. 2: no decision was possible.
    """
    from unigrec.commands import promotion
    from unigrec.config.schema import load_params

    if challenger is None:
        if champion is not None or out is not None:
            raise UnigrecError("--champion and --out go with --challenger: name the bundle or version to be judged")
        raise typer.Exit(promotion.print_last_decision())
    raise typer.Exit(promotion.compare(load_params(params), challenger, champion or "champion", out=out))


@app.command(rich_help_panel=MODELS)
def bundle(params: ParamsFile = PARAMS) -> None:
    """Assemble the trained model as a bundle and print its folder, without registering it."""
    from unigrec.commands import bundles
    from unigrec.config.schema import load_params

    typer.echo(bundles.assemble(load_params(params), params))


@app.command(rich_help_panel=MODELS)
def register(
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle (state/bundles/...); by default, one is assembled from the artifacts.")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Register the trained model with its metrics; `challenger` points to it if its gates passed."""
    from unigrec.commands import bundles
    from unigrec.config.schema import load_params

    raise typer.Exit(bundles.register(load_params(params), params, bundle))


@app.command(rich_help_panel=MODELS)
def promote(
    version: Annotated[str | None, typer.Option(help="The model version; without it, the challenger.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Make a version champion if it passes the gates against the champion (`unigrec gate`), or as the first model.

    Exit code 0: it is champion now. 1: the champion stays. 2: no decision was possible.
    """
    from unigrec.base.errors import EXIT_REFUSED
    from unigrec.commands import promotion
    from unigrec.config.schema import load_params

    done = promotion.promote(load_params(params), version)
    stays = f"stays as it is, champion is {f'version {done.champion}' if done.champion else 'nobody'}"
    print(f"version {done.version} {'is champion' if done.champion == done.version else stays}: {done.reason}")
    if done.champion != done.version:
        raise typer.Exit(EXIT_REFUSED)


@app.command(rich_help_panel=MODELS)
def rollback(
    to: Annotated[
        str | None, typer.Option(help="A version that was champion before; by default, the previous champion.")
    ] = None,
    why: Annotated[str, typer.Option(help="The reason, for the audit and the version's tags.")] = "no reason was given",
    params: ParamsFile = PARAMS,
) -> None:
    """Return to the previous champion, at once and without a comparison; a second call changes nothing."""
    from unigrec.commands import promotion
    from unigrec.config.schema import load_params

    done = promotion.rollback(load_params(params), to, why)
    print(f"version {done.champion} {'is champion again' if done.moved else 'stays'}: {done.reason}")


@app.command(rich_help_panel=MODELS)
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
    rank_by: Annotated[RankBy | None, typer.Option(help="What ranks the items; by default, what was best.")] = None,
    diversity: Annotated[
        str | None, typer.Option(metavar="RULE", help='At most so many of a value: "2 per brand", "1 per first code".')
    ] = None,
    new_share: Annotated[
        str | None, typer.Option(metavar="RULE", help='New items: "at least 2 younger than 30 days", or "1 to 3 ...".')
    ] = None,
    boost: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Add to the scores of some: \"0.3: brand = 'Canon'\"; repeatable."),
    ] = None,
    reasons: Annotated[bool, typer.Option("--reasons", help="Say of every item why it is recommended.")] = False,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Print recommended items with titles and scores, by default from the registered champion."""
    from unigrec.commands.recommend import print_recommendations
    from unigrec.config.schema import load_params

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


@app.command(rich_help_panel=MODELS)
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
    from unigrec.config.schema import load_params

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


@app.command(rich_help_panel=MODELS)
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
    from unigrec.config.schema import load_params

    print_similar(
        load_params(params), model, item, k=k, allow=allow or [], deny=deny or [], filter=where, as_json=as_json
    )


@app.command(rich_help_panel=MODELS)
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
    from unigrec.config.schema import load_params

    print_complements(
        load_params(params), model, basket, k=k, allow=allow or [], deny=deny or [], filter=where, as_json=as_json
    )


@app.command(rich_help_panel=MODELS)
def serve(
    model: Annotated[
        str,
        typer.Option(help="Alias, which is watched for another version; or a version number; or folder of a bundle."),
    ] = "champion",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    workers: Annotated[int, typer.Option(min=0, max=256, help="Processes that search; 0: one per core, up to 4.")] = 0,
    params: ParamsFile = PARAMS,
) -> None:
    """Serve recommendations over HTTP, by default of the registered champion, until Ctrl-C (docs/serving.md)."""
    from unigrec.base.process import keep_quiet
    from unigrec.commands.serve import serve as run
    from unigrec.config.schema import load_params

    keep_quiet()
    run(load_params(params), model, host, port, workers=workers)


@app.command(rich_help_panel=MODELS)
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
    from unigrec.config.schema import load_params

    print_audience(load_params(params), model, item, histories, k=k, rank_by=rank_by, as_json=as_json)


@app.command(rich_help_panel=MODELS)
def lookalike(
    seed: Annotated[Path, typer.Option(help="User ids, one per line: the users to find others like.")],
    histories: Annotated[Path, typer.Option(help="Interactions of all users: Parquet, CSV or JSON lines.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many users.")] = 1000,
    model: Model = "champion",
    params: ParamsFile = PARAMS,
) -> None:
    """Print the users who are most like given ones, as CSV; they themselves are left out."""
    from unigrec.commands.audience import print_lookalikes
    from unigrec.config.schema import load_params

    print_lookalikes(load_params(params), model, seed, histories, k)


@app.command("export-features", rich_help_panel=MODELS)
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
    from unigrec.config.schema import load_params

    print(features.export_features(load_params(params), model, out, histories, temperature))


@app.command("add-items", rich_help_panel=MODELS)
def add_items(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The items: Parquet, CSV or JSON lines.")],
    model: Model = "champion",
    registered: Registered = True,
    params: ParamsFile = PARAMS,
) -> None:
    """Add items to a model by their texts, without a training; no published identifier changes."""
    from unigrec.base.process import keep_quiet
    from unigrec.commands import items
    from unigrec.config.schema import load_params

    keep_quiet()
    raise typer.Exit(items.add_items(load_params(params), file, model, registered))


@app.command("remove-items", rich_help_panel=MODELS)
def remove_items(
    items: Annotated[list[str], typer.Argument(metavar="ITEMS", help="Ids, or files with one id per line.")],
    model: Model = "champion",
    registered: Registered = True,
    params: ParamsFile = PARAMS,
) -> None:
    """Take items out of a model, without a training: they are not recommended any more."""
    from unigrec.base.process import keep_quiet
    from unigrec.commands import items as commands
    from unigrec.config.schema import load_params

    keep_quiet()
    raise typer.Exit(commands.remove_items(load_params(params), items, model, registered))


def main() -> None:
    """Entry point: an error that a person can act on is printed without a traceback, and has its own exit code."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    trust_clone()
    try:
        app()
    except UnigrecError as error:
        from unigrec.base.launcher import report

        report(error)
        sys.exit(error.exit_code)
    except OSError as error:  # most checks of a path raise it
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"error: {error.filename}: too long for the name of a file or folder", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    main()
