"""`unigrec serve`: a registered model, or a bundle, behind an address."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unigrec.config.schema import Params

MOST_BY_DEFAULT = 4  # workers


def serve(params: Params, model: str, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or Ctrl-C. workers: 0: one per core, up to four. Raises UnigrecError."""
    from unigrec.base.process import cores
    from unigrec.service.server import Place
    from unigrec.service.server import serve as run

    run(params.serve, params.register_, model, Place(host, port), workers or min(cores(), MOST_BY_DEFAULT))
