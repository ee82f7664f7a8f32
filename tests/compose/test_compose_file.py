"""`docker-compose.monitoring.yml`: valid for the real Compose, pinned, hardened, and without a default password."""

from __future__ import annotations

import re

import pytest
import yaml

from isolation_monitor.alerts import build as alerts_build
from isolation_monitor.collector.settings import CollectorSettings
from isolation_monitor.dashboards import build as dashboards_build
from tests.compose.compose import ALL, FILE, ROOT, mounts, project, run, service

LONG_RUNNING = tuple(name for name in ALL if name != "migrate")


def test_the_real_compose_accepts_the_file():
    done = run("--profile", "demo", "config", "--quiet")

    assert (done.returncode, done.stderr) == (0, "")


def test_the_real_compose_would_notice_a_mistake(tmp_path):
    """The check above must not be one that accepts anything."""
    broken = tmp_path / "broken.yml"
    broken.write_text(FILE.read_text().replace("depends_on:\n      prometheus:", "depends_on:\n      prometeus:"))

    done = run("config", "--quiet", file=broken)

    assert done.returncode != 0
    assert "prometeus" in done.stderr


def test_the_services_are_these_and_the_chat_service_comes_only_with_the_demo_profile():
    assert set(project()["services"]) == set(ALL)
    assert run("config", "--services").stdout.split() != []
    assert set(run("config", "--services").stdout.split()) == set(ALL) - {"chat"}
    assert set(run("--profile", "demo", "config", "--services").stdout.split()) == set(ALL)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("postgres", "postgres:18.4"),
        ("prometheus", "prom/prometheus:v3.13.2"),
        ("alertmanager", "prom/alertmanager:v0.34.0"),
        ("grafana", "grafana/grafana:13.2.0"),
    ],
)
def test_images_of_others_have_exact_tags(name, image):
    assert service(name)["image"] == image
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+(\.\d+)?", image)


@pytest.mark.parametrize("name", ["collector", "migrate", "chat"])
def test_our_images_are_built_here_and_never_pulled(name):
    found = service(name)

    assert found["image"].endswith(":local")
    assert found["build"]["dockerfile"] == "deploy/collector.Dockerfile"
    assert found["build"]["target"] == ("chat" if name == "chat" else "collector")


@pytest.mark.parametrize("name", ALL)
def test_nothing_runs_as_root_or_keeps_a_privilege(name):
    found = service(name)

    assert re.fullmatch(r"[1-9]\d*:\d+", found["user"])
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in found
    assert "cap_add" not in found
    assert any(item.split(":")[0] == "/tmp" for item in found["tmpfs"])


@pytest.mark.parametrize("name", ALL)
def test_memory_and_processes_have_a_limit(name):
    limits = service(name)["deploy"]["resources"]["limits"]

    assert int(limits["memory"]) <= 1024**3
    assert limits["pids"] <= 200


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_every_service_that_stays_has_a_health_check(name):
    check = service(name)["healthcheck"]

    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    # A shell would be one more thing that an image may lack.
    assert check["test"][1] in ("wget", "python", "pg_isready")


