"""The command line. Heavy imports happen inside the commands, so that `unigrec --help` answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unigrec.base import paths
from unigrec.base.errors import EXIT_NO_READER, EXIT_OK, UnigrecError
from unigrec.base.git import PARAMS, trust_clone
from unigrec.base.process import use_huge_pages
from unigrec.cli import answers
from unigrec.cli.options import DATA, MODELS, PROJECT, ParamsFile

if TYPE_CHECKING:
    from unigrec.base.hosts import Hosts

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, check, gate, register and use a generative recommender. Run inside the project's folder.",
)

STDOUT = 1
STAGES = (
    *("ingest", "validate", "prepare", "warm_start", "embed", "teacher"),
    *("tokenizer", "joint", "harden", "finetune", "rank", "evaluate", "gate"),
    "report",
)
# Stages that run as several ranks, and the params that say as how many per host.
OVER_RANKS = {"teacher": "teacher.processes", "joint": "joint.processes", "finetune": "joint.processes"}


@app.command(rich_help_panel=PROJECT)
def stage(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"Its name in dvc.yaml: {', '.join(STAGES)}.")],
    params: ParamsFile = PARAMS,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", envvar="UNIGREC_VERBOSE", help="Show every figure of every epoch."),
    ] = False,
    hosts: Annotated[
        int, typer.Option(min=1, envvar="UNIGREC_HOSTS", help=f"Hosts that run it together: {', '.join(OVER_RANKS)}.")
    ] = 1,
    host_rank: Annotated[
        int | None, typer.Option(envvar="UNIGREC_HOST_RANK", help="Number of this host, from 0; host 0 shows progress.")
    ] = None,
    rendezvous: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS:PORT", envvar="UNIGREC_RENDEZVOUS", help="Of host 0, where the hosts meet."),
    ] = None,
    join_seconds: Annotated[
        float, typer.Option(min=1.0, envvar="UNIGREC_JOIN_SECONDS", help="Time to wait for the other hosts.")
    ] = 300.0,
) -> None:
    """Run one stage, as `dvc repro` does: read files below artifacts/, write files below artifacts/.

    A training shows a bar on a terminal, and lines in a log.
    """
    from unigrec.base.hosts import read_hosts
    from unigrec.base.launcher import is_rank, run_and_end
    from unigrec.base.process import die_with_parent, keep_quiet

    if name not in STAGES:
        raise UnigrecError(f"no stage {name!r}; there are {', '.join(STAGES)}")
    together = None if is_rank() else read_hosts(hosts, host_rank, rendezvous, join_seconds)
    if together and name not in OVER_RANKS:
        raise UnigrecError(f"stage {name} runs on one host; --hosts is for {', '.join(OVER_RANKS)}")
    die_with_parent()
    keep_quiet()
    run_and_end(lambda: _run_stage(name, params, verbose, together))


def _run_stage(name: str, params_file: Path, verbose: bool, hosts: Hosts | None) -> None:
    from unigrec.base.launcher import is_rank, run_on_hosts, run_ranks
    from unigrec.commands import bars
    from unigrec.config.read import load_params
    from unigrec.pipeline.running import TRAININGS, run_stage
    from unigrec.pipeline.stage_key import stage_inputs

    params = load_params(params_file)
    values = params.model_dump(mode="json", by_alias=True)
    param = OVER_RANKS.get(name, "")
    section, _, key = param.partition(".")
    processes = values[section][key] if param else 1
    if (processes > 1 or hosts) and not is_rank():
        if params.threads:  # of each rank; else the launcher divides the cores
            os.environ.setdefault("OMP_NUM_THREADS", str(params.threads))
        options = ["--params", str(params_file), *(["--verbose"] if verbose else [])]
        command = ["-m", "unigrec.cli", "stage", name, *options]
        if hosts:
            inputs = stage_inputs(name, values)
            run_on_hosts(command, processes, param, hosts, inputs, shared=paths.CHECKPOINTS)
        else:
            run_ranks(command, processes, param)
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
        str | None,
        typer.Option(help="Kind of the data: folder (default with --data), sql, amazon-2014, amazon-2023, movielens."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One value, as joint.epochs=20; repeatable.")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Change values in params.yaml and keep its comments; without an option, print profile, data and all profiles."""
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
    from unigrec.config.read import load_params

    print(look_at(folder, load_params(params), params, write))


