"""Lists for all users: those of `Bundle.recommend`, whoever computes them and however often a run is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from support.project import PARAMS_FILE
from unigrec.base import files
from unigrec.base.errors import EXIT_BAD_INPUT, BusyError, UnigrecError
from unigrec.base.lock import exclusive
from unigrec.scoring import local
from unigrec.scoring.lists import SCHEMA, Counts
from unigrec.scoring.local import Watcher, read_metadata, score_log
from unigrec.serving.schema import ListRequest


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """The log has five parts."""
    monkeypatch.setattr(local, "ROWS_PER_PART", 50)
    monkeypatch.setattr(local, "USERS_AT_ONCE", 4)
    monkeypatch.setattr(local, "BATCH_ROWS", 64)


def run(job, workers=2, at=lambda progress: None) -> tuple[Counts, list[str]]:
    said: list[str] = []
    return score_log(job, workers, Watcher(said.append, at)), said


def lists_of(path) -> dict[str, list[tuple]]:
    found: dict[str, list[tuple]] = {}
    for row in files.read_table(path).to_pylist():
        assert row["rank"] == len(found.setdefault(row["user_id"], [])) + 1
        found[row["user_id"]].append((row["item_id"], pytest.approx(row["score"], abs=1e-5), row["by_popularity"]))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"k": 3},
        {"k": 12, "exclude_history": True},
        {"k": 2, "rank_by": "fused", "deny": ["P4", "P5"], "filter": "price > 2"},
        {"k": 2, "allow": ["P3", "P4", "P5", "P6"], "diversity": "1 per tags"},
        {"k": 4, "new_share": "at least 2 younger than 3 days", "boost": ['3: brand = "HP"']},
    ],
    ids=lambda options: ", ".join(options),
)
def test_every_user_gets_what_recommend_gives_that_user_alone(job, bundle, histories, options):
    request = ListRequest.parse(**options)
    counts, _ = run(job._replace(request=request))
    expected = {}
    for user, history in histories.items():
        (answer,) = bundle.recommend([history], **dict(request))
        expected[user] = [(item.item_id, item.score, answer.by_popularity) for item in answer.items]
    assert lists_of(job.out) == expected
    assert counts == Counts(
        users=len(histories),
        rows=sum(map(len, expected.values())),
        interactions=sum(map(len, histories.values())),
        unknown=8,
        by_popularity=1,
    )


def test_the_file_says_what_it_is(job, bundle):
    run(job)
    assert pq.read_schema(job.out).remove_metadata() == SCHEMA
    told = read_metadata(job.out)
    assert (told["model"], told["bundle"], told["data"]) == ("version 7", bundle.id, bundle.manifest["data"]["version"])
    assert (told["ranked_by"], '"k": 3' in told["options"]) == ("generative", True)
    assert not job.out.with_name("lists.parquet.parts").exists()


def test_a_run_that_ends_early_is_continued_and_gives_the_same_bytes(job, tmp_path):
    run(job._replace(out=tmp_path / "whole.parquet"))
    ended: list[int] = []

    def stop(progress):
        ended.append(progress.done)
        if len(list((tmp_path / "out/lists.parquet.parts/scored").glob("*.parquet"))) >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, workers=1, at=stop)
    assert not job.out.exists()
    begun: list[int] = []
    _, said = run(job, at=lambda progress: begun.append(progress.done))
    assert len(said) == 1
    assert "continues with 2 of 4 parts" in said[0] or "continues with 1 of 4 parts" in said[0]
    assert begun[0] > 0
    assert job.out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_rest_of_a_run_with_other_options_is_removed_and_a_file_that_is_there_is_kept(job):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, at=stop)
    other = job._replace(request=ListRequest(k=2))
    counts, said = run(other)
    assert "of a run with another options; removed, scoring starts from scratch" in said[0]
    assert counts.rows == 2 * counts.users
    before = job.out.stat().st_mtime_ns
    assert run(other) == (counts, [f"{job.out} is up to date: it was made from the same log, model and options"])
    assert job.out.stat().st_mtime_ns == before
    assert run(job)[0].rows == 3 * counts.users


def test_a_worker_that_is_killed_is_an_error_and_its_part_is_scored_by_the_next_run(job, monkeypatch, tmp_path):
    score_part = local._score_part

    def dying(job, folder, part):
        if part == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from score_part(job, folder, part)

    monkeypatch.setattr(local, "_score_part", dying)
    with pytest.raises(UnigrecError, match="a worker was killed by signal 9; out of memory"):
        run(job)
    scored = sorted(path.name for path in (tmp_path / "out/lists.parquet.parts/scored").iterdir())
    assert scored == ["00000.parquet", "00002.parquet", "00003.parquet"]
    monkeypatch.setattr(local, "_score_part", score_part)
    assert "continues with 1 of 4 parts" in run(job)[1][0]


def test_what_cannot_be_scored_is_an_error_before_anything_is_written(job, tmp_path):
    for change, message in (
        ({"request": ListRequest(k=13)}, "k = 13: expected 1 to 12"),
        ({"request": ListRequest(filter="price >")}, "price >"),
        ({"log": tmp_path / "none.parquet"}, "no such file; name a Parquet"),
        ({"out": tmp_path}, "a folder; name the Parquet file"),
    ):
        with pytest.raises(UnigrecError, match=message):
            run(job._replace(**change))
    assert not job.out.parent.exists()


def test_a_log_that_cannot_be_read_leaves_nothing(job, tmp_path):
    (tmp_path / "text.csv").write_text("user,item\nu,P3\n")
    with pytest.raises(UnigrecError, match="no column 'user_id'"):
        run(job._replace(log=tmp_path / "text.csv"))
    assert list(job.out.parent.iterdir()) == []


def test_two_runs_do_not_write_one_file(job):
    with exclusive(job.out.with_name("lists.parquet.parts") / "lock"), pytest.raises(BusyError):
        run(job)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_loses_and_doubles_no_row(job, tmp_path, bundle):
    run(job._replace(out=tmp_path / "whole.parquet"))
    code = "from unigrec.scoring import local; import unigrec.cli as c, time; local.ROWS_PER_PART = 50; "
    code += "local.USERS_AT_ONCE = 4; local.BATCH_ROWS = 64; p = local._score_part; "
    code += "local._score_part = lambda *a: (time.sleep(0.3), (yield from p(*a)))[1]; c.main()"
    command = [sys.executable, "-c", code, "score", "--histories", str(job.log), "--out", str(job.out), "-k", "3"]
    command += ["--model", str(bundle.folder), "--params", str(PARAMS_FILE), "--workers", "2"]
    folder = job.out.with_name("lists.parquet.parts")
    for parts in range(5):  # of five: the run is killed once it has planned, and once so many parts are there
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 120
        while not (folder / "plan.json").is_file() or len(list(folder.glob("scored/[0-9]*.parquet"))) < parts:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, f"{parts} parts were not there in time"
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not job.out.exists()
    last = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert last.returncode == 0, last.stdout
    assert files.read_table(job.out).equals(files.read_table(tmp_path / "whole.parquet"))


def test_the_command_refuses_bad_input_in_a_line(job, bundle, tmp_path):
    from support.command_line import invoke

    given = ["score", "--out", str(tmp_path / "o.parquet"), "--model", str(bundle.folder), "--params", str(PARAMS_FILE)]
    code, output = invoke(*given, "--histories", str(tmp_path / "none"))
    assert (code, "no such file" in output) == (EXIT_BAD_INPUT, True)
    code, output = invoke(*given, "--histories", str(job.log), "--diversity", "two")
    assert (code, "diversity: 'two' is not understood" in output) == (EXIT_BAD_INPUT, True)
    code, output = invoke(*given, "--histories", str(job.log), "-k", "2", "--workers", "1", "--deny", "P3")
    assert (code, "61 users, 122 rows" in output, "1 users without" in output) == (0, True, True), output