def test_the_schema_is_ready_before_the_collector_starts():
    assert service("migrate")["restart"] == "no"
    assert service("migrate")["command"] == ["isomon", "migrate"]
    assert service("migrate")["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert service("collector")["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize(("name", "needs"), [("prometheus", "alertmanager"), ("grafana", "prometheus"), ("chat", "collector")])
def test_each_waits_until_what_it_needs_is_healthy(name, needs):
    assert service(name)["depends_on"][needs]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", ALL)
def test_ports_are_open_to_this_machine_alone(name):
    for port in service(name).get("ports", ()):
        assert port["host_ip"] == "127.0.0.1"


def test_the_database_has_no_port_and_a_network_that_leads_nowhere():
    assert "ports" not in service("postgres")
    assert set(service("postgres")["networks"]) == {"storage"}
    assert project()["networks"]["storage"]["internal"] is True
    assert [name for name in ALL if "storage" in service(name)["networks"]] == ["postgres", "migrate", "collector"]


def test_the_volume_of_postgres_18_is_the_folder_above_the_data():
    (volume,) = service("postgres")["volumes"]

    assert (volume["type"], volume["target"]) == ("volume", "/var/lib/postgresql")


def test_every_file_that_is_mounted_exists_and_is_read_only():
    for name in ALL:
        for item in service(name).get("volumes", ()):
            if item["type"] == "bind":
                assert item["read_only"] is True, item
        for target, source in mounts(name).items():
            assert source.exists(), f"{name}: {target}"
            assert source.is_relative_to(ROOT)


def test_every_rule_file_and_nothing_else_is_mounted_as_a_rule():
    """The folder of rules also holds two configurations: mounted whole, Prometheus would refuse them as rules."""
    rules = {
        target.removeprefix("/etc/prometheus/rules/") for target in mounts("prometheus") if target.startswith("/etc/prometheus/rules/")
    }

    assert rules == set(alerts_build.rules())


def test_grafana_is_given_every_dashboard_where_its_provider_looks():
    seen = mounts("grafana")
    (provider,) = yaml.safe_load((seen["/etc/grafana/provisioning/dashboards"] / "isolation.yml").read_text())["providers"]
    folder = seen[provider["options"]["path"]]
    home = service("grafana")["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert {path.name for path in folder.glob("*.json")} == set(dashboards_build.texts())
    assert (folder / home.removeprefix(provider["options"]["path"] + "/")).is_file()


def test_grafanas_data_source_is_the_prometheus_of_this_file():
    folder = mounts("grafana")["/etc/grafana/provisioning/datasources"]
    (source,) = yaml.safe_load((folder / "prometheus.yml").read_text())["datasources"]

    assert source["url"] == "http://prometheus:9090"


def test_no_password_stands_in_the_file():
    """Every password, token and key comes from a file that `make-secrets.py` makes."""
    for name in ALL:
        for key, value in service(name).get("environment", {}).items():
            if re.search(r"PASSWORD|TOKEN|SECRET|KEY", key):
                assert key.endswith("_FILE"), f"{name}: {key}"
                assert value.startswith("/run/secrets/"), f"{name}: {key}"
        database = service(name).get("environment", {}).get("COLLECTOR_DATABASE_URL", "")
        assert ":" not in database.partition("//")[2].partition("@")[0]
    assert "${" not in FILE.read_text().replace("${CHAT_FAULTS:-0}", "")


@pytest.mark.parametrize("name", ALL)
def test_a_service_is_given_the_secrets_that_it_reads_and_no_others(name):
    given = {item["source"] for item in service(name).get("secrets", ())}
    text = " ".join(map(str, service(name).get("environment", {}).values()))
    for target, source in mounts(name).items():
        if target.endswith(".yml") and source.is_file():
            text += source.read_text()
    read = set(re.findall(r"/run/secrets/(\w+)", text))

    assert given == read


def test_prometheus_shows_the_collector_a_token_because_its_metrics_are_not_open():
    """Without it the scrape is refused, and IsolationCollectorDown pages for ever."""
    tree = yaml.safe_load(mounts("prometheus")["/etc/prometheus/prometheus.yml"].read_text())
    (job,) = (item for item in tree["scrape_configs"] if item["job_name"] == "collector")

    assert job["authorization"]["credentials_file"] == "/run/secrets/read_token"


def test_every_setting_of_the_collector_exists():
    known = {f"COLLECTOR_{field.upper()}" for field in CollectorSettings.model_fields}

    for name in ("collector", "migrate"):
        assert {key for key in service(name)["environment"] if key.startswith("COLLECTOR_")} <= known


def test_the_addresses_that_configurations_name_are_services_of_this_file():
    """A renamed service would be a target that never answers."""
    texts = [mounts("prometheus")["/etc/prometheus/prometheus.yml"], mounts("alertmanager")["/etc/alertmanager/alertmanager.yml"]]
    ports = {"prometheus": 9090, "alertmanager": 9093, "grafana": 3000, "collector": 8400, "chat": 8000}
    for path in texts:
        for host, port in re.findall(r"\b([a-z]+):(\d{4})\b", path.read_text()):
            assert ports[host] == int(port)
            assert f":{port}" in str(service(host)["healthcheck"]["test"])


def test_history_is_kept_for_thirty_days_within_a_size():
    command = service("prometheus")["command"]

    assert "--storage.tsdb.retention.time=30d" in command
    assert any(flag.startswith("--storage.tsdb.retention.size=") for flag in command)
    assert any(item["type"] == "volume" and item["target"] == "/prometheus" for item in service("prometheus")["volumes"])
