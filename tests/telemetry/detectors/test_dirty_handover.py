"""What a request finds on a connection from another principal's: settings, locks, tables; and what is no harm."""

from __future__ import annotations

from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.detectors.dirty_handover import LEFT_LIMIT, DirtyHandover
from isolation_monitor.telemetry.lab import Lab
from tests.telemetry.acting import Acting

LOOK = "SELECT * FROM notes"


class Connection:
    """A driver's connection object."""


class Service:
    """Requests that send statements on one pooled connection, one after the other."""

    def __init__(self, acting: Acting, detector: DirtyHandover) -> None:
        self.acting = acting
        self.detector = detector
        self.connection = Connection()

    def request(self, user: str | None, *statements: str | tuple[str, list[Any]]) -> None:
        request = self.acting.request(user)
        for statement in statements:
            text, params = (statement, None) if isinstance(statement, str) else statement
            self.acting.inside(request, self.detector.statement, self.connection, text, params)
        request.finished = True

    def found(self) -> int:
        return len(self.acting.found(names.DIRTY_HANDOVER))


@pytest.fixture
def acting(monitor: IsolationMonitor) -> Acting:
    return Acting(monitor)


@pytest.fixture
def detector(monitor: IsolationMonitor) -> DirtyHandover:
    return DirtyHandover(monitor.detection.kit)


@pytest.fixture
def service(acting: Acting, detector: DirtyHandover) -> Service:
    return Service(acting, detector)


def test_a_setting_with_the_owners_id_that_another_works_with_is_reported(service: Service) -> None:
    service.request("u-one", "SET app.user_id = 'u-one'", LOOK)
    service.request("u-two", LOOK)

    (violation,) = service.acting.found(names.DIRTY_HANDOVER)
    assert violation.grade == "reachable"
    assert violation.victim is not None
    assert violation.victim.principal == service.acting.monitor.principals.named("u-one").hash
    assert violation.offender is not None
    assert violation.offender.principal == service.acting.monitor.principals.named("u-two").hash
    assert violation.victim.stack
    assert violation.offender.stack
    assert violation.resource.detail["state"] == {"setting": "app.user_id"}
    assert "u-one" not in str(violation.as_record()["resource"])


def test_a_setting_by_parameter_counts_like_one_by_text(service: Service) -> None:
    service.request("u-one", ("SELECT set_config('app.user_id', $1, false)", ["u-one"]))
    service.request("u-two", LOOK)

    assert service.found() == 1


def test_a_tenants_setting_is_reported_as_soon_as_a_second_tenant_shows_that_it_is_one(service: Service) -> None:
    """The first hand-over happens before anybody can know that the value belongs to a principal."""
    service.request("u1", "SET app.tenant = 'north'")
    service.request("u2", LOOK)
    assert service.found() == 0

    service.request("u3", "SET app.tenant = 'south'")

    assert service.found() == 1


def test_users_of_one_tenant_may_share_its_setting(service: Service) -> None:
    for user, tenant in (("u1", "north"), ("u2", "north"), ("u3", "south"), ("u4", "south")):
        service.request(user, f"SET app.tenant = '{tenant}'", LOOK, "RESET app.tenant")
    service.request("u1", "SET app.tenant = 'north'")
    service.request("u2", LOOK)

    assert service.found() == 0


@pytest.mark.parametrize(
    "clearing",
    ["RESET app.user_id", "RESET ALL", "DISCARD ALL", "SET app.user_id TO DEFAULT", "SELECT pg_advisory_unlock_all();RESET ALL;"],
)
def test_what_was_cleared_harms_nobody(service: Service, clearing: str) -> None:
    service.request("u-one", "SET app.user_id = 'u-one'", LOOK, clearing)
    service.request("u-two", LOOK)

    assert service.found() == 0


@pytest.mark.parametrize("setting", ["SET app.user_id = 'u-two'", "SET LOCAL app.user_id = 'u-two'"])
def test_who_sets_it_anew_first_is_not_harmed(service: Service, setting: str) -> None:
    service.request("u-one", "SET app.user_id = 'u-one'", LOOK)
    service.request("u-two", "BEGIN", setting, LOOK, LOOK, "COMMIT")

    assert service.found() == 0


