"""The log of impressions: files by size and time, whole or not there, and what happens when they cannot be written."""

from __future__ import annotations

import json
import shutil
import time

import pyarrow.parquet as pq
import pytest

from support.living import wait_for
from unigrec.base.errors import UnigrecError
from unigrec.service import impressions as module
from unigrec.service.impressions import Impressions, Shown
from unigrec.service.metrics import Metrics

BODY = json.dumps({"items": [{"item_id": f"P{place}", "title": "t"} for place in range(10)]}).encode()


def shown(number: int, body: bytes = BODY) -> Shown:
    user = f"user {number}"
    return Shown(
        1e9 + number, f"r{number}", user, "2-vs-1", 0.1, "split", "champion", "1", "b", kind="similar", k=10, body=body
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def opened(tmp_path, metrics):
    """Makes a log, by default one that writes only at its end."""
    made = []

    def make(seconds: float = 60.0, megabytes: float = 16.0) -> Impressions:
        made.append(Impressions(tmp_path / "log", seconds, megabytes, metrics))
        return made[-1]

    yield make
    for log in made:
        log.close()


def users(folder) -> list[str]:
    return pq.read_table(folder, columns=["user_id"])["user_id"].to_pylist()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_what_is_left_at_the_end_is_written_and_all_may_be_read(opened, tmp_path, metrics):
    log = opened()
    for number in range(100):
        assert log.add(shown(number))
    log.close()
    (path,) = (tmp_path / "log").iterdir()
    assert path.name.startswith("impressions-20010909T014640")
    assert path.stat().st_mode & 0o077 == 0
    (row, *_) = pq.read_table(path).to_pylist()
    assert (row["time"].timestamp(), row["items"][0], row["share"]) == (1e9, "P0", 0.1)
    assert users(path) == [f"user {number}" for number in range(100)]
    assert value(metrics, "unigrec_impressions_total") == 100


def test_a_file_is_written_when_it_is_large_enough(opened, tmp_path):
    log = opened(megabytes=0.01)
    for number in range(20):  # a row takes 1.8 kB: six of them are a file
        log.add(shown(number))
        time.sleep(0.002)
    wait_for(lambda: len(list((tmp_path / "log").glob("*.parquet"))) == 3, 10)
    log.close()
    assert sorted(users(tmp_path / "log")) == sorted(f"user {number}" for number in range(20))


def test_a_file_is_written_when_its_time_has_come(opened, tmp_path):
    log = opened(seconds=0.1)
    log.add(shown(0))
    wait_for(lambda: list((tmp_path / "log").glob("*.parquet")), 10)
    log.add(shown(1))
    wait_for(lambda: len(list((tmp_path / "log").glob("*.parquet"))) == 2, 10)


def test_a_reader_never_sees_half_a_file(opened, tmp_path, monkeypatch):
    seen = []

    def write_table(table, path, **options):
        path.write_bytes(b"half")
        seen.append([name.name for name in (tmp_path / "log").glob("impressions-*")])
        write(table, path, **options)

    write = pq.write_table
    monkeypatch.setattr(pq, "write_table", write_table)
    log = opened()
    log.add(shown(0))
    log.close()
    assert seen == [[]]
    assert users(tmp_path / "log") == ["user 0"]


def test_a_full_disk_loses_nothing_while_there_is_room_in_memory_and_is_counted(opened, tmp_path, metrics, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        log = opened(seconds=0.05, megabytes=0.01)
        log.add(shown(0))
        wait_for(lambda: value(metrics, "unigrec_impressions_write_failures_total") >= 2, 10)
        taken = [log.add(shown(number)) for number in range(1, 60)]
        assert taken.index(False) > 10
        assert not any(taken[taken.index(False) :][-5:])
        lost = value(metrics, "unigrec_impressions_lost_total", reason="no room")
        assert lost == taken.count(False)
    wait_for(lambda: list((tmp_path / "log").glob("*.parquet")), 10)
    log.close()
    assert len(users(tmp_path / "log")) == 60 - lost
    assert log.add(shown(99))  # there is room again


def test_a_folder_that_is_away_for_a_moment_loses_nothing(opened, tmp_path, metrics, monkeypatch):
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.05)
    log = opened(seconds=0.05)
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").write_text("a file in its place")
    log.add(shown(0))
    wait_for(lambda: value(metrics, "unigrec_impressions_write_failures_total") >= 2, 10)
    (tmp_path / "log").unlink()
    wait_for(lambda: list((tmp_path / "log").glob("*.parquet")), 10)
    assert users(tmp_path / "log") == ["user 0"]


def test_what_cannot_be_written_at_the_end_is_counted(opened, metrics, monkeypatch, caplog):
    log = opened()
    monkeypatch.setattr(pq, "write_table", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    log.add(shown(0))
    log.close()
    assert value(metrics, "unigrec_impressions_lost_total", reason="end") == 1


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path, metrics):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnigrecError, match="no folder for impressions"):
        Impressions(tmp_path / "file/log", 1.0, 1.0, metrics)