@app.command(rich_help_panel=DATA)
def snapshot(params: ParamsFile = PARAMS) -> None:
    """Make the delivery in snapshot.incoming the next snapshot of the data; exit code 3 if it is not valid."""
    from unigrec.base.lock import exclusive
    from unigrec.base.process import keep_quiet
    from unigrec.commands.snapshot import take_delivery
    from unigrec.config.read import load_params

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
    from unigrec.config.read import load_params

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
    from unigrec.config.read import load_params

    if challenger is None:
        if champion is not None or out is not None:
            raise UnigrecError("--champion and --out go with --challenger: name the bundle or version to be judged")
        raise typer.Exit(promotion.print_last_decision())
    raise typer.Exit(promotion.compare(load_params(params), challenger, champion or "champion", out=out))


@app.command("online-report", rich_help_panel=MODELS)
def online_report(
    impressions: Annotated[Path, typer.Option(help="Folder of the log that `serve --impressions` wrote.")],
    interactions: Annotated[Path, typer.Option(help="Interactions since then: Parquet, CSV or JSON lines.")],
    window: Annotated[str, typer.Option(help="Time after an impression in which a hit counts: 7d, 12h.")] = "7d",
    out: Annotated[Path | None, typer.Option(help="Folder (default: state/online/..., which the gate reads).")] = None,
    experiment: Annotated[str | None, typer.Option(help="Which of the log, as 2-vs-1; by default, the last.")] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Print what the users of champion and challenger took of what they were shown, and whether they differ."""
    from unigrec.commands.online import online_report as report
    from unigrec.config.read import load_params

    report(load_params(params), impressions, interactions, window, out=out, experiment=experiment)


@app.command(rich_help_panel=MODELS)
def bundle(params: ParamsFile = PARAMS) -> None:
    """Assemble the trained model as a bundle and print its folder, without registering it."""
    from unigrec.commands import bundles
    from unigrec.config.read import load_params

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
    from unigrec.config.read import load_params

    raise typer.Exit(bundles.register(load_params(params), params, bundle))


@app.command(rich_help_panel=MODELS)
def promote(
    version: Annotated[str | None, typer.Option(help="The model version; without it, the challenger.")] = None,
    unless_rolled_back: Annotated[
        bool, typer.Option("--unless-rolled-back", help="Leave a version as it is that was rolled back, though named.")
    ] = False,
    params: ParamsFile = PARAMS,
) -> None:
    """Make a version champion if it passes the gates against the champion (`unigrec gate`), or as the first model.

    Exit code 0: it is champion. 1: the champion stays. 2: no decision, or the gates of its own run refused it.
    """
    from unigrec.base.errors import EXIT_REFUSED
    from unigrec.commands import promotion
    from unigrec.config.read import load_params

    done = promotion.promote(load_params(params), version, unless_rolled_back)
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
    from unigrec.config.read import load_params

    done = promotion.rollback(load_params(params), to, why)
    print(f"version {done.champion} {'is champion again' if done.moved else 'stays'}: {done.reason}")


app.add_typer(answers.app)


def main() -> None:
    """Entry point: an error that a person can act on is printed without a traceback; every error has an exit code."""
    if sys.argv[1:2] == ["stage"]:
        use_huge_pages()
    os.environ.setdefault("DO_NOT_TRACK", "1")
    trust_clone()
    try:
        app()
        code: str | int | None = EXIT_OK
    except SystemExit as ended:  # Typer ends with 1 if the reader has gone, which means here that a gate refused
        code = EXIT_NO_READER if isinstance(ended.__context__, BrokenPipeError) else ended.code
    except Exception as error:
        from unigrec.base.launcher import report

        code = report(error)
    sys.exit(code if _all_written() else code or EXIT_NO_READER)


def _all_written() -> bool:
    """Whether somebody read what was printed. If not, the rest is dropped: Python would end with a code of its own."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        return False
    return True
