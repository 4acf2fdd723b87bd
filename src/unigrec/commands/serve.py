"""`unigrec serve`: a registered model, or a bundle, behind an address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unigrec.base.errors import UnigrecError

if TYPE_CHECKING:
    from unigrec.config.schema import Params

MOST_BY_DEFAULT = 4  # workers


def serve(
    params: Params,
    model: str,
    host: str,
    port: int,
    workers: int,
    challenger: str | None = None,
    share: float | None = None,
    impressions: Path | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        workers: 0: one per core, up to four. share: of visitors, for the challenger. impressions: the folder of their
            log; None: that of params.

    Raises:
        UnigrecError: the options do not fit each other, or the service cannot start.
    """
    from unigrec.base.process import cores
    from unigrec.service.server import Place, Served
    from unigrec.service.server import serve as run

    if (challenger is None) != (share is None):
        raise UnigrecError("--challenger and --share go together, as in: --challenger 2 --share 0.1")
    if share is not None and not 0.0 < share < 1.0:
        raise UnigrecError(f"--share {share:g}: expected a share of the visitors between 0 and 1, as 0.1")
    if challenger == model:
        raise UnigrecError(f"--challenger {challenger}: the same as --model; name another version")
    settings = params.serve
    if impressions is not None:
        settings = settings.model_copy(update={"impressions": str(impressions)})
    served = Served(model, workers or min(cores(), MOST_BY_DEFAULT), challenger, share or 0.0)
    run(settings, params.register_, served, Place(host, port))
