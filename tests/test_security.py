"""Planted secrets show up nowhere, nothing that a run leaves is a pickle, and servers listen on this machine alone."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import pickle
import pickletools
import shutil
import sqlite3
import subprocess
import sys
import threading
import traceback
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import torch
import yaml

from support.project import PARAMS_FILE, ROOT
from support.tiny_model import make_bundle
from unigrec.base.errors import EXIT_OK, EXIT_REFUSED, UnigrecError
from unigrec.base.launcher import report
from unigrec.config.read import parse_params
from unigrec.config.schema import RegisterParams
from unigrec.pipeline.summary import summarise
from unigrec.registry.versions import register

SECRET = "pl4nted-secret"
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:  # set and removed, so that what the code sets is removed again
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_params_with_a_password_are_refused_and_it_is_not_repeated():
    raw = yaml.safe_load(PARAMS_FILE.read_text())
    raw["register"] |= {"tracking_uri": f"http://joe:{SECRET}@host", f"http://joe:{SECRET}@host": 1}
    with pytest.raises(UnigrecError, match=r"register.tracking_uri.*MLFLOW_TRACKING_PASSWORD") as caught:
        parse_params(raw)
    assert SECRET not in str(caught.value)


class Refuses(http.server.BaseHTTPRequestHandler):
    """Answers 401 to everything, and repeats the request's headers, as a careless proxy might."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(f"no: {self.headers}".encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing_server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def register_at(uri: str) -> UnigrecError:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    params = RegisterParams(tracking_uri="sqlite:///unused.db", experiment="e", model_name="m")
    with pytest.raises(UnigrecError) as caught:
        register(make_bundle(), params)
    return caught.value


def test_a_wrong_password_is_named_as_such_and_not_shown(refusing_server, capfd):
    error = register_at(f"http://joe:{SECRET}@{refusing_server}")
    report(error)
    assert "MLFLOW_TRACKING_PASSWORD" in str(error)
    assert refusing_server in str(error)
    shown = "".join(capfd.readouterr()) + str(error)
    assert SECRET not in shown
    assert os.environ["MLFLOW_TRACKING_URI"] == f"http://{refusing_server}"


@pytest.mark.parametrize("uri", ["http://joe:{}@127.0.0.1:9", "mysql+none://joe:{}@127.0.0.1:9/db", "http://j:{}/a@h"])
def test_an_address_that_does_not_work_is_shown_without_its_password(uri, capfd, tmp_path):
    error = register_at(uri.format(SECRET))
    printed = "".join(traceback.format_exception(error))
    assert "does not answer or refuses" in str(error)
    assert SECRET not in printed + "".join(capfd.readouterr())
    assert not containing(tmp_path, SECRET)


def test_the_closing_report_shows_no_password():
    make_bundle()
    address = f"postgresql://joe:{SECRET}@host/db"
    assert summarise("m version 1", [], "", {}, address).tracking_uri == "postgresql://***@host/db"


def containing(folder: Path, text: str) -> list[str]:
    """Files below a folder that hold the text, in the archives among them too."""
    needle = text.encode()
    return [name for name, content in contents(folder) if needle in content]


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every file, every member of an archive and every value of bytes in an SQLite database."""
    databases = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(path.relative_to(folder)), path.read_bytes()
        yield name, content
        if content.startswith(b"SQLite format 3"):
            databases.append(path)
        elif zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                yield from ((f"{name}:{member}", archive.read(member)) for member in archive.namelist())
    for path in databases:  # last: opening one tidies up files beside it
        with contextlib.closing(sqlite3.connect(path)) as database:
            for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                for row in database.execute(f'select * from "{table}"'):
                    yield from (
                        (f"{path.relative_to(folder)}:{table}", value) for value in row if isinstance(value, bytes)
                    )


# --- pickles ---------------------------------------------------------------------------------------------------------


def is_pickle(content: bytes) -> bool:
    """Whether the bytes, from the first on, are a pickle's program that leaves one value at its end.

    A safetensors file may read as one by chance: its first byte, of the header's length, is X (a text begins, whose
    length is the next four), and the character after the text is a dot (the end).
    """
    if is_safetensors(content):
        return False
    try:
        pickletools.dis(io.BytesIO(content), out=io.StringIO())
    except Exception:  # of many kinds, for bytes that are something else
        return False
    return True


def is_safetensors(content: bytes) -> bool:
    """Whether the bytes are such a file, to the last one."""
    try:
        safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return False
    return True


def pickles(folder: Path) -> list[str]:
    return [name for name, content in contents(folder) if is_pickle(content)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_search_finds_pickles(tmp_path, protocol):
    (tmp_path / "plain").write_bytes(pickle.dumps({"a": [1.5, "b"]}, protocol) + b"and more")
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights")
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as database:
        database.execute("create table t (a, b)")
        database.execute("insert into t values ('x', ?)", [pickle.dumps([1], protocol)])
        database.commit()
    (tmp_path / "fine.json").write_text('{"a": [1.5, "b"]}')
    assert sorted(pickles(tmp_path)) == ["db:t", "plain", "weights:weights/data.pkl"]


def test_a_safetensors_file_is_none_even_where_its_first_bytes_look_like_one():
    header = json.dumps({"a" * 14 + ".b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).ljust(0x1358)
    content = len(header).to_bytes(8, "little") + header.encode() + b"1"
    assert is_safetensors(content)
    assert not is_pickle(content)
    assert is_pickle(content[:-1])


def test_artifacts_and_bundle_hold_no_pickle(tmp_path):
    make_bundle()
    assert len(list(contents(tmp_path))) > 30
    assert pickles(tmp_path) == []


TINY = {
    "ingest": {"sample": {"users": 300, "items": 120, "interactions": 3600}},
    "teacher": {"epochs": 1, "history": 10},
    "tokenizer": {"epochs": 2, "codebook_size": 32, "hidden": [16]},
    "joint": {"epochs": 1, "history": 5, "validation_users": 50},
    "finetune": {"epochs": 1},
    "evaluate": {"bootstrap_resamples": 100},
}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # thirteen stages, each a process of its own
def test_a_whole_run_leaves_no_pickle_and_no_secret(tmp_path):
    """The project's own graph, on little data, with secrets in its environment."""
    raw = yaml.safe_load(PARAMS_FILE.read_text())
    for section, changes in TINY.items():
        raw[section] |= changes
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for name in ("src", "infra"):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))},
        **dict.fromkeys(("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"), SECRET),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
    }
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "flows.retrain"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (EXIT_OK, EXIT_REFUSED), done.stdout + done.stderr
    for name in ("src", "infra"):
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / ".dvc/tmp")  # DVC's own notes on files, which nothing of ours reads
    assert "Registered" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert pickles(tmp_path) == []
    assert containing(tmp_path, SECRET) == []
