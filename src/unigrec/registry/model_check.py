"""Loads a stored model on the code stored with it and makes one request: `python -P model_check.py FOLDER`.

Reads {"history": [item id, ...], "k": n} and prints {"item_ids": [...]}; exit code 2 and one line if it fails. It is
run by its path and imports nothing of this package.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PACKAGE = "unigrec"
FAILED = 2


def main(folder: Path) -> int:
    """Read the request from standard input, and write the answer to standard output."""
    import mlflow
    import pandas as pd

    question = json.load(sys.stdin)
    try:
        model = mlflow.pyfunc.load_model(str(folder))
        answer = model.predict(pd.DataFrame({"history": [question["history"]]}), params={"k": question["k"]})
        items = [str(item) for item in answer["item_ids"][0]]
        _refuse_other_code(folder)
    except Exception as error:  # any error in the stored code or files means that the model is not usable
        print("error:", " ".join(f"{error or type(error).__name__}".split()), file=sys.stderr)
        return FAILED
    print(json.dumps({"item_ids": items}))
    return 0


def _refuse_other_code(folder: Path) -> None:
    """Raises ImportError when a module of this package comes from an installed copy."""
    for name, module in sys.modules.items():
        path = getattr(module, "__file__", None)
        if name.split(".")[0] == PACKAGE and path and not Path(path).is_relative_to(folder):
            raise ImportError(f"{name} is not among the code that is stored with the model")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
