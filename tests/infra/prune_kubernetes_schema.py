"""Makes schemas/kubernetes.json from Kubernetes' strict JSON schemas: only the kinds that infra/kubernetes uses.

The schemas of all kinds and releases are 17,000 files; the test needs one. Needs kubernetes-validate, which contains
the schemas: pip install kubernetes-validate==1.37.0 && python tests/infra/prune_kubernetes_schema.py
"""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

RELEASE = "1.34.0"
KINDS = {
    "apps/v1/Deployment": "io.k8s.api.apps.v1.Deployment",
    "batch/v1/Job": "io.k8s.api.batch.v1.Job",
    "networking.k8s.io/v1/NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "v1/ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "v1/Namespace": "io.k8s.api.core.v1.Namespace",
    "v1/PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "v1/Service": "io.k8s.api.core.v1.Service",
}
TARGET = Path(__file__).with_name("schemas") / "kubernetes.json"


def prune(everything: dict, roots: list[str]) -> dict:
    """The definitions that the roots refer to, directly or indirectly, without descriptions."""
    kept: dict[str, dict] = {}
    open_names = list(roots)
    while open_names:
        name = open_names.pop()
        if name not in kept:
            text = re.sub(r'"[^"]*#/(?:definitions|\$defs)/', '"#/$defs/', json.dumps(_bare(everything[name])))
            kept[name] = json.loads(text)
            open_names += re.findall(r'"#/\$defs/([^"]+)"', text)
    return dict(sorted(kept.items()))


def _bare(schema: object) -> object:
    """Remove descriptions and Kubernetes' own annotations. A property named `description` stays."""
    if isinstance(schema, list):
        return [_bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    texts = {key for key, value in schema.items() if key == "description" and isinstance(value, str)}
    return {k: _bare(v) for k, v in schema.items() if k not in texts and not k.startswith("x-kubernetes")}


def main() -> None:
    source = files("kubernetes_validate") / f"kubernetes-json-schema/v{RELEASE}-local-strict/_definitions.json"
    everything = json.loads(source.read_text(encoding="utf-8"))
    everything = everything.get("$defs") or everything["definitions"]
    schema = {
        "$comment": f"Kubernetes {RELEASE}, strict, Apache-2.0; made by {Path(__file__).name}",
        "kinds": KINDS,
        "$defs": prune(everything, list(KINDS.values())),
    }
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(schema, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
