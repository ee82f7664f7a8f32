"""Grafana's provisioning files: the fields that its documentation names, and no uid that does not exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from isolation_monitor.dashboards import build
from isolation_monitor.dashboards.layout import DATASOURCE_NAME, DATASOURCE_UID
from isolation_monitor.dashboards.preview.prometheus import _SCRAPE_INTERVAL_S
from tests.dashboards.boards import boards

FOLDER = Path(build.__file__).parent / "provisioning"
DATASOURCE_FIELDS = {"name", "type", "access", "uid", "url", "isDefault", "editable", "jsonData", "secureJsonData"}
JSON_DATA_FIELDS = {"timeInterval", "httpMethod", "manageAlerts", "alertmanagerUid", "prometheusType", "prometheusVersion"}
PROVIDER_FIELDS = {"name", "folder", "folderUid", "type", "disableDeletion", "updateIntervalSeconds", "allowUiUpdates", "options"}


def loaded(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / name).read_text(encoding="utf-8")))


def test_the_data_source_has_the_uid_that_the_dashboards_choose():
    tree = loaded("datasources/prometheus.yml")
    (source,) = tree["datasources"]

    assert tree["apiVersion"] == 1
    assert set(source) <= DATASOURCE_FIELDS
    assert set(source["jsonData"]) <= JSON_DATA_FIELDS
    assert (source["uid"], source["name"], source["type"]) == (DATASOURCE_UID, DATASOURCE_NAME, "prometheus")
    assert source["editable"] is False


def test_every_data_source_uid_that_a_dashboard_uses_exists():
    for tree in boards():
        assert {item["current"]["value"] for item in tree["templating"]["list"] if item["type"] == "datasource"} == {DATASOURCE_UID}


def test_rates_look_back_over_the_slower_scrape_interval():
    """Grafana's rate interval is four of it; a smaller one would leave holes in graphs of `/metrics`."""
    (source,) = loaded("datasources/prometheus.yml")["datasources"]
    prometheus = yaml.safe_load((Path(build.__file__).parents[1] / "alerts" / "generated" / "prometheus.yml").read_text())

    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"] == f"{_SCRAPE_INTERVAL_S:.0f}s"


def test_dashboards_are_loaded_from_files_and_cannot_be_changed_or_deleted():
    tree = loaded("dashboards/isolation.yml")
    (provider,) = tree["providers"]

    assert tree["apiVersion"] == 1
    assert set(provider) <= PROVIDER_FIELDS
    assert provider["type"] == "file"
    assert provider["disableDeletion"] is True
    assert provider["allowUiUpdates"] is False
