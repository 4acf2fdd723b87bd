"""Compose file, image, manifests, units and workflows: valid by schema, pinned, not open to others, without secrets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support.project import ROOT

INFRA = ROOT / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((Path(__file__).parent / "schemas/kubernetes.json").read_text(encoding="utf-8"))
MANIFESTS = {
    f"{path.name}:{document['kind']}": document
    for path in sorted((INFRA / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
}
PODS = {name: m["spec"]["template"]["spec"] for name, m in MANIFESTS.items() if "template" in m.get("spec", {})}
UNITS = sorted((INFRA / "systemd").iterdir())
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SECRET_NAME = re.compile(r"PASSWORD|SECRET|_KEY|TOKEN|AUTH_STRING|AUTH$|MC_HOST")


def program(name: str) -> str:
    """The path of a tool, in this environment or on PATH. Skips the test if it is not installed."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)


# --- compose ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "files"),
    [("vendor.compose-spec", [INFRA / "compose.yaml"]), ("vendor.github-workflows", WORKFLOWS)],
)
def test_compose_file_and_workflows_meet_their_schemas(schema, files):
    done = run(program("check-jsonschema"), "--builtin-schema", schema, *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_pinned_watched_and_closed(name):
    service = COMPOSE["services"][name]
    assert re.fullmatch(r"[\w/.-]+:[\w.-]*\d[\w.-]*", service["image"]), "pin a version"
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for needed, how in service.get("depends_on", {}).items():
        other = COMPOSE["services"][needed]
        ends = how["condition"] == "service_completed_successfully"
        assert (other["restart"] == "no") if ends else ("healthcheck" in other)
    assert ("healthcheck" in service) is (service["restart"] != "no")


def test_secrets_come_from_variables_that_the_example_names_and_leaves_open():
    text = (INFRA / "compose.yaml").read_text(encoding="utf-8")
    example = dict(re.findall(r"^(\w+)=(.*)$", (INFRA / "env.example").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example)
    assert not [name for name, value in example.items() if SECRET_NAME.search(name) and value]
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            if SECRET_NAME.search(name):
                rest = re.sub(r"\$\{\w+:\?[^}]*\}", "", value)
                assert rest in ("", "http://:@store:9000"), f"{name} holds more than required variables"
    for name in ("infra/.env", ".env", "infra/.env.local"):
        assert run("git", "check-ignore", "--quiet", name).returncode == 0 or not (ROOT / ".git").exists()


def test_mlflow_and_prefect_ask_for_a_password():
    mlflow, prefect = COMPOSE["services"]["mlflow"], COMPOSE["services"]["prefect"]
    assert mlflow["command"][mlflow["command"].index("--app-name") + 1] == "basic-auth"
    assert "PREFECT_SERVER_API_AUTH_STRING" in prefect["environment"]
    assert "PREFECT_API_AUTH_STRING" in COMPOSE["services"]["worker"]["environment"]


@pytest.mark.parametrize("name", ["worker", "deployments"])
def test_dvc_opens_the_project_for_a_user_whom_the_image_does_not_know(name, tmp_path):
    """WORKER_USER is the owner of the clone, a number without a name in the image."""
    service = COMPOSE["services"][name]
    assert service["user"].startswith("${WORKER_USER")
    code = """
import pwd, sys
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
from dvc.repo import Repo
Repo.init(sys.argv[1], no_scm=True).close()
"""
    environment = {key: value for key, value in service["environment"].items() if key != "PYTHONPATH"}
    environment |= {"HOME": str(tmp_path), "DVC_SITE_CACHE_DIR": str(tmp_path / "dvc"), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def prefect_servers() -> dict[str, dict[str, str]]:
    """The environment that each way to run Prefect's server gives it; values of secrets are left out."""
    (pod,) = PODS["prefect.yaml:Deployment"]["containers"]
    unit = (INFRA / "systemd/unigrec-prefect.service").read_text(encoding="utf-8")
    return {
        "compose": COMPOSE["services"]["prefect"]["environment"],
        "kubernetes": {entry["name"]: entry["value"] for entry in pod["env"] if "value" in entry},
        "systemd": dict(re.findall(r"^Environment=(\w+)=(.*)$", unit, re.M)),
    }


@pytest.mark.parametrize(
    ("name", "writable"), [("compose", "/tmp"), ("kubernetes", "/tmp"), ("systemd", "/var/lib/unigrec")]
)
def test_prefects_pages_lie_in_a_writable_folder_and_ask_the_address_of_the_browser(name, writable, monkeypatch):
    """Prefect unpacks its pages next to its code by default, which no user of ours may write."""
    from prefect.settings import Settings

    for key, value in prefect_servers()[name].items():
        if "_UI_" in key:
            monkeypatch.setenv(key, value)
    read = Settings().server.ui
    assert read.static_directory is not None
    assert Path(read.static_directory).parent == Path(writable)
    assert read.api_url == "http://127.0.0.1:4200/api"


def test_the_databases_that_servers_name_are_made():
    made = set(re.findall(r"create database (\w+);", (INFRA / "postgres/databases.sql").read_text(encoding="utf-8")))
    texts = [path.read_text(encoding="utf-8") for path in (INFRA / "compose.yaml", INFRA / "mlflow/basic_auth.ini")]
    assert set(re.findall(r"@postgres:5432/(\w+)", "".join(texts))) == made


# --- the image -------------------------------------------------------------------------------------------------------


def test_the_dockerfile_is_clean():
    done = run(program("hadolint"), INFRA / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_image_is_built_of_what_git_holds_and_runs_as_nobody_special():
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim-\w+$", text, re.M)
    assert [line for line in text.splitlines() if line.startswith("USER")] == ["USER 10001:10001"]
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    taken = [line[1:] for line in lines if line.startswith("!")]
    missing = [name for name in taken if not (ROOT / name).exists()]
    assert not missing
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text, re.M)
    assert {name for group in copied for name in group.split() if name != "."} <= set(taken)


# --- Kubernetes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_manifest_meets_its_schema(name):
    manifest = MANIFESTS[name]
    kind = f"{manifest['apiVersion']}/{manifest['kind']}"
    assert kind in SCHEMA["kinds"], f"{kind}: add it to prune_kubernetes_schema.py, and run that"
    schema = {"$ref": f"#/$defs/{SCHEMA['kinds'][kind]}", "$defs": SCHEMA["$defs"]}
    jsonschema.Draft7Validator(schema).validate(manifest)
    assert manifest["metadata"].get("namespace", "unigrec") == "unigrec"


def test_the_schema_refuses_what_is_wrong():
    broken = json.loads(json.dumps(MANIFESTS["train-job.yaml:Job"]))
    broken["spec"]["template"]["spec"]["containers"][0]["imagePullSecret"] = "x"
    schema = {"$ref": f"#/$defs/{SCHEMA['kinds']['batch/v1/Job']}", "$defs": SCHEMA["$defs"]}
    with pytest.raises(jsonschema.ValidationError, match="imagePullSecret"):
        jsonschema.Draft7Validator(schema).validate(broken)


def containers_of(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("name", PODS)
def test_every_pod_is_confined_bounded_and_told_secrets_by_reference(name):
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in containers_of(pod):
        confined = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["securityContext"] == confined
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        for variable in container["env"]:
            if SECRET_NAME.search(variable["name"]) and not variable["name"].endswith("_PATH"):
                assert set(variable["valueFrom"]) == {"secretKeyRef"}, variable["name"]


def test_the_manifests_ask_for_what_the_example_of_secrets_names_and_run_the_image_of_compose():
    example = dict(re.findall(r"^(\w+)=(.*)$", (INFRA / "env.example").read_text(encoding="utf-8"), re.M))
    containers = [container for pod in PODS.values() for container in containers_of(pod)]
    asked = {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for container in containers
        for variable in container["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert asked <= set(example)
    assert {container["image"] for container in containers} == {COMPOSE["services"]["worker"]["image"]}


def test_a_controller_of_another_namespace_reaches_the_servers_and_no_training():
    """Pods of a training over hosts meet without a password."""
    policy, shut = MANIFESTS["ingress.yaml:NetworkPolicy"]["spec"], MANIFESTS["network.yaml:NetworkPolicy"]["spec"]
    (chosen,) = policy["podSelector"]["matchExpressions"]
    listening = {name: m for name, m in MANIFESTS.items() if m["kind"] == "Service" and not name.startswith("train-")}
    assert (chosen["key"], chosen["operator"]) == ("app", "In")
    assert set(chosen["values"]) == {service["spec"]["selector"]["app"] for service in listening.values()}
    (source,) = policy["ingress"][0]["from"]
    assert set(source["namespaceSelector"]["matchLabels"]) == {"kubernetes.io/metadata.name"}
    assert shut["podSelector"] == {}  # without the former, the latter holds for every pod
    assert shut["ingress"] == [{"from": [{"podSelector": {}}]}]


def test_services_reach_the_pods_that_they_name():
    labels = [
        manifest["spec"]["template"]["metadata"]["labels"] for manifest in MANIFESTS.values() if _has_pod(manifest)
    ]
    for name, manifest in MANIFESTS.items():
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"] in labels, name


def _has_pod(manifest: dict[str, Any]) -> bool:
    return "template" in manifest.get("spec", {})


def test_the_training_job_starts_a_rank_for_each_gpu_on_a_stage_that_takes_them():
    from unigrec.cli import OVER_RANKS

    container = PODS["train-job.yaml:Job"]["containers"][0]
    command = container["command"]
    ranks = int(next(part for part in command if part.startswith("--nproc-per-node")).partition("=")[2])
    assert ranks == container["resources"]["limits"]["nvidia.com/gpu"] > 1
    assert command[0] == "torchrun"
    assert command[-4:-1] == ["-m", "unigrec.cli", "stage"]
    assert command[-1] in OVER_RANKS


def test_the_pods_of_the_training_over_hosts_find_each_other():
    from unigrec.base.hosts import read_hosts
    from unigrec.cli import OVER_RANKS

    job, service = MANIFESTS["train-hosts.yaml:Job"], MANIFESTS["train-hosts.yaml:Service"]
    pod, spec = job["spec"]["template"]["spec"], job["spec"]
    (container,) = pod["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    hosts = read_hosts(
        int(values["UNIGREC_HOSTS"]), 0, values["UNIGREC_RENDEZVOUS"], float(values["UNIGREC_JOIN_SECONDS"])
    )
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", hosts.count, hosts.count)
    # Kubernetes names the pods of an indexed Job by its name and their index, inside the subdomain of the Service.
    assert hosts.address == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    assert [port["port"] for port in service["spec"]["ports"]] == [hosts.port]
    (number,) = (variable for variable in container["env"] if variable["name"] == "UNIGREC_HOST_RANK")
    assert number["valueFrom"]["fieldRef"]["fieldPath"].endswith("['batch.kubernetes.io/job-completion-index']")
    assert container["command"][-4:-1] == ["-m", "unigrec.cli", "stage"]
    assert container["command"][-1] in OVER_RANKS


# --- systemd ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_bind_to_this_machine_and_hold_no_secret(path):
    text = path.read_text(encoding="utf-8")
    for name, value in re.findall(r"^Environment=(\w+)=(.*)$", text, re.M):
        assert not SECRET_NAME.search(name) or name.endswith("_PATH"), value
        assert not re.search(r"://[^/\s]*:[^/\s]*@", value)
    for host in re.findall(r"--host (\S+)", text):
        assert host == "127.0.0.1"
    if path.suffix == ".service":
        assert "User=unigrec" in text
        assert "NoNewPrivileges=yes" in text


def test_systemd_accepts_the_units(tmp_path):
    """systemd-analyze reads the units, with our programs replaced by one that exists."""
    verify = program("systemd-analyze")
    for path in UNITS:
        text = re.sub(r"^(ExecStart\w*)=\S+", r"\1=/bin/true", path.read_text(encoding="utf-8"), flags=re.M)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    done = run(verify, "--recursive-errors=no", "verify", *(tmp_path / path.name for path in UNITS))
    said = [line for line in done.stderr.splitlines() if "unigrec" in line]
    assert (done.returncode, said) == (0, [])


# --- workflows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_few_rights_pinned_actions_and_one_run_at_a_time(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert "group" in workflow["concurrency"]
    events = workflow[True]  # YAML 1.1 reads the key `on` as True
    assert "pull_request_target" not in events  # it would give secrets to code of strangers
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 360
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w/-]+@(v\d+|[0-9a-f]{40})", step["uses"])
            # Values of an event are data: they reach a script as variables, never as part of its text.
            assert "${{" not in step.get("run", ""), step.get("name")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_strangers_pull_request_reaches_no_secret(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, job in workflow["jobs"].items():
        if "secrets." in json.dumps(job):
            ours = "github.event.pull_request.head.repo.full_name == github.repository"
            assert ours in job.get("if", "") or "github.event_name == 'push'" in job.get("if", ""), name


def test_zizmor_finds_nothing_in_the_workflows():
    done = run(program("zizmor"), "--offline", "--min-severity=medium", *WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_an_audit_without_its_database_is_skipped_with_a_notice():
    done = run("env", "AUDIT_DATABASE=http://127.0.0.1:9", ".ci/audit", sys.executable)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("::notice title=audit skipped::")
    assert "http://127.0.0.1:9 cannot be reached" in done.stdout
