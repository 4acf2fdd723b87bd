"""A bundle of a finished rung, for benchmarks that ask what a shop would ask."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from benchmarks.quality.steps import Data, finished_rung, key_of
from unigrec.base import files
from unigrec.base.paths import Artifacts
from unigrec.serving.assemble import assemble
from unigrec.serving.manifest import Serving

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"
STAGES = ("prepare", "embed", "teacher", "tokenizer", "joint", "harden", "finetune", "rank", "evaluate")


def bundle_of_rung(rung: Path, data: Data, folder: Path) -> Path:
    """Assemble the bundle of a rung, OUT/seed-1/M14/KEY, in a folder; returns the bundle's own folder.

    Gates and report, which the ladder leaves out, are empty. Raises UnigrecError if the rung is not finished.
    """
    artifacts, read = finished_rung(rung, data), files.read_json(rung / "params.json")
    params, seed_folder = read["params"], rung.absolute().parents[1]
    places = {stage: artifacts.folder(stage).absolute() for stage in STAGES}
    places["embed"] = data.artifacts.folder("embed").absolute()
    reads = read["teacher"] if params["tokenizer"]["collaborative_weight"] else None
    seed = int(seed_folder.name.removeprefix("seed-"))
    places["tokenizer"] = seed_folder / f"tokenizer-{key_of(seed, params['tokenizer'], read['data']['embed'], reads)}"
    settings = files.read_json(data.artifacts.text_encoder / "settings.json")
    serving = Serving(
        params["joint"]["history"], params["evaluate"]["beam"], settings["text_columns"], "a rung of the ladder"
    )
    (folder / Artifacts().root).mkdir(parents=True, exist_ok=True)
    with chdir(folder):
        own = Artifacts()
        for stage, place in places.items():
            own.folder(stage).symlink_to(place)
        own.folder("prepare").unlink()
        own.folder("prepare").mkdir()
        for path in places["prepare"].iterdir():
            (own.folder("prepare") / path.name).symlink_to(path)
        if not own.served_columns.is_file():  # data that an earlier version prepared
            files.write_table(own.served_columns, files.read_table(own.catalogue, ["item_id"]))
        for path in (own.validated, own.source):
            files.write_json(path, {"rows": {}})
        files.write_json(own.decision, {"passed": True, "gates": []})
        files.write_json(own.report / "facts.json", {})
        return assemble(PARAMS_FILE, serving).absolute()
