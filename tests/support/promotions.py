"""Helpers for tests of promotion: a small store, versions without a model, judges, and races."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from unigrec.base import files, paths
from unigrec.config.schema import RegisterParams
from unigrec.promotion import audit
from unigrec.promotion.champion import Verdict, promote
from unigrec.registry.tracking import BUNDLE_TAG, mlflow_client

MODEL = "tiny"


def store(folder: Path) -> RegisterParams:
    return RegisterParams(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment="tests", model_name=MODEL)


def add_versions(params: RegisterParams, count: int) -> None:
    """Register versions 1 .. count whose gates passed. They have no model, because nothing loads them here."""
    with mlflow_client(params) as client:
        client.create_registered_model(MODEL)
        for number in range(1, count + 1):
            tags = {"gate": "passed", BUNDLE_TAG: f"bundle{number}"}
            client.create_model_version(MODEL, f"file:///nowhere/{number}", tags=tags)


def aliases(params: RegisterParams) -> dict[str, str]:
    with mlflow_client(params) as client:
        return {name: str(version) for name, version in client.get_registered_model(MODEL).aliases.items()}


def says(outcome: str):
    """A judge that always returns this outcome."""
    return lambda challenger, champion: Verdict(outcome, f"{outcome}: {challenger} beside {champion}", "a page")


def slowly(challenger: str, champion: str | None) -> Verdict:
    """A slow judge, so that two promotions would overlap."""
    time.sleep(0.01)
    return says("promote")(challenger, champion)


def agrees(params: RegisterParams) -> list[audit.Change]:
    """Check that the finished changes of the audit are one chain that ends at the champion; returns them."""
    lines = audit.read(paths.AUDIT)
    done = [line for line in lines if line["event"] == audit.DONE]
    assert not audit.unfinished(paths.AUDIT, MODEL, params.tracking_uri)
    assert len({line["id"] for line in done}) == len(done), "every change must be done once"
    assert {line["id"] for line in done} <= {line["id"] for line in lines if line["event"] == audit.INTENT}
    champion = None
    for line in done:
        assert line["from"] == champion, "each change must begin where the one before ended"
        champion = line["to"]
    assert aliases(params).get("champion") == champion
    return done


def race(folder: str, version: str, races: int) -> None:
    """A racer: promotes its version at the same moment as the other, `races` times, and writes each outcome.

    A race begins when the folder holds the file `go.N`; the racer then writes `VERSION.N`.
    """
    params = store(Path(folder))
    for number in range(races):
        while not Path(f"go.{number}").exists():
            time.sleep(0.001)
        done = promote(params, slowly, version, wait_seconds=120.0)
        files.write_text(Path(f"{version}.{number}"), f"{done.moved} {done.champion}")


if __name__ == "__main__":
    aliases(store(Path(sys.argv[1])))  # MLflow is imported now, not in the first race
    print("ready", flush=True)
    race(sys.argv[1], sys.argv[2], int(sys.argv[3]))
