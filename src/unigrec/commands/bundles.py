"""`unigrec bundle`, `register` and `warm-start`: assemble a bundle, register it, start a training from one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base import files, paths
from unigrec.base.errors import EXIT_OK, EXIT_REFUSED

if TYPE_CHECKING:
    from unigrec.config.schema import Params

COLD_START = "infra/cold_start.yaml"


def warm_start(params: Params, params_file: Path, model: str) -> str:
    """Let the next training start from a model (alias, version or folder); returns a line. Raises UnigrecError."""
    import shutil

    from unigrec.registry.versions import load_bundle

    bundle = load_bundle(params.register_, model)
    folder = paths.BUNDLES / bundle.id
    if not folder.exists():
        with files.atomic_folder(folder) as temporary:
            shutil.copytree(bundle.folder, temporary, dirs_exist_ok=True)
    return _start_from(params_file, str(folder), f"the next training starts from {model}, {folder}")


def cold_start(params_file: Path) -> str:
    """Let the next training start from scratch; returns a line."""
    return _start_from(params_file, COLD_START, "the next training starts from scratch")


def _start_from(params_file: Path, path: str, line: str) -> str:
    from unigrec.config.edit import configure

    changed = configure(params_file, settings=[f"warm_start.path={path}"])
    return f"{line} ({params_file}: warm_start.path)" if changed else f"{line}, as before"


def assemble(params: Params, params_file: Path) -> Path:
    """Assemble the artifacts as a bundle; returns its folder. Raises UnigrecError if a stage has not run."""
    from unigrec.serving.assemble import assemble as assemble_bundle
    from unigrec.serving.manifest import Serving

    serving = Serving(
        history=params.joint.history,
        beam=params.evaluate.beam,
        text_columns=list(params.embed.text_columns),
        origin=params.ingest.origin,
    )
    return assemble_bundle(params_file, serving)


def register(params: Params, params_file: Path, folder: Path | None) -> int:
    """Register a bundle, by default one of the artifacts. Returns the exit code: refused if its gates refused it."""
    from unigrec.commands import reports
    from unigrec.registry.versions import register as register_bundle

    done = register_bundle(folder or assemble(params, params_file), params.register_)
    print(f"{done.name} version {done.version}: {'registered' if done.created else 'was registered before'}")
    reports.publish_or_warn(params, done.version)
    if not done.passed:
        print("its gates refused it: no alias points to it (see: unigrec gate)")
    return EXIT_OK if done.passed else EXIT_REFUSED
