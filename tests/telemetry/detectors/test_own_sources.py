"""Own sources: rows that users read under their own ids are theirs, unless there is any sign that others may have them too."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.context import RequestContext
from isolation_monitor.telemetry.detectors import own_sources
from isolation_monitor.telemetry.detectors.owner_predicates import predicates_of
from isolation_monitor.telemetry.provenance import ROWS_LIMIT, Fetched, was_fetched
from tests.telemetry.conftest import Client, user_of

USERS = ("ana", "ben", "cleo", "dora", "emil")
OWN = "SELECT number FROM policies WHERE holder = ?"
JOINED = "SELECT p.number FROM policies p JOIN members m ON m.policy = p.id WHERE m.user = ?"


def number_of(user: str) -> str:
    return f"pol{USERS.index(user)}f9a31c77e"


class Insurance:
    """Policies in SQLite. What is set in `kept` is answered to everybody from then on, by whatever mistake."""

    def __init__(self, monitor: IsolationMonitor) -> None:
        self.monitor = monitor
        self.kept: Any = None
        self.query = OWN
        self.before: Callable[[str], None] = lambda user: None
        app = FastAPI()
        self.app = monitor.instrument(app)
        # Connected when the monitor is there, as services do that connect at start.
        self.database = sqlite3.connect(":memory:")
        self.database.executescript(
            "CREATE TABLE policies (id INTEGER PRIMARY KEY, holder TEXT, number TEXT); CREATE TABLE members (policy INTEGER, user TEXT)"
        )
        for id, user in enumerate(USERS):
            self.database.execute("INSERT INTO policies VALUES (?, ?, ?)", (id, user, number_of(user)))
            self.database.execute("INSERT INTO members VALUES (?, ?)", (id, user))

        @app.get("/policy")
        async def policy(request: Request) -> Any:
            user = user_of(request.scope) or ""
            self.before(user)
            if self.kept is not None:
                return self.kept
            return {"number": self.database.execute(self.query, (user,)).fetchone()[0]}

        self.client = Client(self.app)

    async def ask(self, *users: str) -> None:
        for user in users:
            assert (await self.client.get("/policy", user=user)).status == 200

    def run(self, statement: str, *parameters: object) -> None:
        self.database.execute(statement, parameters).fetchall()

    @property
    def crossed(self) -> int:
        return sum(violation.kind == names.FOREIGN_CONTENT and violation.grade == "crossed" for violation in self.monitor.violations())


@pytest.fixture
def insurance(monitor: IsolationMonitor) -> Iterator[Insurance]:
    made = Insurance(monitor)
    yield made
    made.database.close()


async def test_a_row_kept_for_all_is_foreign_to_who_has_one_of_his_own(insurance: Insurance) -> None:
    """Three read their own; then everybody is given the last one's. Who never read his own might share it, for all that is known."""
    await insurance.ask("ana", "ben", "cleo")
    insurance.kept = {"number": number_of("cleo")}
    await insurance.ask("cleo", "dora")
    assert insurance.crossed == 0

    await insurance.ask("ana")

    [violation] = insurance.monitor.violations()
    assert violation.victim is not None
    assert violation.victim.principal == insurance.monitor.principals.named("cleo").hash
    assert "names its owner" in violation.summary


async def test_two_users_with_values_of_their_own_prove_nothing(insurance: Insurance) -> None:
    await insurance.ask("ana", "ben")
    insurance.kept = {"number": number_of("ben")}
    await insurance.ask("ana", "ben")

    assert insurance.crossed == 0


async def test_a_value_that_came_to_two_readers_ends_its_column(insurance: Insurance) -> None:
    """A team's key beside each member: `emil` has the same one as `cleo`."""
    insurance.run("UPDATE policies SET number = ? WHERE holder = ?", number_of("cleo"), "emil")
    await insurance.ask("ana", "ben", "cleo", "dora", "emil")
    insurance.kept = {"number": number_of("cleo")}
    await insurance.ask("ana", "emil")

    assert insurance.crossed == 0


