"""The compose file, started for real: every service but Grafana in containers of a real engine, as hardened as it says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.alerts import build
from isolation_monitor.collector.clock import rfc3339
from tests.compose.stand_ins import SERVICES, asked, compose, import_stand_ins, laid_out, own_network
from tests.real_parts.docker_engine import DockerEngine, docker_engine
from tests.real_parts.processes import eventually

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Started:
    folder: Path
    override: Path
    engine: DockerEngine
    within: list[str]

    def token(self, name: str) -> str:
        return (self.folder / "secrets" / name).read_text()

    def containers(self) -> dict[str, dict[str, Any]]:
        """Return what the engine knows of the container of each service."""
        listed = self.engine.ask("GET", "/containers/json?all=1")
        found = {one["Labels"]["com.docker.compose.service"]: one["Id"] for one in listed}
        return {name: self.engine.ask("GET", f"/containers/{number}/json") for name, number in found.items()}

    def collector(self, path: str, token: str = "read_token", body: object = None) -> Any:
        return asked(self.within, f"http://127.0.0.1:8400{path}", self.token(token), body)

    def logs(self) -> str:
        return compose(self.folder, self.override, self.engine, "logs", "--tail", "30").stdout[-8000:]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install util-linux iproute2")
    folder = tmp_path_factory.mktemp("compose")
    override = laid_out(folder)
    with own_network() as within, docker_engine(flags=["--host-gateway-ip=127.0.0.1"], within=within) as engine:
        import_stand_ins(engine)
        whole = Started(folder, override, engine, within)
        try:
            done = compose(folder, override, engine, "up", "--detach", "--wait", "--wait-timeout", "240")
            assert done.returncode == 0, done.stderr[-3000:] + whole.logs()
            yield whole
        finally:
            compose(folder, override, engine, "down", "--volumes", "--timeout", "5")


def test_every_service_is_healthy_and_the_migration_ended_well(started: Started) -> None:
    states = {name: found["State"] for name, found in started.containers().items()}

    assert set(states) == set(SERVICES)
    assert (states["migrate"]["Status"], states["migrate"]["ExitCode"]) == ("exited", 0)
    assert {name: state["Health"]["Status"] for name, state in states.items() if name != "migrate"} == {
        name: "healthy" for name in SERVICES if name != "migrate"
    }


def test_no_container_may_do_more_than_the_file_says(started: Started) -> None:
    for name, found in started.containers().items():
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["Memory"] > 0, name
        assert host["PidsLimit"] > 0, name
        assert found["Config"]["User"] not in ("", "0", "root"), name


def test_the_collector_keeps_records_in_postgresql(started: Started) -> None:
    assert started.collector("/readyz")["status"] == "ready"
    send(started, "kept", "hygiene")

    assert [item["id"] for item in started.collector("/v1/violations?service=shop&grade=hygiene")["items"]] == ["kept"]


def test_prometheus_has_every_rule_and_reads_every_target(started: Started) -> None:
    rules = asked(started.within, "http://127.0.0.1:9090/api/v1/rules?type=alert")["data"]["groups"]
    assert {rule["name"] for group in rules for rule in group["rules"]} == {alert.name for alert in build.alerts()}

    def up() -> dict[str, str]:
        targets = asked(started.within, "http://127.0.0.1:9090/api/v1/targets?state=active")["data"]["activeTargets"]
        return {target["labels"]["job"]: target["health"] for target in targets}

    eventually(lambda: set(up().values()) == {"up"} and {"collector", "isolation"} <= set(up()), "every target is read", 120)


def test_a_violation_pages_and_the_page_is_in_the_history(started: Started) -> None:
    """Collector to Alertmanager, Alertmanager's webhook to collector, each with its token from its secret."""
    send(started, "harm", "crossed")

    def told() -> list[dict[str, Any]]:
        return list(started.collector("/v1/alerts?service=shop")["items"])

    found = eventually(told, "the page is in the history", 120)

    assert [item["labels"]["alertname"] for item in found] == ["IsolationViolation"]


def test_it_ends_when_told_and_leaves_nothing_behind(started: Started) -> None:
    """The last of this file: nothing is killed for not ending in time."""
    done = compose(started.folder, started.override, started.engine, "stop", "--timeout", "60")
    assert done.returncode == 0, done.stderr
    codes = {name: found["State"]["ExitCode"] for name, found in started.containers().items()}
    assert 137 not in codes.values(), codes

    done = compose(started.folder, started.override, started.engine, "down", "--volumes")

    assert done.returncode == 0, done.stderr
    assert started.engine.ask("GET", "/containers/json?all=1") == []
    assert started.engine.ask("GET", "/volumes")["Volumes"] in (None, [])


def send(started: Started, record_id: str, grade: str) -> None:
    now = rfc3339(datetime.now(UTC))
    record = {"type": "violation", "id": record_id, "time": now, "kind": "instance_reuse", "grade": grade, "detector": "instance_reuse"}
    body = {"schema": "records/1", "service": "shop", "instance": "i", "sent_at": now, "records": [record | {"synthetic": False}]}
    assert started.collector("/v1/records", "send_token", body)["accepted"] == 1
