"""Switches: what the setting says holds, and what it cannot mean is refused at the start."""

from __future__ import annotations

import pytest

from isolation_monitor.telemetry import names
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.switches import Switches


def test_all_detectors_watch_as_shipped() -> None:
    assert {switch.mode for switch in Switches()} == {"monitor"}
    assert {switch.detector for switch in Switches()} == set(names.DETECTORS)


def test_the_setting_changes_what_it_names() -> None:
    switches = Switches(["shared_state=off", "foreign_content=block", "foreign_context=monitor@0.25"])

    assert not switches[names.SHARED_STATE].is_on
    assert switches[names.FOREIGN_CONTENT].blocks
    assert [switches[names.FOREIGN_CONTEXT].sampled() for _ in range(8)].count(True) == 2


def test_the_kill_switch_throws_all_and_gives_each_its_own_mode_back() -> None:
    switches = Switches(["shared_state=off", "foreign_content=block"])

    switches.kill(True)
    assert not any(switch.is_on for switch in switches)
    switches.kill(False)

    assert not switches[names.SHARED_STATE].is_on
    assert switches[names.FOREIGN_CONTENT].blocks


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("nonsense=off", "names no detector"),
        ("shared_state", "no known mode"),
        ("shared_state=loud", "no known mode"),
        ("shared_state=block", "sees only what has happened"),
        ("shared_state=monitor@2", r"within \(0, 1\]"),
        ("shared_state=monitor@x", r"within \(0, 1\]"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_remedy(item: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Switches([item])
