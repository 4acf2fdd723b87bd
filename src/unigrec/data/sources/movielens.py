"""MovieLens (GroupLens), unpacked: `ratings.dat` and `movies.dat` (ml-1m, ml-10m), `ratings.csv` and `movies.csv`
(ml-20m and later), or `u.data` and `u.item` (ml-100k).

Harper & Konstan, ACM TiiS 2015. The old files separate fields with `::`, tabs or bars, and have no header.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from unigrec.base.errors import UnigrecError
from unigrec.data.sources.files import read_lines, readable, refuse_empty

RATING_TYPES = {"userId": pa.string(), "movieId": pa.string(), "rating": pa.float64(), "timestamp": pa.int64()}
MOVIE_TYPES = {"movieId": pa.string(), "title": pa.string(), "genres": pa.string()}
NO_GENRES = "(no genres listed)"
FILES = (("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"), ("u.data", "u.item"))
GENRES_100K = (  # of the last 19 fields of u.item, each 0 or 1; the first one is "unknown"
    *("", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def read_movielens(folder: Path, min_rating: float) -> tuple[pa.Table, pa.Table, list[Path]]:
    """Read an unpacked MovieLens release; a rating of at least `min_rating` is an interaction.

    Returns:
        interactions (user_id, item_id, timestamp in unix seconds), items (item_id, title, categories), the files read.

    Raises:
        UnigrecError: the files are missing, damaged or of another format.
    """
    found = [pair for pair in FILES if all((folder / name).is_file() for name in pair)]
    if not found:
        inside = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
        raise UnigrecError(
            f"{folder}: holds neither ratings.dat and movies.dat nor ratings.csv and movies.csv nor u.data and u.item "
            f"(found: {inside}); give the unpacked folder, as `unigrec fetch --source movielens --category ml-1m --to "
            f"{folder}` makes it"
        )
    ratings_file, movies_file = (folder / name for name in found[0])
    if ratings_file.suffix == ".dat":
        ratings, movies = _ratings_dat(ratings_file), _movies_dat(movies_file)
    elif ratings_file.suffix == ".csv":
        ratings, movies = _csv(ratings_file, RATING_TYPES), _csv(movies_file, MOVIE_TYPES)
    else:
        ratings, movies = _ratings_100k(ratings_file), _movies_100k(movies_file)

    ratings = ratings.filter(pc.greater_equal(ratings["rating"], min_rating))
    if ratings.num_rows == 0:
        raise UnigrecError(f"{ratings_file}: no rating of at least {min_rating}; lower ingest.min_rating")
    interactions = ratings.select(["userId", "movieId", "timestamp"]).rename_columns(
        ["user_id", "item_id", "timestamp"]
    )
    genres = pc.replace_substring(movies["genres"], "|", " | ")
    genres = pc.if_else(pc.equal(genres, NO_GENRES), pa.scalar(None, pa.string()), genres)
    items = pa.table({"item_id": movies["movieId"], "title": movies["title"], "categories": genres})
    return interactions, items, [ratings_file, movies_file]


def _csv(file: Path, types: dict[str, pa.DataType]) -> pa.Table:
    refuse_empty(file)
    convert = pcsv.ConvertOptions(
        column_types=types, include_columns=list(types), null_values=[""], strings_can_be_null=True
    )
    with readable(file, "CSV of MovieLens"):
        try:
            return pcsv.read_csv(file, convert_options=convert)
        except KeyError as error:  # a column of `types` that the header lacks
            raise UnigrecError(f"{file}: {error.args[0]}; expected the header {','.join(types)}") from error


def _ratings_dat(file: Path) -> pa.Table:
    """Read `UserID::MovieID::Rating::Timestamp`. Split at every colon, every second field is empty."""
    refuse_empty(file)
    names = [name for pair in zip(RATING_TYPES, ("_1", "_2", "_3", ""), strict=True) for name in pair if name]
    with readable(file, "UserID::MovieID::Rating::Timestamp"):
        return pcsv.read_csv(
            file,
            read_options=pcsv.ReadOptions(column_names=names),
            parse_options=pcsv.ParseOptions(delimiter=":", quote_char=False),
            convert_options=pcsv.ConvertOptions(column_types=RATING_TYPES, include_columns=list(RATING_TYPES)),
        )


def _movies_dat(file: Path) -> pa.Table:
    """Read `MovieID::Title::Genres`; a title may hold single colons. ml-1m is in Latin-1, ml-10m in UTF-8."""
    rows = []
    for number, line in read_lines(file):
        fields = _decode(line).rstrip("\r\n").split("::")
        if len(fields) != len(MOVIE_TYPES):
            raise UnigrecError(f"{file}, line {number}: {line[:80]!r}; expected MovieID::Title::Genres")
        rows.append(dict(zip(MOVIE_TYPES, fields, strict=True)))
    return pa.Table.from_pylist(rows, pa.schema(list(MOVIE_TYPES.items())))


def _ratings_100k(file: Path) -> pa.Table:
    """Read user, movie, rating and time, separated by tabs."""
    refuse_empty(file)
    with readable(file, "user, movie, rating and time, separated by tabs"):
        return pcsv.read_csv(
            file,
            read_options=pcsv.ReadOptions(column_names=list(RATING_TYPES)),
            parse_options=pcsv.ParseOptions(delimiter="\t", quote_char=False),
            convert_options=pcsv.ConvertOptions(column_types=RATING_TYPES),
        )


def _movies_100k(file: Path) -> pa.Table:
    """Read `id|title|date|video date|address|` and a 0 or 1 per genre; in Latin-1. Some copies lack late genres."""
    rows = []
    for number, line in read_lines(file):
        fields = _decode(line).rstrip("\r\n").split("|")
        if len(fields) < 5:
            raise UnigrecError(
                f"{file}, line {number}: {line[:80]!r}; expected id|title|date|video date|address|genres"
            )
        genres = [name for name, flag in zip(GENRES_100K, fields[5:], strict=False) if flag == "1" and name]
        rows.append({"movieId": fields[0], "title": fields[1], "genres": "|".join(genres) or NO_GENRES})
    return pa.Table.from_pylist(rows, pa.schema(list(MOVIE_TYPES.items())))


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")
