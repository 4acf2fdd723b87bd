"""Growth of time and memory with the catalogue: decoding, hardening, loading a bundle."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.harness import Options, Table, in_child, ratio, say
from benchmarks.speed.held import alternate, held_each
from benchmarks.speed.served import UNTRAINED, drawn_identifiers, serving_params, untrained_recommender, write_bundle
from benchmarks.speed.shapes import generated_embeddings
from unigrec.base import files, paths
from unigrec.base.process import training_device
from unigrec.core.identifiers.collisions import collision_rate, disambiguate, hard_codes, reassign
from unigrec.core.identifiers.health import health
from unigrec.core.models.tokenizers.residual import Tokenizer
from unigrec.core.retrieval.generative import GenerativeRetriever
from unigrec.core.training.tokenizer import new_tokenizer
from unigrec.serving.bundle import Bundle

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (200, 400)
USERS, ROUNDS, QUICK_USERS, QUICK_ROUNDS = 16, 5, 4, 1
WIDTH = 128  # of item embeddings
LEARNT_FROM = 20_000  # number of items that the codebooks are fitted to


def run(options: Options) -> list[Table]:
    sizes = QUICK_SIZES if options.quick else SIZES
    return [_decoding(sizes, options.quick), _hardening(sizes, options.quick), _loading(sizes, options.quick)]


def _decoding(sizes: tuple[int, ...], quick: bool) -> Table:
    users = QUICK_USERS if quick else USERS
    with held_each(Search, "items", sizes, users=users, smallest=min(sizes), quick=quick) as held:
        timings = alternate(held, QUICK_ROUNDS if quick else ROUNDS, log=say)
        beam = held[sizes[0]].call("width")
    rows = []
    for items, timing in timings.items():
        grown = ratio(timing, timings[sizes[0]])
        row = {"items": items, **timing.cells(users), "CPU, times the smallest": grown.of_medians}
        rows.append(row | {"of a round": f"{grown.least:.2f}-{grown.most:.2f}"})
        say(f"growth: decoding {items} items: {grown.of_medians:.2f} times the smallest")
    notes = [
        UNTRAINED,
        f"The paper's network, beam {beam}, one thread; {users} users at once with histories of 4 to 20 items, equal "
        "for all sizes. Each size runs in its own process, configured as in the stage evaluate. Time is per user.",
    ]
    return Table("decoding", rows, notes)


class Search:
    """Beam search over a catalogue, in its own process, configured as in an evaluation."""

    def __init__(self, items: int, users: int, smallest: int, quick: bool):
        training_device()
        params = serving_params(quick)
        identifiers = drawn_identifiers(items, params)
        beam, self.users, self.smallest = 5 if quick else params.evaluate.beam, users, smallest
        recommender = untrained_recommender(params, identifiers.disambiguation)
        self.retriever = GenerativeRetriever.hardened(recommender, identifiers.codes, params.joint.history, beam)

    def round(self, number: int) -> None:
        self.retriever.search(*histories(self.users, self.smallest, number))

    def width(self) -> int:
        """Number of beams."""
        return self.retriever.beam


def histories(users: int, items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Histories of 4 to 20 of the first `items` items: (users, n) padded, and lengths (users,)."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 21, users)
    return generator.integers(0, items, (users, int(lengths.max()))), lengths


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
        f"CPU seconds, one thread. Codebooks of the paper's size are fitted to the latents of {LEARNT_FROM} items. "
        f"Item embeddings of {WIDTH} dimensions count in the peak. A catalogue is hardened by disambiguate "
        "or by reassign. health is measured without hit rates, which score a sample of items against all items.",
    ]
    return Table("hardening", rows, notes)


def write_catalogue(folder: str, items: int, quick: bool) -> None:
    """Write item embeddings and a tokenizer fitted to them. Runs in its own process, to keep its memory apart."""
    embeddings = generated_embeddings(items, WIDTH)
    torch.manual_seed(0)
    tokenizer = new_tokenizer(WIDTH, serving_params(quick).tokenizer)
    tokenizer.initialise(embeddings[:LEARNT_FROM], 0, iterations=5)
    files.write_tensors(Path(folder) / paths.MODEL_FILE, tokenizer.state_dict() | {"embedding": embeddings})


def harden(folder: str, quick: bool) -> dict[str, Any]:
    """CPU seconds of each step of hardening, and the share of items that collide."""
    tensors = files.read_tensors(Path(folder) / paths.MODEL_FILE)
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
        "Bundle.load with the hashes of all files and titles of about 90 letters, then a first request. of it loaded: "
        "the peak above that of a process that only imports the same modules."
    ]
    return Table("loading a bundle", rows, notes)


def make_bundle(folder: str, items: int, quick: bool) -> str:
    """Write a bundle; returns its folder. Runs in its own process."""
    return str(write_bundle(Path(folder), items, serving_params(quick)))


def load(folder: str) -> dict[str, float]:
    """CPU seconds of loading and of a first request."""
    started = time.process_time()
    bundle = Bundle.load(Path(folder))
    loaded = time.process_time()
    bundle.recommend([bundle.item_ids[:5]])
    return {"load CPU s": loaded - started, "first request CPU s": time.process_time() - loaded}


def load_nothing() -> None:
    """Do nothing: the process then holds only the imports of this module."""
