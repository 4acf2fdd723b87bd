"""`python -m benchmarks.search`: a small search over params, chosen by validation alone. The test set is never ranked.

A trial is one rung of the ladder (infra/ladder.yaml) with values that Optuna draws from infra/search.yaml. You may kill
the search at any moment. The same command keeps finished trials and resumes the unfinished one. See docs/quality.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.quality.__main__ import ROOT, Stop, as_command, work_through
from benchmarks.quality.ladder import LADDER, chosen_rungs, profile_params, read_ladder, rung_params
from benchmarks.quality.runs import rung_steps, student_folder
from benchmarks.quality.steps import Session, code_version, load_data
from unigrec.base import files, paths
from unigrec.base.errors import EXIT_OK, UnigrecError
from unigrec.base.markdown import markdown_table
from unigrec.base.process import training_device
from unigrec.config.read import read_mapping
from unigrec.core.evaluation.protocol import SELECTED
from unigrec.core.training.checkpoint import Stopped

SPACE = ROOT / "infra/search.yaml"
AFTER = ("rank", "evaluate")  # steps after the training; the last one ranks the test items
Space = dict[str, dict[str, Any]]


def read_space(path: Path) -> Space:
    """Params key -> {low, high, log} or {choices}. Raises UnigrecError, naming the key."""
    space = read_mapping(path)
    for key, entry in space.items():
        if not isinstance(entry, dict) or set(entry) not in ({"choices"}, {"low", "high"}, {"low", "high", "log"}):
            raise UnigrecError(f"{path}: {key}: expected choices, or low and high and optionally log; found {entry!r}")
        if "choices" in entry and not (isinstance(entry["choices"], list) and entry["choices"]):
            raise UnigrecError(f"{path}: {key}: choices must be a list of values; found {entry['choices']!r}")
        if "low" in entry and not entry["low"] < entry["high"]:
            raise UnigrecError(f"{path}: {key}: low {entry['low']!r} is not below high {entry['high']!r}")
    return space


def distributions(space: Space) -> dict[str, Any]:
    """Convert a space to Optuna's distributions. Integer bounds give integers."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for key, entry in space.items():
        if "choices" in entry:
            found[key] = CategoricalDistribution(entry["choices"])
        else:
            whole = isinstance(entry["low"], int) and isinstance(entry["high"], int)
            kind = IntDistribution if whole else FloatDistribution
            found[key] = kind(entry["low"], entry["high"], log=entry.get("log", False))
    return found


def open_study(out: Path, seed: int) -> Any:
    """Open or create the study in `out`. A trial that was interrupted by a kill is queued first."""
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{out}/search.db",
        study_name="search",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def finished(study: Any) -> int:
    """Number of finished trials, including those whose training failed."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in study.get_trials(deepcopy=False))


def validation(student: Path) -> float:
    """The best validation NDCG of the finetuning, which includes the weights of the joint phase as a candidate."""
    history = files.read_json(student / "finetune" / paths.HISTORY_FILE)
    return max(row[SELECTED] for row in history if SELECTED in row)


def table(study: Any) -> str:
    """A Markdown table of the trials, the best first."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    keys = sorted({key for trial in done for key in trial.params})
    rows = []
    for trial in sorted(done, key=lambda trial: -trial.value):
        values = (f"{trial.params[key]:.3g}" if key in trial.params else "" for key in keys)
        rows.append([str(trial.number), *values, f"{trial.value:.4f}"])
    return markdown_table(["trial", *keys, "validation NDCG@10"], rows)


def arguments(given: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.search", description=__doc__)
    add = parser.add_argument
    add(
        "--artifacts",
        type=Path,
        required=True,
        help="artifacts folder of a project; reads the outputs of prepare and embed",
    )
    add("--profile", required=True, help="name of a file in infra/profiles: small, paper, ...")
    add("--out", type=Path, required=True, help="folder of the study and its trials")
    add("--rung", default="M10", help="rung of infra/ladder.yaml (default: M10)")
    add("--space", type=Path, default=SPACE, help="file with the search space (default: infra/search.yaml)")
    add("--trials", type=int, default=12, help="number of finished trials to reach, including those of earlier calls")
    add("--seed", type=int, default=1, help="seed of training and sampling (default: 1)")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="section.key=value, for all trials")
    add("--minutes", type=float, help="stop cleanly after this time; the same command resumes")
    return parser.parse_args(given)


def run(given: list[str]) -> int:
    from optuna.trial import TrialState

    options = arguments(given)
    stop, space = Stop(options.minutes), read_space(options.space)
    (rung,) = chosen_rungs(read_ladder(ROOT / LADDER), options.rung)
    data, values = load_data(options.artifacts), profile_params(ROOT, options.profile)
    study, kinds = open_study(options.out, options.seed), distributions(space)
    session = Session(data, training_device(), stop, code_version())

    def attempt(chosen: dict[str, Any]) -> float | None:
        """Train a trial; returns its validation NDCG, or None if its training failed."""
        params = rung_params(values, rung._replace(params=rung.params | chosen), options.set, options.seed)
        steps = [step for step in rung_steps(options.out, rung.name, params, data) if step.folder.name not in AFTER]
        if work_through(steps, session, lambda step: None):
            return None
        return validation(student_folder(options.out, params, data))

    with stop.listening(), suppress(Stopped):
        while finished(study) < options.trials:
            trial = study.ask(kinds)
            value = attempt(trial.params)
            if value is None:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, value)
            print(f"trial {trial.number}: {value} with {trial.params}", file=sys.stderr, flush=True)
    text = table(study)
    with files.atomic_path(options.out / "search.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text)
    if stop.signal:
        return 128 + stop.signal
    return EXIT_OK


if __name__ == "__main__":
    as_command(run)
