"""Options that several commands have, and the panels of `unigrec --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unigrec.core.retrieval.rank_by import RankBy

DATA = "Data"
PROJECT = "Project"
MODELS = "Models"
ANSWERS = "Answers"

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
RankedBy = Annotated[RankBy | None, typer.Option("--rank-by", help="What ranks the items; by default, what was best.")]
Diverse = Annotated[
    str | None,
    typer.Option("--diversity", metavar="RULE", help='At most so many of a value: "2 per brand", "1 per first code".'),
]
NewOnes = Annotated[
    str | None,
    typer.Option("--new-share", metavar="RULE", help='New items: "at least 2 younger than 30 days", or "1 to 3 ...".'),
]
Boosts = Annotated[
    list[str] | None,
    typer.Option("--boost", metavar="RULE", help="Add to the scores of some: \"0.3: brand = 'Canon'\"; repeatable."),
]
