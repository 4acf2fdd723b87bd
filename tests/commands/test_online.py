"""`unigrec online-report`: from a log and interactions to a report, which the gate asks for; and with a service."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.command_line import invoke
from support.impressions import START, impression, write_log
from support.living import wait_for
from support.project import PARAMS_FILE
from support.running_service import Running, ask, make_registry, running
from support.tiny_model import ITEMS, make_bundle
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_OK, EXIT_REFUSED
from unigrec.commands.online import window_of
from unigrec.config.edit import configure
from unigrec.pipeline import plots
from unigrec.promotion import judge
from unigrec.serving.bundle import Bundle

GOOD, OTHER = 0, 1  # seeds: the data favour the first
REPORT = ("online-report", "--impressions", "log", "--interactions", "bought.csv")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(PARAMS_FILE, tmp_path / "params.yaml")
    monkeypatch.setattr(judge, "probe", lambda *_, limit: [1.0])
    return tmp_path


def write_experiment(old: float, new: float, bundles: tuple[str, str] = ("a", "b"), users: int = 400) -> None:
    """A log of so many users per version, of whom these shares took what they were shown."""
    rows, bought = [], ["user_id,item_id,timestamp"]
    for variant, rate, bundle in (("champion", old, bundles[0]), ("challenger", new, bundles[1])):
        for number in range(users):
            rows.append(impression(f"{variant} {number}", ["P3"], variant=variant, bundle=bundle))
            item = "P3" if number < rate * users else "P4"
            bought.append(f"{variant} {number},{item},{START + 3600}")
    write_log(Path("log"), rows)
    Path("bought.csv").write_text("\n".join(bought), encoding="utf-8")


def test_a_report_is_printed_and_written(project):
    write_experiment(0.10, 0.20)
    code, output = invoke(*REPORT, "--window", "2h")
    assert code == EXIT_OK, output
    assert "# Experiment 2-vs-1: better" in output
    folder = paths.ONLINE / "2-vs-1"
    assert str(folder) in output
    report = files.read_json(folder / paths.ONLINE_FILE)
    assert (report["finding"], report["users"]) == ("better", {"champion": 400, "challenger": 400})
    assert (folder / paths.ONLINE_PAGE).read_text().startswith("# Experiment 2-vs-1: better")
    assert (folder / paths.ONLINE_PICTURE).read_bytes().startswith(b"\x89PNG")
    assert report["window_days"] == 2 / 24
    assert invoke(*REPORT, "--out", "elsewhere")[0] == EXIT_OK
    assert files.read_json(Path("elsewhere") / paths.ONLINE_FILE)["window_days"] == 7.0


def test_only_the_events_that_the_evaluation_is_about_are_hits(project, monkeypatch):
    monkeypatch.setattr(plots, "experiment", lambda *_: None)
    settings = ("ingest.source=folder", "ingest.events={view: 1.0, buy: 1.0}", "prepare.evaluation_event=buy")
    configure(Path("params.yaml"), settings=settings)
    write_experiment(0.2, 0.2)
    lines = Path("bought.csv").read_text().split("\n")
    kinds = ["event", *("view" if "champion" in line else "buy" for line in lines[1:])]
    Path("bought.csv").write_text("\n".join(f"{line},{kind}" for line, kind in zip(lines, kinds, strict=True)))
    assert invoke(*REPORT)[0] == EXIT_OK
    found = files.read_json(paths.ONLINE / "2-vs-1" / paths.ONLINE_FILE)["by_user"]
    assert (found["champion"]["hits"], found["challenger"]["hits"]) == (0.0, 80.0)


@pytest.mark.parametrize(("text", "seconds"), [("7d", 604_800), ("12h", 43_200), ("0.5d", 43_200), (" 1 d ", 86_400)])
def test_windows(text, seconds):
    assert window_of(text) == seconds


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--window", "7", "expected days or hours"),
        ("--window", "0d", "expected days or hours"),
        ("--experiment", "3-vs-1", "no experiment '3-vs-1'"),
        ("--impressions", "none", "no such folder"),
        ("--interactions", "none.csv", "no such file"),
    ],
)
def test_bad_input(project, option, value, said):
    write_experiment(0.1, 0.1, users=2)
    code, output = invoke(*REPORT, option, value)
    assert (code, said in " ".join(output.split())) == (2, True), output


def test_the_gate_asks_for_a_report_of_the_two_models(project, monkeypatch):
    good, other = make_bundle(GOOD), make_bundle(OTHER)
    asked = ("gate", "--challenger", str(good), "--champion", str(other), "--out", "gate")
    configure(Path("params.yaml"), settings=["promotion.max_online_p=0.05"])

    def decided() -> tuple[int, str, str]:
        code, _ = invoke(*asked)
        found = files.read_json(Path("gate/comparison.json"))
        return code, found["outcome"], next(gate["reason"] for gate in found["gates"] if gate["name"] == "online")

    code, outcome, reason = decided()
    assert (code, outcome) == (EXIT_REFUSED, "keep")
    assert "there is no report of an experiment with these two models" in reason
    ids = (Bundle.load(other).id, Bundle.load(good).id)
    monkeypatch.setattr(plots, "experiment", lambda *_: None)
    write_experiment(0.10, 0.20, bundles=ids, users=200)
    assert invoke(*REPORT)[0] == EXIT_OK
    path = paths.ONLINE / "2-vs-1" / paths.ONLINE_FILE
    report = files.read_json(path)
    later = {"made": "9999", "champion": {"version": "1", "bundle": "another"}}
    files.write_json(paths.ONLINE / "another" / paths.ONLINE_FILE, report | later)
    assert decided()[:2] == (EXIT_OK, "promote")
    files.write_text(path, "{")
    assert invoke(*asked)[0] == 2


# --- with a real service ---------------------------------------------------------------------------------------------

SHARE, VISITORS, DAY = 0.4, 1000, 86_400
AT_FIRST = 0.6  # visitors who want what version 1 recommends first; the others, what version 2 does


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_simulated_visitors_of_a_real_experiment(tmp_path, empty_store, monkeypatch):
    """Three of five visitors want what version 1 recommends first, the others what version 2 does; half of them buy."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    project = make_registry(tmp_path, empty_store, seeds=[0, 1])
    monkeypatch.chdir(project)
    bundles = [Bundle.load(project / f"stored/{number}/artifacts/bundle") for number in (1, 2)]
    chance = np.random.default_rng(0)
    ids = bundles[0].item_ids
    histories = [[ids[item] for item in chance.integers(0, ITEMS, 3)] for _ in range(VISITORS)]
    firsts = [[answer.items[0].item_id for answer in bundle.recommend(histories, k=1)] for bundle in bundles]
    wanted = np.where(chance.random(VISITORS) < AT_FIRST, *firsts).tolist()
    shown: dict[str, int] = {}
    options = ("--challenger", "2", "--share", str(SHARE), "--workers", "1", "--impressions", "log")
    with running(project, *options) as service:
        wait_for(lambda: service.ready()["challenger"]["running"], 120)
        visit(service, histories, shown)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
    takes = chance.random(VISITORS) < 0.5
    now = int(time.time())
    bought = {"user_id": [f"visitor {number}" for number in np.flatnonzero(takes)]}
    bought["item_id"] = [wanted[number] for number in np.flatnonzero(takes)]
    bought["timestamp"] = (now + chance.integers(1, 6 * DAY, int(takes.sum()))).tolist()
    pq.write_table(pa.table(bought), "bought.parquet")
    code, output = invoke("online-report", "--impressions", "log", "--interactions", "bought.parquet")
    assert code == EXIT_OK, output
    report = files.read_json(paths.ONLINE / "2-vs-1" / paths.ONLINE_FILE)
    assert sum(shown.values()) == report["impressions"] == VISITORS + len(range(0, VISITORS, 3))
    assert sum(report["users"].values()) == VISITORS
    assert report["by_impression"]["challenger"]["shown"] == shown["2"]
    assert (report["users_of_both"], report["split"]["is_mismatch"]) == (0, False)
    assert [report[name]["bundle"] for name in ("champion", "challenger")] == [bundle.id for bundle in bundles]
    rates = report["by_user"]["champion"]["rate"], report["by_user"]["challenger"]["rate"]
    assert rates[0] > 0.5 * AT_FIRST - 0.1
    assert rates[1] < rates[0] - 0.02
    assert report["finding"] == "worse"


def visit(service: Running, histories: list[list[str]], shown: dict[str, int]) -> None:
    """Every visitor asks once, and every third one again; count how often which version answered."""
    import http.client

    lock = threading.Lock()

    def ask_for(numbers: range) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        for number in numbers:
            body = {"histories": [histories[number]], "k": 2, "user_id": f"visitor {number}"}
            for _ in range(2 if number % 3 == 0 else 1):
                status, headers, _ = ask(connection, "POST", "/v1/recommend", body)
                assert status == 200
                with lock:
                    version = headers["x-unigrec-version"]
                    shown[version] = shown.get(version, 0) + 1

    threads = [threading.Thread(target=ask_for, args=(range(first, VISITORS, 4),)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
