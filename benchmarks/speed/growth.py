"""How decoding, hardening and loading a bundle grow with the catalogue."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.harness import Options, Table, Timing, alternate, in_child, ratio, say
from benchmarks.speed.served import UNTRAINED, drawn_identifiers, serving_params, untrained_recommender, write_bundle
from benchmarks.speed.shapes import generated_embeddings
from unigrec import artifacts as a
from unigrec.bundle import Bundle
from unigrec.data.batches import Histories
from unigrec.decoding import beam_search
from unigrec.identifiers import collision_rate, disambiguate, hard_codes, health, reassign
from unigrec.models.tokenizer import Tokenizer
from unigrec.ranking import Student
from unigrec.training.tokenizer import new_tokenizer

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (200, 400)
USERS, ROUNDS, QUICK_USERS, QUICK_ROUNDS = 16, 5, 4, 1
WIDTH = 128  # of the item embeddings
LEARNT_FROM = 20_000  # items that the codebooks are fitted to


def run(options: Options) -> list[Table]:
    sizes = QUICK_SIZES if options.quick else SIZES
    return [_decoding(sizes, options.quick), _hardening(sizes, options.quick), _loading(sizes, options.quick)]


def _decoding(sizes: tuple[int, ...], quick: bool) -> Table:
    found, _ = in_child(decode, sizes=sizes, quick=quick)
    timings = {int(items): Timing(**seconds) for items, seconds in found["timings"].items()}
    rows = []
    for items, timing in timings.items():
        grown = ratio(timing, timings[sizes[0]])
        row = {"items": items, **timing.cells(found["users"]), "CPU, times the smallest": grown.of_medians}
        rows.append(row | {"of a round": f"{grown.least:.2f}-{grown.most:.2f}"})
        say(f"growth: decoding {items} items: {grown.of_medians:.2f} times the smallest")
    notes = [
        UNTRAINED,
        f"The paper's network, beam {found['beam']}, one thread; {found['users']} users at once, histories of 4 to 20 "
        "items, the same for every size; time is per user.",
    ]
    return Table("decoding", rows, notes)


def decode(sizes: list[int], quick: bool) -> dict[str, Any]:
    """Seconds of the rounds by size, in turn; in a process of its own."""
    params = serving_params(quick)
    count, beam = (QUICK_USERS, 5) if quick else (USERS, params.evaluate.beam)
    students = {}
    for items in sizes:
        identifiers = drawn_identifiers(items, params)
        students[items] = Student(untrained_recommender(params, identifiers.disambiguation), identifiers.codes, beam)

    def rank(student: Student, number: int) -> None:
        beam_search(student.recommender, student.tree, *student.embedded(histories(count, min(sizes), number)), beam)

    calls = {str(items): (lambda number, student=student: rank(student, number)) for items, student in students.items()}
    timings = alternate(calls, QUICK_ROUNDS if quick else ROUNDS, log=say)
    return {"users": count, "beam": beam, "timings": {items: asdict(timing) for items, timing in timings.items()}}


def histories(users: int, items: int, seed: int) -> Histories:
    """4 to 20 of the first `items` items."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 21, users)
    return Histories(generator.integers(0, items, (users, int(lengths.max()))), lengths, np.zeros(users, np.int64))


def _hardening(sizes: tuple[int, ...], quick: bool) -> Table:
    rows = []
    for items in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            given: dict[str, Any] = {"folder": temporary, "quick": quick}
            in_child(write_catalogue, items=items, **given)
            found, usage = in_child(harden, **given)
        rows.append({"items": items, **found, "peak GB": usage.peak / 1e9})
        say(f"growth: hardening {items} items: peak {usage.peak / 1e9:.2f} GB, {found}")
    notes = [
        f"CPU seconds, one thread. Codebooks of the paper's size, fitted to the latents of {LEARNT_FROM} items; item "
        f"embeddings of {WIDTH} numbers, which the peak holds as well. A catalogue is hardened by disambiguate or by "
        "reassign, not by both; health is without hit rates, which score a sample of items against all.",
    ]
    return Table("hardening", rows, notes)


def write_catalogue(folder: str, items: int, quick: bool) -> None:
    """Item embeddings, and a tokenizer whose codebooks fit them; in a process of its own, for its memory."""
    embeddings = generated_embeddings(items, WIDTH)
    torch.manual_seed(0)
    tokenizer = new_tokenizer(WIDTH, serving_params(quick).tokenizer)
    tokenizer.initialise(embeddings[:LEARNT_FROM], 0, iterations=5)
    a.write_tensors(Path(folder) / a.MODEL_FILE, tokenizer.state_dict() | {"embedding": embeddings})


def harden(folder: str, quick: bool) -> dict[str, Any]:
    """Seconds of each step of hardening, and how many items collide."""
    tensors = a.read_tensors(Path(folder) / a.MODEL_FILE)
    embeddings = tensors.pop("embedding")
    tokenizer: Tokenizer = new_tokenizer(WIDTH, serving_params(quick).tokenizer)
    tokenizer.load_state_dict(tensors)
    tokenizer.requires_grad_(False)
    popularity = np.random.default_rng(0).integers(0, 100, len(embeddings))
    seconds = {}
    started = time.process_time()
    codes = hard_codes(tokenizer, embeddings)
    seconds["codes s"] = time.process_time() - started
    steps = {
        "disambiguate s": lambda: disambiguate(codes, popularity),
        "reassign s": lambda: reassign(tokenizer, embeddings, codes),
        "health s": lambda: health(tokenizer, embeddings, popularity, 0.001),
    }
    for name, step in steps.items():
        started = time.process_time()
        step()
        seconds[name] = time.process_time() - started
    return {"colliding": f"{collision_rate(codes):.1%}", **seconds}


def _loading(sizes: tuple[int, ...], quick: bool) -> Table:
    rows = []
    for items in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            bundle, _ = in_child(make_bundle, folder=temporary, items=items, quick=quick)
            seconds, usage = in_child(load, folder=bundle)
            size = sum(path.stat().st_size for path in Path(bundle).rglob("*") if path.is_file())
        _, nothing = in_child(load_nothing)
        grown = (usage.peak - nothing.peak) / 1e9
        rows.append(
            {"items": items, "files GB": size / 1e9, **seconds, "peak GB": usage.peak / 1e9, "of it loaded": grown}
        )
        say(f"growth: a bundle of {items} items: peak {usage.peak / 1e9:.2f} GB")
    notes = [
        "Bundle.load, hashes of all files included, with titles of some 60 letters; then a first request. of it "
        "loaded: beyond a process that only imports what is needed."
    ]
    return Table("loading a bundle", rows, notes)


def make_bundle(folder: str, items: int, quick: bool) -> str:
    """In a process of its own. Returns the bundle's folder."""
    return str(write_bundle(Path(folder), items, serving_params(quick)))


def load(folder: str) -> dict[str, float]:
    """CPU seconds of loading, and of a first request."""
    started = time.process_time()
    bundle = Bundle.load(Path(folder))
    loaded = time.process_time()
    bundle.recommend([bundle.item_ids[:5]])
    return {"load CPU s": loaded - started, "first request CPU s": time.process_time() - loaded}


def load_nothing() -> None:
    """What the imports of this module take."""