def test_a_setting_of_a_transaction_ends_with_it(service: Service) -> None:
    service.request("u-one", "BEGIN", "SET LOCAL app.user_id = 'u-one'", LOOK, "COMMIT")
    service.request("u-two", ("SELECT set_config('app.user_id', $1, true)", ["u-two"]), LOOK)

    assert service.found() == 0


def test_a_session_setting_in_a_transaction_survives_its_commit_only(service: Service) -> None:
    service.request("u-one", "BEGIN", "SET app.user_id = 'u-one'", "ROLLBACK")
    service.request("u-two", LOOK)
    assert service.found() == 0

    service.request("u-one", "BEGIN", "SET app.user_id = 'u-one'", "COMMIT")
    service.request("u-two", LOOK)
    assert service.found() == 1


def test_a_rollback_brings_the_earlier_value_back(service: Service) -> None:
    service.request("u-one", "SET app.user_id = 'u-one'")
    service.request("u-two", "BEGIN", "SET app.user_id = 'u-two'", "ROLLBACK", LOOK)

    assert service.found() == 1


def test_a_setting_that_everybody_sets_alike_is_right(service: Service) -> None:
    for number in range(20):
        service.request(f"u{number}", "SET TIME ZONE 'UTC'", "SET app.region = 'eu'", LOOK)
        service.request(f"u{number + 100}", LOOK)

    assert service.found() == 0


def test_limits_that_follow_from_the_route_are_right(service: Service) -> None:
    for number in range(20):
        service.request(f"u{number}", f"SET statement_timeout = {1000 * (number % 3)}", "SET work_mem = '1MB'", LOOK)
        service.request(f"u{number + 100}", LOOK)

    assert service.found() == 0


