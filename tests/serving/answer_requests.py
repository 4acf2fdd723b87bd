"""Answers requests as `mlflow models serve` does: `python answer_requests.py MODEL_FOLDER`, in any environment.

Reads a list of request bodies on standard input; prints statuses, answers, and the file that `unigrec` came from.
"""

import json
import sys

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations

model = mlflow.pyfunc.load_model(sys.argv[1])
answers = []
for body in json.load(sys.stdin):
    try:
        done = invocations(json.dumps(body), "application/json", model, model.metadata.get_input_schema())
        answers.append([done.status, json.loads(done.response)["predictions"]])
    except MlflowException as error:
        answers.append([error.get_http_status_code(), error.message])
print(json.dumps({"answers": answers, "code": sys.modules["unigrec"].__file__}))