OTHERWISE: list[Callable[[Insurance], None]] = [
    lambda shop: shop.run("SELECT number FROM policies ORDER BY id DESC"),
    lambda shop: shop.run("SELECT number FROM policies WHERE holder = ? OR id > ?", "nobody", 0),
    lambda shop: shop.run("SELECT number FROM policies WHERE id = ?", USERS.index("cleo")),
    lambda shop: shop.run("INSERT OR REPLACE INTO policies VALUES (?, ?, ?)", 77, "all", number_of("cleo")),
    lambda shop: shop.run("UPDATE policies SET number = ? WHERE holder = ?", number_of("cleo"), "cleo"),
]


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("otherwise", OTHERWISE, ids=range(len(OTHERWISE)))
async def test_what_a_request_found_otherwise_or_wrote_may_be_for_all(
    insurance: Insurance, otherwise: Callable[[Insurance], None], is_before: bool
) -> None:
    """A front page, a search, a row by its number; what was just made and is kept in memory as well. Also in the owner's own request."""

    def act(user: str) -> None:
        if user == "cleo":
            otherwise(insurance)

    if is_before:
        insurance.before = act
    await insurance.ask("ana", "ben", "cleo")
    if not is_before:
        insurance.before = act
        await insurance.ask("cleo")
    insurance.kept = {"number": number_of("cleo")}
    await insurance.ask("ana", "ben", "cleo")

    assert insurance.crossed == 0


async def test_what_is_read_outside_of_requests_may_be_for_all(insurance: Insurance) -> None:
    """A page that is made at start, or by a background task."""
    insurance.run("SELECT number FROM policies")
    await insurance.ask("ana", "ben", "cleo")
    insurance.kept = {"number": number_of("cleo")}
    await insurance.ask("ana", "cleo")

    assert insurance.crossed == 0


async def test_a_table_that_is_asked_for_others_belongs_to_nobody(insurance: Insurance) -> None:
    """Public profiles: everybody's page loads the authors of what it shows by the same query as himself."""

    def look_around(user: str) -> None:
        insurance.run(OWN, USERS[(USERS.index(user) + 1) % len(USERS)])

    await insurance.ask("ana", "ben", "cleo")
    insurance.before = look_around
    await insurance.ask("ana")
    insurance.kept = {"number": number_of("cleo")}
    await insurance.ask("ana", "cleo")

    assert insurance.crossed == 0


async def test_a_query_over_several_tables_proves_nothing(insurance: Insurance) -> None:
    """It may choose from public content, or from what a team has: users who change their team get what another's request has read."""
    insurance.query = JOINED
    for _ in range(2):
        await insurance.ask("ana", "ben", "cleo")
    insurance.kept = {"number": number_of("cleo")}
    await insurance.ask("ana", "cleo")

    assert insurance.crossed == 0


async def test_who_names_himself_besides_keeps_his_own(insurance: Insurance) -> None:
    """A page that joins his row with others' reads it a second way; for anybody else's row it would be another matter."""
    insurance.before = lambda user: insurance.run(JOINED, user)
    await insurance.ask("ana", "ben", "cleo")
    insurance.kept = {"number": number_of("cleo")}
    await insurance.ask("cleo", "ana")
    assert insurance.crossed == 1

    insurance.kept = None
    insurance.before = lambda user: insurance.run("SELECT number FROM policies WHERE holder = ? OR id > 0", user)
    await insurance.ask("ana")
    insurance.before = lambda user: None
    insurance.kept = {"number": number_of("ben")}
    await insurance.ask("ben", "cleo")

    assert insurance.crossed == 1


async def test_a_value_of_ones_own_for_something_else_proves_nothing(insurance: Insurance) -> None:
    """A key of a year, written beside each member: `ana` has that of 2024, and is given that of 2025, which is the same for all."""
    statement = "SELECT number FROM policies WHERE holder = ? AND id < ?"
    for user, limit in (("ana", 2024), ("ben", 2025), ("cleo", 2025)):
        insurance.before = lambda user, limit=limit: insurance.run(statement, user, limit)  # type: ignore[misc]  # a default binds it
        insurance.kept = {}
        await insurance.ask(user)
    insurance.before = lambda user: None
    insurance.kept = {"number": number_of("cleo")}
    await insurance.ask("cleo", "ana")
    assert insurance.crossed == 0

    await insurance.ask("ben")

    assert insurance.crossed == 1


@pytest.mark.parametrize(
    "shown",
    [
        {"numbers": [{"number": number_of("cleo")}, {"number": number_of("ana")}]},
        {"numbers": [number_of("cleo"), number_of("ben")]},
        {"holder": "cleo", "number": number_of("cleo")},
    ],
    ids=["beside one's own", "beside another's", "with the owner's id"],
)
async def test_a_list_for_all_is_none_of_a_leak(insurance: Insurance, shown: Any) -> None:
    await insurance.ask("ana", "ben", "cleo")
    insurance.kept = shown
    await insurance.ask("ana", "cleo")

    assert insurance.crossed == 0


