"""Suppressions: accepted violations are recorded, counted apart, and never make a request green; wrong files fail at start."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, doctor, names
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.errors import SettingsError
from isolation_monitor.telemetry.suppressions import Suppression, Suppressions, load, today
from isolation_monitor.telemetry.violations import Resource, Side, Violation

Make = Callable[..., IsolationMonitor]
SOON = today() + timedelta(days=30)
ENTRY = f'[[suppress]]\nkind = "shared_state"\nsite = "app/agents.py:*"\nexpires = {SOON}\nreason = "rebuilt in March"\n'


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def side(*stack: str) -> Side:
    return Side("0123", "1-1", None, None, "http", "GET /", 0.0, list(stack))


def violation(*stack: str, kind: str = "shared_state", resource: str = "app.state.agent", grade: str = "reachable") -> Violation:
    return Violation(kind, grade, "a text", Resource("object", resource), None, side(*stack))


def request_of(monitor: IsolationMonitor, user: str = "ann") -> RequestContext:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    return RequestContext(monitor.principals.named(user), scope, None, None)


@pytest.mark.parametrize(
    ("site", "stack", "fits"),
    [
        ("app/agents.py:*", ["/srv/chat/app/agents.py:12 answer"], True),
        ("app/agents.py:*", ["app/agents.py:12 answer"], True),
        ("app/agents.py:12 *", ["app/main.py:1 main", "app/agents.py:12 answer"], True),
        ("app/agents.py:*", ["app/other_agents.py:12 answer"], False),
        ("app.state.agent", [], True),
        ("app.state.*", [], True),
        ("app.state.cache", [], False),
    ],
)
def test_an_entry_fits_a_line_of_either_side_or_the_resource(site: str, stack: list[str], fits: bool) -> None:
    entry = Suppression("shared_state", site, SOON, "why", 1)

    assert entry.fits(violation(*stack)) is fits
    assert not entry.fits(violation(*stack, kind="instance_reuse"))


def test_an_entry_holds_on_its_last_day_and_not_on_the_next() -> None:
    day = date(2026, 3, 1)
    entry = Suppression("shared_state", "app.state.*", day, "why", 1)

    assert Suppressions([entry], day=lambda: day).matching(violation()) is entry
    assert Suppressions([entry], day=lambda: day + timedelta(days=1)).matching(violation()) is None


def test_a_suppressed_violation_is_recorded_and_counted_apart_and_its_request_is_unverified(make_monitor: Make, tmp_path: Path) -> None:
    monitor = make_monitor(suppressions_file=write(tmp_path / "s.toml", ENTRY))
    sent: list[dict[str, Any]] = []
    monitor.outbox.put = sent.append  # type: ignore[method-assign]  # what leaves is looked at here
    running, over = request_of(monitor), request_of(monitor, "bob")
    monitor.ledger.finish(over)

    monitor.ledger.report(violation("app/agents.py:7 f"), running, over)
    monitor.ledger.finish(running)

    registry = monitor.registry
    assert registry.value(names.VIOLATIONS_SUPPRESSED, kind="shared_state") == 1
    assert registry.value(names.VIOLATIONS, kind="shared_state", grade="reachable", arm="none", synthetic="false") == 0
    verdicts = {v: registry.value(names.REQUESTS, transport="http", verdict=v, exposed="false", arm="none") for v in names.VERDICTS}
    assert verdicts == {"isolated": 1, "violated": 0, "unverified": 2}, "the one that was over counts again, and is taken off by the next"
    assert registry.value(names.RECLASSIFIED, exposed="false", arm="none") == 1
    assert [record["detail"]["suppressed"] for record in sent] == [{"reason": "rebuilt in March", "expires": SOON.isoformat()}]
    assert monitor.detection.refuses(running) is False


def test_another_place_of_the_same_kind_is_not_suppressed(make_monitor: Make, tmp_path: Path) -> None:
    monitor = make_monitor(suppressions_file=write(tmp_path / "s.toml", ENTRY))
    request = request_of(monitor)

    monitor.ledger.report(violation("app/main.py:7 f"), request)

    assert request.violated
    assert monitor.registry.value(names.VIOLATIONS, kind="shared_state", grade="reachable", arm="none", synthetic="false") == 1


def test_a_suppressed_violation_that_rises_counts_nowhere_and_leaves_the_request_unverified(make_monitor: Make, tmp_path: Path) -> None:
    monitor = make_monitor(suppressions_file=write(tmp_path / "s.toml", ENTRY))
    request, found = request_of(monitor), violation("app/agents.py:7 f")
    monitor.ledger.report(found)

    monitor.ledger.escalate(found, "it left", request)

    assert request.unverifiable
    assert not request.violated
    assert monitor.registry.value(names.VIOLATIONS, kind="shared_state", grade="crossed", arm="none", synthetic="false") == 0


def test_a_planted_fault_is_never_suppressed(make_monitor: Make, tmp_path: Path) -> None:
    """Else a suppression would turn its detector grey."""
    entry = ENTRY.replace("app/agents.py:*", "current_user*").replace("shared_state", "canary")
    monitor = make_monitor(suppressions_file=write(tmp_path / "s.toml", entry))

    for detector in names.DETECTORS:
        monitor.power.plant(detector)

    assert all("suppressed" not in found.detail for found in monitor.violations(synthetic=True))


def test_without_a_file_nothing_is_suppressed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert load(None).entries == ()


def test_the_default_file_is_found_in_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "isolation-suppressions.toml", "# accepted for now\n\n" + ENTRY)

    (entry,) = load(None).entries

    assert (entry.kind, entry.site, entry.expires, entry.line) == ("shared_state", "app/agents.py:*", SOON, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[suppress]\n", "at line 1"),
        (ENTRY + "[other]\n", "has other"),
        (ENTRY + ENTRY.replace("reason", "because"), ":6: the suppression has no reason, an unknown because"),
        (ENTRY.replace("shared_state", "shared_stat"), ":1: kind='shared_stat' is no kind"),
        (ENTRY.replace("app/agents.py:*", "*"), "names no place"),
        (ENTRY.replace("rebuilt in March", " "), "say why"),
        (ENTRY.replace(str(SOON), '"soon"'), "is no day"),
        (ENTRY.replace(str(SOON), str(today() + timedelta(days=400))), "more than a year ahead"),
        ("suppress = 1\n", "may hold"),
        ("suppress = [1]\n", ":1: the suppression has no kind"),
    ],
)
def test_a_wrong_file_fails_at_start_with_the_line_and_what_to_write(text: str, message: str, make_monitor: Make, tmp_path: Path) -> None:
    path = write(tmp_path / "s.toml", text)

    with pytest.raises(SettingsError) as caught:
        make_monitor(suppressions_file=path)

    assert message in str(caught.value)
    assert "s.toml" in str(caught.value)


def test_a_file_that_was_named_and_is_not_there_fails_at_start(make_monitor: Make, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        make_monitor(suppressions_file=str(tmp_path / "none.toml"))


def test_the_doctor_names_expired_and_unused_entries(make_monitor: Make, tmp_path: Path) -> None:
    old = ENTRY.replace(str(SOON), "2026-01-01").replace("agents", "old")
    monitor = make_monitor(suppressions_file=write(tmp_path / "s.toml", ENTRY + old + ENTRY.replace("agents", "unused")))
    monitor.served = True
    monitor.ledger.report(violation("app/agents.py:7 f"))

    found = [finding for finding in doctor.diagnose(monitor, None).findings if finding.check == "suppressions"]

    assert [finding.level for finding in found] == ["warning", "note", "note"]
    assert "s.toml:6: the suppression of shared_state at app/old.py:* expired on 2026-01-01" in found[0].text
    assert "app/unused.py:* has suppressed nothing" in found[1].text
    assert "2 in force, 1 violations suppressed so far" in found[2].text