def test_a_setting_that_follows_from_what_users_do_is_right(service: Service) -> None:
    """Everybody looks into the archive on one route and into the present on another."""
    for number in range(60):
        schema = ("archive", "present")[number // 6 % 2 ^ number % 2]
        service.request(f"u{number % 6}", f"SET search_path TO {schema}", LOOK)
        service.request(f"u{(number + 2) % 6}", LOOK)

    assert service.found() == 0


def test_a_role_of_each_principals_own_is_not_cleared_by_reset_all(service: Service) -> None:
    """PostgreSQL keeps the role over RESET ALL, so a pool that resets so hands it over."""
    for name in ("ann", "bob", "cem"):
        service.request(f"p-{name}-1", f"SET ROLE role_{name}", LOOK, "RESET ALL")
    service.request("p-4", LOOK)

    assert service.found() >= 1


def test_one_user_may_find_what_it_left(service: Service) -> None:
    for _ in range(3):
        service.request("u-one", "SET app.user_id = 'u-one'", LOOK)
        service.request("u-one", LOOK)

    assert service.found() == 0


def test_questions_of_the_pool_are_not_the_takers_work(service: Service) -> None:
    service.request("u-one", "SET app.user_id = 'u-one'")
    service.request("u-two", "SELECT 1", "SHOW server_version", "BEGIN", ";", "SET app.user_id = 'u-two'", LOOK)

    assert service.found() == 0


def test_a_lock_that_came_along_is_reported(service: Service) -> None:
    service.request("u1", ("SELECT pg_advisory_lock($1)", [7]), LOOK)
    service.request("u2", LOOK)

    assert service.found() == 1


def test_a_lock_that_another_already_had_is_reported_when_it_is_asked_for(service: Service) -> None:
    """It is granted again to the same session: two requests are where only one may be."""
    service.request("u1", "SELECT pg_advisory_lock(7)")
    service.request("u2", "SELECT pg_advisory_lock(7)")

    assert service.found() == 1


def test_a_lock_that_was_let_go_is_not(service: Service) -> None:
    service.request("u1", ("SELECT pg_advisory_lock($1)", [7]), LOOK, ("SELECT pg_advisory_unlock($1)", [7]))
    service.request("u1", "SELECT pg_advisory_xact_lock(7)")
    service.request("u2", LOOK)

    assert service.found() == 0


def test_a_temporary_table_of_another_is_reported_when_it_is_read(service: Service) -> None:
    service.request("u1", "CREATE TEMP TABLE basket (item text)", "INSERT INTO basket VALUES ('private')")
    service.request("u2", LOOK)
    assert service.found() == 0

    service.request("u2", "SELECT * FROM basket")
    assert service.found() == 1


@pytest.mark.parametrize("clearing", ["TRUNCATE basket", "DROP TABLE IF EXISTS basket", "DELETE FROM basket", "DISCARD TEMP"])
def test_a_temporary_table_that_is_emptied_first_is_not(service: Service, clearing: str) -> None:
    service.request("u1", "CREATE TEMP TABLE IF NOT EXISTS basket (item text)", "INSERT INTO basket VALUES ('private')")
    service.request("u2", clearing, "SELECT * FROM basket")

    assert service.found() == 0


def test_a_table_that_was_there_already_keeps_the_others_rows(service: Service) -> None:
    service.request("u1", "CREATE TEMP TABLE IF NOT EXISTS basket AS SELECT * FROM items", "SELECT * FROM basket")
    service.request("u2", "CREATE TEMP TABLE IF NOT EXISTS basket AS SELECT * FROM items", "SELECT * FROM basket")

    assert service.found() == 1


@pytest.mark.parametrize(("is_local", "found"), [(True, 0), (False, 1)])
def test_whether_a_setting_is_the_transactions_may_come_by_parameter(service: Service, is_local: bool, found: int) -> None:
    service.request("u-one", "BEGIN", ("SELECT set_config($1, $2, $3)", ["app.user_id", "u-one", is_local]), LOOK, "COMMIT")
    service.request("u-two", LOOK)

    assert service.found() == found


def test_a_role_that_one_route_leaves_is_another_users_wrong_rights(service: Service) -> None:
    service.request("u1", LOOK)
    service.request("u2", "SET ROLE auditor", LOOK)
    service.request("u3", LOOK)

    assert service.found() == 1


def test_a_role_that_each_new_connection_gets_is_right(service: Service) -> None:
    """Connections are often opened, and set up, by the request that first needs one."""
    service.request("u1", "SELECT version()", "SET ROLE service", LOOK)
    service.request("u2", LOOK)
    service.request("u3", LOOK)

    assert service.found() == 0


@pytest.mark.parametrize("is_got", [True, False])
def test_a_lock_that_was_tried_counts_when_it_was_got(service: Service, is_got: bool) -> None:
    service.request("u1", "SELECT pg_try_advisory_lock(7)")
    service.detector.answered(service.connection, is_got)
    service.request("u2", LOOK)

    assert service.found() == is_got


def test_what_the_pool_finds_on_a_connection_is_reported(service: Service) -> None:
    acting, detector, connection = service.acting, service.detector, service.connection
    acting.inside(acting.request("u1"), detector.returned, connection, "pool", {"transaction": "open"})

    acting.inside(acting.request("u2"), detector.taken, connection, "pool", {"transaction": "open"})

    (violation,) = acting.found(names.DIRTY_HANDOVER)
    assert violation.resource.detail["state"] == {"transaction": "open"}


def test_a_clean_connection_and_one_of_the_same_principal_pass(service: Service) -> None:
    acting, detector, connection = service.acting, service.detector, service.connection
    acting.inside(acting.request("u1"), detector.returned, connection, "pool", {"transaction": "open"})

    acting.inside(acting.request("u1"), detector.taken, connection, "pool", {"transaction": "open"})
    acting.inside(acting.request("u2"), detector.taken, connection, "pool", {})

    assert service.found() == 0
    assert acting.checks(names.DIRTY_HANDOVER, "pass") == 1


def test_what_is_remembered_of_a_session_is_bounded(service: Service) -> None:
    service.request("u1", *(f"SET app.s{number} = '{number}'" for number in range(LEFT_LIMIT * 3)))

    session = service.detector._sessions.get(service.connection)
    assert session is not None
    assert len(session.left) == LEFT_LIMIT


def test_a_planted_fault_is_reported_as_synthetic_and_teaches_nothing(acting: Acting, detector: DirtyHandover) -> None:
    detector.plant(Lab(acting.monitor.principals))

    (violation,) = acting.monitor.violations(synthetic=True)
    assert violation.synthetic
    assert len(detector._sessions) == 0
    assert detector._owned._by_name == {}