async def test_a_cache_by_user_is_silent(insurance: Insurance) -> None:
    for _ in range(3):
        await insurance.ask(*USERS)

    assert insurance.crossed == 0


async def test_keys_of_a_cache_that_name_their_reader_are_sources(insurance: Insurance) -> None:
    """Told by the client of the store; the keys of two users differ by their ids alone."""

    def fetch(user: str) -> None:
        insurance.monitor.detection.stores.read("kv", "redis", f"card:{user}:v1", f'{{"card": "{number_of(user)}"}}'.encode())

    insurance.before = fetch
    await insurance.ask("ana", "ben", "cleo")
    insurance.before = lambda user: None
    insurance.kept = {"card": number_of("cleo")}
    await insurance.ask("cleo", "ana")

    assert insurance.crossed == 1


# --- bounds ---------------------------------------------------------------------------------------------------------------


def test_what_is_remembered_is_bounded(monitor: IsolationMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_sources, "VALUES_LIMIT", 200)
    monkeypatch.setattr(own_sources, "SEEN_LIMIT", 200)
    monkeypatch.setattr(own_sources, "SOURCES_LIMIT", 20)
    sources = monitor.detection.foreign_content.sources
    requests = [RequestContext(monitor.principals.named(user), {"type": "http", "headers": []}, None, None) for user in USERS]
    for number in range(2_000):
        request = requests[number % len(USERS)]
        assert request.principal is not None
        rows = [(f"value-{number}-81c77e{column}",) for column in range(3)]
        sources.read(request, Fetched("sql", "db", (request.principal.id,), rows, f"SELECT v FROM t{number % 50} WHERE owner = ?"))
        sources.read(request, Fetched("sql", "db", (), [(f"public-{number}-81c77e",)], "SELECT v FROM all_of_it"))

    assert len(sources._columns) <= 220
    assert len(sources._seen) <= 220
    assert len(sources._sources) <= 22


def test_a_streamed_table_is_not_kept(monitor: IsolationMonitor) -> None:
    """Rows are kept by reference while their request runs; of who reads very many it is said that he has read everything."""
    request = RequestContext(monitor.principals.named("ana"), {"type": "http", "headers": []}, None, None)
    for portion in range(20):
        rows = [(f"row-{portion}-{number}",) for number in range(1_000)]
        monitor.detection.stores.read("sql", "db", (), rows, request, statement="SELECT v FROM t")

    assert sum(len(read.values) for read in request.fetched or () if isinstance(read.values, list)) <= ROWS_LIMIT
    assert was_fetched(request, "row-19-999")


def test_rows_of_the_host_are_looked_at_raw(monitor: IsolationMonitor) -> None:
    """Nothing of theirs is called: a row may be of a class that answers anything, or fails."""

    class Loud(tuple[object, ...]):
        def __iter__(self) -> Iterator[object]:
            raise AssertionError("iterated")

        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(name)

    sources = monitor.detection.foreign_content.sources
    request = RequestContext(monitor.principals.named("ana"), {"type": "http", "headers": []}, None, None)
    sources.read(request, Fetched("sql", "db", ("ana",), [Loud(("value-81c77e31", object()))], OWN))

    assert "value-81c77e31" in sources._columns


@pytest.mark.parametrize(
    ("statement", "equal"),
    [
        (OWN, (0,)),
        (JOINED, ()),
        ("SELECT a FROM t WHERE x = 'it''s ?' AND owner = %s -- ?\n AND b > %s", (0,)),
        ("SELECT a FROM t WHERE t.owner = :owner AND t.day >= :day", ("owner",)),
        ('SELECT a FROM t WHERE "t"."owner" = %(owner_1)s', ("owner_1",)),
        ("SELECT a FROM t WHERE owner = $2::uuid AND b = $1", (1, 0)),
        ("SELECT a FROM t WHERE owner != ? AND b <> ? AND c <= ?", ()),
        ("SELECT a FROM t WHERE owner = ? OR is_public", ()),
        ("SELECT a FROM t WHERE NOT owner = ?", ()),
        ("SELECT a FROM t, u WHERE u.owner = ?", ()),
        ("SELECT a FROM t WHERE b IN (SELECT b FROM m WHERE m.user = ?)", ()),
        ("SELECT a FROM t LIMIT ?", ()),
        ("UPDATE t SET a = ? WHERE owner = ?", ()),
        ("SELECT a FROM t WHERE owner = ? UNION SELECT a FROM news", ()),
    ],
)
def test_only_plain_equalities_name_the_reader(statement: str, equal: tuple[int | str, ...]) -> None:
    assert predicates_of(statement) == equal
