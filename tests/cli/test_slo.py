"""`isomon slo`: the numbers that `check` prints are worked by hand, and `show` asks a real Prometheus with the product's rules."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from isolation_monitor.alerts import build, prometheus_config, slo
from tests.dashboards.living_service import LivingService
from tests.real_parts.processes import eventually, free_port
from tests.real_parts.prometheus import Prometheus, prometheus


def isomon(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "isolation_monitor.cli", "slo", *words], capture_output=True, text=True, timeout=120)


def test_check_says_what_the_products_promises_mean():
    done = isomon("check", "--json")
    found = json.loads(done.stdout)
    chat = next(one for one in found["objectives"] if one["name"] == "chat-availability")

    assert done.returncode == 0
    # 0.01 % of 30 days = 0.0001 x 43,200 minutes.
    assert (chat["budget_ratio"], chat["budget_minutes"]) == (0.0001, 4.32)
    # 14.4 x 0.0001 of the events of an hour; a total outage reaches that share after 0.00144 x 3,600 s; 5 / 0.00144 events.
    assert chat["alerts"][0] == {
        "action": "page",
        "long": "1h",
        "short": "5m",
        "budget_share": 0.02,
        "burn_rate": 14.4,
        "bad_share": pytest.approx(0.00144),
        "total_outage_s": pytest.approx(5.184),
        "events_below_which_the_least_number_rules": 3472,
    }


def test_check_prints_a_table_for_people():
    text = isomon("check", str(slo.SLO_FILE)).stdout

    assert "chat-availability 99.99 % over 30d" in text
    assert "4.32 min of everything failing" in text
    assert "0.144 %" in text
    assert "5 bad events are needed" in text


def test_check_says_which_alerts_can_never_speak(tmp_path: Path):
    """Of a promise of 90 %, all events bad is a burn rate of 10: 14.4 is out of reach."""
    tree = yaml.safe_load(slo.SLO_FILE.read_text())
    tree["objectives"][1]["objective_percent"] = 90
    (tmp_path / "slo.yml").write_text(yaml.safe_dump(tree))

    done = isomon("check", str(tmp_path / "slo.yml"))

    assert done.returncode == 0
    assert "Those alerts cannot speak for it" in done.stdout


def test_a_wrong_file_ends_with_2_and_the_place(tmp_path: Path):
    (tmp_path / "slo.yml").write_text("window: 30d\n")

    for done in (
        isomon("check", str(tmp_path / "slo.yml")),
        isomon("show", str(tmp_path / "slo.yml"), "--prometheus", "http://127.0.0.1:1"),
    ):
        assert (done.returncode, done.stdout) == (2, "")
        assert "min_bad_events is missing" in done.stderr


def test_a_prometheus_that_is_not_there_ends_with_2():
    done = isomon("show", "--prometheus", f"http://127.0.0.1:{free_port()}")

    assert done.returncode == 2
    assert "does not answer" in done.stderr


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus with the product's rules of promises, and a service of which one run in twenty fails."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "slo.yml").write_text(
        build.rules()["slo.yml"].replace("interval: 30s", "interval: 1s").replace("interval: 1m\n", "interval: 1s\n")
    )
    with LivingService(tmp_path_factory.mktemp("cells")) as service:
        config = prometheus_config.render(
            isolation_targets=[service.address],
            main_interval="1s",
            collector_target=service.address,
            alertmanager=f"127.0.0.1:{free_port()}",
            rule_files=[str(folder / "slo.yml")],
            collector_interval="1s",
        )
        with prometheus(folder, config) as running:
            yield running


def test_show_says_what_is_left_of_each_budget(watched: Prometheus):
    def all_three() -> bool:
        done = isomon("show", "--prometheus", watched.url, "--json")
        return done.returncode in (0, 1) and len(json.loads(done.stdout)["standings"]) == 3

    eventually(all_three, "three objectives have numbers", 180)
    done = isomon("show", "--prometheus", watched.url, "--json", "--service", "chat")
    found = {one["slo"]: one for one in json.loads(done.stdout)["standings"]}

    # Far more than one run in ten thousand fails: that budget is spent, and the exit code says so.
    assert done.returncode == 1
    assert found["chat-availability"]["budget_left_ratio"] < 0
    assert found["chat-availability"]["burn_rates"]["1h"] > 14.4
    assert found["first-event"]["budget_left_ratio"] == 1.0
    # All of 1 % of 30 days.
    assert found["quick-answers"]["budget_left_minutes"] == 432.0

    table = isomon("show", "--prometheus", watched.url)
    assert table.returncode == 1
    assert "99.99 %" in table.stdout

    nobody = isomon("show", "--prometheus", watched.url, "--service", "nobody")
    assert nobody.returncode == 2
    assert "no numbers" in nobody.stderr
