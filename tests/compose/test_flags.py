"""The flags and configurations of the compose file, run by the real Prometheus and Alertmanager of this machine."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from tests.compose.compose import mounts, service
from tests.real_parts.processes import binary, free_port, running


def as_here(name: str, folder: Path, port: int) -> list[str]:
    """Return the service's flags with its mounts and volumes at their places on this machine, listening on a free port."""
    places = {item["target"]: folder / "data" / item["target"].strip("/") for item in service(name)["volumes"] if item["type"] == "volume"}
    for target, source in mounts(name).items():
        here = folder / "mounts" / target.strip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(source)
    command = []
    for argument in service(name)["command"]:
        flag, _, value = argument.partition("=")
        if value in places:
            value = str(places[value])
        elif value in mounts(name):
            value = str(_rewritten(folder, value))
        command.append(f"{flag}={value}" if "=" in argument else flag)
    return [*command, f"--web.listen-address=127.0.0.1:{port}"]


def _rewritten(folder: Path, target: str) -> Path:
    """Write the configuration with the container's paths led to this machine's."""
    text = (folder / "mounts" / target.strip("/")).read_text()
    copy = folder / Path(target).name
    copy.write_text(text.replace("/etc/", f"{folder}/mounts/etc/").replace("/run/secrets/", f"{folder}/secrets/"))
    return copy


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def test_prometheus_accepts_every_flag_and_loads_every_rule(tmp_path: Path):
    port = free_port()
    command = [binary("prometheus"), *as_here("prometheus", tmp_path, port)]
    url = f"http://127.0.0.1:{port}"

    with running(command, tmp_path / "log", f"{url}/-/ready"):
        rules, flags = fetch(f"{url}/api/v1/rules"), fetch(f"{url}/api/v1/status/flags")

    assert '"IsolationViolation"' in rules
    assert '"isolation_score"' in rules
    assert '"DeadMansSwitch"' in rules
    assert '"storage.tsdb.retention.time":"30d"' in flags


def test_alertmanager_accepts_every_flag_and_its_configuration(tmp_path: Path):
    port = free_port()
    command = [binary("prometheus-alertmanager", "alertmanager"), *as_here("alertmanager", tmp_path, port)]
    url = f"http://127.0.0.1:{port}"

    with running(command, tmp_path / "log", f"{url}/-/ready"):
        status = fetch(f"{url}/api/v2/status")

    assert "http://collector:8400/v1/alerts" in status


def test_a_flag_that_does_not_exist_is_noticed(tmp_path: Path):
    """The tests above must not pass with any flag."""
    port = free_port()
    command = [binary("prometheus"), *as_here("prometheus", tmp_path, port), "--storage.tsdb.retention.thyme=30d"]

    with (
        pytest.raises(AssertionError, match=r"retention\.thyme"),
        running(command, tmp_path / "log", f"http://127.0.0.1:{port}/-/ready"),
    ):
        pass
