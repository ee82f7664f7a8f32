"""Probes against real servers: HTTP, TLS, TCP, the blackbox exporter, and a collector that checks them by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from isolation_monitor.collector.clock import utc_now
from isolation_monitor.collector.metrics import CollectorMetrics
from isolation_monitor.collector.probes import http_probe
from isolation_monitor.collector.probes.connecting import Phases, ProbeFailed, Seen, is_public
from isolation_monitor.collector.probes.domain import CHANGES_KEPT, HttpModule, Probe, Result, after, word_of
from isolation_monitor.collector.probes.modules import ProbesFileError
from isolation_monitor.collector.probes.prober import Prober
from isolation_monitor.collector.probes.probes_file import ProbesFile, read_probes
from isolation_monitor.collector.probes.schedule import CONFIRM_AFTER_S, pause_after
from isolation_monitor.collector.probes.service import ProbeService
from isolation_monitor.collector.probes.watched_file import WatchedFile
from isolation_monitor.collector.settings import SettingsError
from isolation_monitor.collector.storage.database import Database
from tests.cli.test_collector_command import Authority
from tests.cli.test_violations import isomon
from tests.collector.conftest import START, FrozenClock
from tests.real_parts.blackbox import blackbox
from tests.real_parts.collector import collector
from tests.real_parts.processes import eventually, free_port

Json = dict[str, Any]


class Pages(BaseHTTPRequestHandler):
    """A service with every kind of answer."""

    protocol_version = "HTTP/1.1"
    wait = threading.Event()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/slow":
            self.wait.wait(20)
        size = int(self.headers.get("Content-Length", 0))
        told = {"method": self.command, "headers": dict(self.headers), "body": self.rfile.read(size).decode()}
        status = {"/gone": 404, "/moved": 302, "/away": 302, "/round": 302, "/broken": 500}.get(path, 200)
        self.send_response(status)
        for where, to in (("/moved", "/healthz"), ("/round", "/round"), ("/away", "ftp://127.0.0.1/")):
            if path == where:
                self.send_header("Location", to)
        body = json.dumps(told).encode()
        self.send_header("X-Release", "v7")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_about: object) -> None:
        pass


@contextlib.contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        Pages.wait.set()
        server.shutdown()
        thread.join()
        server.server_close()
        Pages.wait.clear()


@pytest.fixture(scope="module")
def plain() -> Iterator[str]:
    with serving() as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def prober() -> AsyncIterator[Prober]:
    one = Prober(None, utc_now)
    yield one
    await one.close()


def asked(folder: Path, target: str, module: Json | None = None, *, prober: str = "http", **more: object) -> Probe:
    """Return the one probe of a file that names this target, checked by a module of these fields."""
    entry: Json = {"name": "it", "target": target, "timeout": "10s"} | more
    document: Json = {"probes": [entry]}
    if module is not None:
        document["modules"] = {"mine": {"prober": prober, prober: module}}
        entry["module"] = "mine"
    return read(folder, document).probes[0]


def read(folder: Path, document: Json) -> ProbesFile:
    (folder / "probes.yml").write_text(yaml.safe_dump(document))
    return read_probes(folder / "probes.yml")


class Bare:
    """A server that says the same to everybody, and does nothing of what is polite."""

    def __init__(self, says: bytes, context: ssl.SSLContext | None = None) -> None:
        self._says, self._context, self._held = says, context, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                one = accepted if self._context is None else self._context.wrap_socket(accepted, server_side=True)
                self._held.append(one)
                one.sendall(self._says)

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_why: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for one in (self._listener, *self._held):
            one.close()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, ""))
    return head.encode() + body


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "module", "reason"),
    [
        ("/healthz", {}, ""),
        ("/gone", {}, "status"),
        ("/gone", {"valid_status_codes": [404]}, ""),
        ("/moved", {}, ""),
        ("/moved", {"follow_redirects": False}, "status"),
        ("/round", {}, "redirect"),
        ("/away", {}, "redirect"),
        ("/x", {"fail_if_body_not_matches_regexp": ['"method": "GET"']}, ""),
        ("/x", {"fail_if_body_not_matches_regexp": ["nothing like it"]}, "body"),
        ("/x", {"fail_if_body_matches_regexp": ["(?i)METHOD"]}, "body"),
        ("/x", {"body_size_limit": "10B"}, "body"),
        ("/x", {"method": "POST", "body": "ping", "fail_if_body_not_matches_regexp": ['"method": "POST".*"body": "ping"']}, ""),
        ("/x", {"headers": {"X-Asked": "yes"}, "fail_if_body_not_matches_regexp": ['"X-Asked": "yes"']}, ""),
        ("/x", {"basic_auth": {"username": "a", "password": "b"}, "fail_if_body_not_matches_regexp": ["Basic YTpi"]}, ""),
        ("/x", {"fail_if_header_matches": [{"header": "X-Release", "regexp": "^v[0-6]$"}]}, ""),
        ("/x", {"fail_if_header_matches": [{"header": "X-Release", "regexp": "^v7$"}]}, "header"),
        ("/x", {"fail_if_header_not_matches": [{"header": "X-Missing", "regexp": "."}]}, "header"),
        ("/x", {"fail_if_header_not_matches": [{"header": "X-Missing", "regexp": ".", "allow_missing": True}]}, ""),
        ("/x", {"valid_http_versions": ["HTTP/1.0"]}, "protocol"),
        ("/x", {"fail_if_not_ssl": True}, "tls"),
    ],
)
async def test_an_answer_is_judged_as_its_module_says(
    prober: Prober, plain: str, tmp_path: Path, path: str, module: Json, reason: str
) -> None:
    result = await prober.check(asked(tmp_path, plain + path, module))

    assert (result.reason, result.is_success) == (reason, not reason), result.detail
    assert result.status_code is not None
    assert result.phases_s.keys() >= {"resolve", "connect", "processing", "transfer"}
    assert sum(result.phases_s.values()) <= result.duration_s + 0.001


async def test_nobody_there_no_such_name_and_no_answer_are_told_apart(prober: Prober, plain: str, tmp_path: Path) -> None:
    refused = await prober.check(asked(tmp_path, f"http://127.0.0.1:{free_port()}/"))
    unknown = await prober.check(asked(tmp_path, "http://nothing.invalid/"))
    slow = await prober.check(asked(tmp_path, f"{plain}/slow", timeout="300ms"))
    not_tls = await prober.check(asked(tmp_path, plain.replace("http:", "https:")))

    assert [one.reason for one in (refused, unknown, slow, not_tls)] == ["refused", "dns", "timeout", "tls"]
    assert "processing" in slow.detail
    assert slow.duration_s >= 0.3
    assert refused.status_code is None


async def test_a_certificate_is_verified_and_its_end_is_known(prober: Prober, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.certificate("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    ours = {"ca_file": str(authority.file)}

    with serving(context) as port:
        target = f"https://127.0.0.1:{port}/x"
        stranger = await prober.check(asked(tmp_path, target))
        known = await prober.check(asked(tmp_path, target, {"tls_config": ours, "fail_if_not_ssl": True}))
        wrong_name = await prober.check(asked(tmp_path, target, {"tls_config": ours | {"server_name": "shop.example.com"}}))
        unverified = await prober.check(asked(tmp_path, target, {"tls_config": {"insecure_skip_verify": True}}))
        by_tcp = await prober.check(asked(tmp_path, f"127.0.0.1:{port}", {"tls": True, "tls_config": ours}, prober="tcp"))

    assert (stranger.reason, wrong_name.reason) == ("certificate", "certificate")
    left = timedelta(days=1)
    for result in (known, unverified, by_tcp):
        assert result.is_success, result.detail
        assert result.certificate_expires_at is not None
        assert timedelta(0) < result.certificate_expires_at - result.at <= left
    assert "tls" in known.phases_s


async def test_secrets_do_not_follow_a_redirect_to_another_place(prober: Prober, plain: str, tmp_path: Path) -> None:
    class Elsewhere(Pages):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{plain}/x")
            self.send_header("Content-Length", "0")
            self.end_headers()

    module = {"bearer_token": "secret", "fail_if_body_matches_regexp": ["secret"]}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        led_away = await prober.check(asked(tmp_path, f"http://127.0.0.1:{server.server_port}/", module))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    directly = await prober.check(asked(tmp_path, f"{plain}/x", module))

    assert led_away.is_success, led_away.detail
    assert led_away.redirects == 1
    assert directly.reason == "body"


async def test_a_redirect_from_outside_to_inside_is_not_followed(prober: Prober, plain: str, tmp_path: Path) -> None:
    """Who controls a public endpoint must not reach what only this machine can."""
    request = http_probe._Request("GET", f"{plain}/x", {}, None)

    with pytest.raises(ProbeFailed, match="not followed") as raised:
        await http_probe._asked(asked(tmp_path, plain), HttpModule(), request, Seen(), Phases(), True)

    assert raised.value.reason == "redirect"
    assert [is_public(address) for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "8.8.8.8")] == [
        False
    ] * 5 + [True]


# --- over TCP ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([], ""),
        ([{"expect": "^220 (\\w+)"}, {"send": "HELO ${1}"}, {"expect": "^250 mail$"}], ""),
        ([{"expect": "^421"}], "body"),
    ],
)
async def test_a_tcp_server_says_what_is_expected(prober: Prober, tmp_path: Path, steps: list[Json], reason: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220-welcome\r\n220 mail\r\n")
        line = await reader.readline()
        writer.write(b"250 " + line.removeprefix(b"HELO "))
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        module = {"query_response": steps}
        result = await prober.check(asked(tmp_path, f"127.0.0.1:{port}", module, prober="tcp", timeout="2s"))

    # A server that waits for us says nothing more: that is a timeout.
    assert result.reason in ({"body", "timeout"} if reason else {""}), result.detail


# --- the file ---------------------------------------------------------------------------------------------------------


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    document = {
        "probs": [],
        "modules": {
            "cel": {"prober": "http", "http": {"fail_if_body_json_matches_cel": "a", "proxy_url": "http://p"}},
            "bad": {"prober": "http", "http": {"fail_if_body_matches_regexp": ["("]}},
            "name": {"prober": "dns", "dns": {"query_name": "example.com"}},
        },
        "probes": [
            {"name": "a", "target": "http://a", "module": "cel"},
            {"name": "b", "target": "http://b", "module": "name"},
            {"name": "c", "target": "http://c", "module": "none"},
            {"name": "d", "target": "d"},
            {"name": "e", "target": "http://user:password@e"},
            {"name": "f", "target": "http://f", "interval": "1s", "timeout": "2s"},
            {"name": "g", "target": "http://g"},
            {"name": "g", "target": "http://g"},
        ],
    }

    with pytest.raises(ProbesFileError) as raised:
        read(tmp_path, document)

    lines = str(raised.value).splitlines()
    for part in (
        "unknown probs",
        "module 'bad': http.fail_if_body_matches_regexp: '('",
        "'cel' uses what the collector does not support: http.fail_if_body_json_matches_cel, http.proxy_url",
        "'name' uses what the collector does not support: prober dns",
        "there is no module 'none'",
        "target 'd' of a TCP probe is host:port",
        "target holds a password",
        "a check must end before the next one begins",
        "the name 'g' is taken",
    ):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert "password@" not in str(raised.value)


def test_modules_of_the_exporter_are_read_from_its_file(tmp_path: Path) -> None:
    """What a module asks that means nothing here is said; with an exporter everything is its matter."""
    modules = {"web": {"prober": "http", "timeout": "3s", "http": {"enable_http2": False, "preferred_ip_protocol": "ip4"}}}
    (tmp_path / "blackbox.yml").write_text(yaml.safe_dump({"modules": modules}))
    document: Json = {"modules_file": "blackbox.yml", "probes": [{"name": "a", "target": "http://a/?key=1", "module": "web"}]}

    ours = read(tmp_path, document)
    theirs = read(tmp_path, document | {"blackbox_url": "http://127.0.0.1:9115", "modules_file": None})
    patient = read(tmp_path, {"probes": [{"name": "slow", "target": "http://a/", "timeout": "20s"}]})

    [probe] = ours.probes
    assert (probe.timeout_s, probe.interval_s, probe.prefers_ipv6, probe.by) == (3.0, 10.0, False, "collector")
    assert (patient.probes[0].timeout_s, patient.probes[0].interval_s) == (20.0, 20.0)
    assert probe.shown_target == "http://a/"
    assert ours.notes == ("module 'web': http.enable_http2 has no effect here",)
    assert theirs.probes[0].by == "blackbox"


# --- what is kept of it -----------------------------------------------------------------------------------------------

PROBE = Probe("shop", "shop", "http://shop/", "http_2xx", HttpModule(), "collector", 30.0, 5.0, 1.0)


def test_a_state_says_since_when_it_is_so() -> None:
    states = []
    state = None
    for n, reason in enumerate(["", "", "refused", "refused", ""]):
        state, is_change = after(state, PROBE, Result(START + timedelta(seconds=n), 0.1, reason))  # type: ignore[arg-type]
        states.append((is_change, (state.since - START).seconds, state.failures))

    assert states == [(True, 0, 0), (False, 0, 0), (True, 2, 1), (False, 2, 2), (True, 4, 0)]
    assert state is not None
    assert word_of(PROBE, state, START + timedelta(seconds=4)) == "ok"
    assert word_of(PROBE, state, START + timedelta(seconds=4) + PROBE.fresh_for + timedelta(seconds=1)) == "unknown"
    slow, _ = after(state, PROBE, Result(START, 1.5))
    assert word_of(PROBE, slow, START) == "slow"


def test_a_failure_is_looked_at_again_soon_and_not_for_ever() -> None:
    failed, pauses = None, []
    for _ in range(5):
        failed, _is_change = after(failed, PROBE, Result(START, 0.1, "refused"))
        pauses.append(pause_after(PROBE, failed, 0.1))

    assert pauses == [CONFIRM_AFTER_S] * 3 + [pytest.approx(33.0)] * 2


async def test_only_changes_are_kept_and_only_so_many(database_url: str, clock: FrozenClock) -> None:
    database, metrics = Database(database_url), CollectorMetrics()
    service = ProbeService(database, metrics.probes, clock, [PROBE])
    try:
        for _ in range(3):
            await service.took(PROBE, Result(clock(), 0.1))
        few = await service.changes("shop", 100)
        for n in range(CHANGES_KEPT + 5):
            clock.advance(1)
            await service.took(PROBE, Result(clock(), 0.1, "" if n % 2 else "refused", "x", certificate_expires_at=START))
        many = await service.changes("shop", 1000)
        [now] = await service.now()
        # Another replica takes over, with a file that names it no more.
        await ProbeService(database, metrics.probes, clock, [replace(PROBE, name="other")]).begin()
        forgotten = await service.changes("shop", 1000)
    finally:
        await database.close()

    assert len(few) == 1
    assert len(many) == CHANGES_KEPT
    assert many[0].at == clock()
    assert now.state is not None
    assert now.state.certificate_expires_at == START
    assert forgotten == []


async def test_a_probe_that_nobody_checks_any_more_counts_as_failed(sqlite_url: str, clock: FrozenClock) -> None:
    """A check that stopped must not look healthy for ever."""
    database, metrics = Database(sqlite_url), CollectorMetrics()
    now = [1000.0]
    metrics.probes._monotonic = lambda: now[0]
    service = ProbeService(database, metrics.probes, clock, [PROBE])
    try:
        await service.took(PROBE, Result(clock(), 0.1, status_code=200))
        fresh = metrics.render().decode()
        now[0] += PROBE.fresh_for.total_seconds() + 1
        stale = metrics.render().decode()
        service.end()
    finally:
        await database.close()

    labels = '{isolation_probe="shop",service="shop"}'
    assert f"isolation_probe_success{labels} 1.0" in fresh
    assert f"isolation_probe_http_status_code{labels} 200.0" in fresh
    assert f"isolation_probe_success{labels} 0.0" in stale
    assert f"isolation_probe_duration_seconds{labels}" not in stale
    assert "isolation_probe_success{" not in metrics.render().decode()


# --- the whole --------------------------------------------------------------------------------------------------------


def asking(running: Any) -> tuple[Callable[[str], str], Callable[[], dict[str, str]]]:
    """Return what reads a page of a running collector, and what reads the state of each of its probes."""

    def answer(path: str) -> str:
        with urllib.request.urlopen(urllib.request.Request(running.url + path, headers=running.reading)) as got:
            return str(got.read().decode())

    def states() -> dict[str, str]:
        return {item["name"]: item["state"] for item in json.loads(answer("/v1/probes"))["items"]}

    return answer, states


def test_a_collector_checks_what_its_file_names(plain: str, tmp_path: Path) -> None:
    down = free_port()
    probes = [
        {"name": "shop", "target": f"{plain}/healthz?key=secret", "interval": "2s", "service": "web"},
        {"name": "down", "target": f"http://127.0.0.1:{down}/", "interval": "2s"},
    ]
    (tmp_path / "probes.yml").write_text(yaml.safe_dump({"probes": probes}))

    with collector(tmp_path, settings={"COLLECTOR_PROBES_FILE": str(tmp_path / "probes.yml")}) as running:
        answer, states = asking(running)
        eventually(lambda: states() == {"down": "failing", "shop": "ok"}, "both endpoints were checked")
        [first, second] = json.loads(answer("/v1/probes?changes=5"))["items"]
        assert (first["name"], first["last"]["reason"], len(first["changes"])) == ("down", "refused", 1)
        assert (second["service"], second["last"]["status_code"]) == ("web", 200)
        assert "secret" not in answer("/v1/probes")
        assert [one["name"] for one in json.loads(answer("/v1/probes?service=web"))["items"]] == ["shop"]
        assert 'isolation_probe_success{isolation_probe="down",service="down"} 0.0' in answer("/metrics")
        # What nobody listens to comes to life.
        server = ThreadingHTTPServer(("127.0.0.1", down), Pages)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            eventually(lambda: states()["down"] in ("ok", "slow"), "the endpoint is found to be back")
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
        assert len(json.loads(answer("/v1/probes?changes=5&service=down"))["items"][0]["changes"]) >= 2


async def test_a_file_that_was_changed_is_read_again_and_one_with_a_mistake_is_told(tmp_path: Path) -> None:
    file, modules = tmp_path / "probes.yml", tmp_path / "blackbox.yml"
    modules.write_text("modules: {web: {prober: http}}")
    file.write_text("modules_file: blackbox.yml\nprobes: [{name: a, target: http://a/, module: web}]")
    watched = WatchedFile(file, None)

    assert [one.name for one in watched.asked.probes] == ["a"]
    assert await watched.changed() is None
    modules.write_text("modules: {web: {prober: http, timeout: 9s}}")
    asked = await watched.changed()
    assert asked is not None
    assert asked.probes[0].timeout_s == 9.0
    file.write_text("probes: [{name: a}, {name: b, target: http://b/, module: none}]")
    assert await watched.changed() is None
    assert "target is None" in watched.problem
    assert "there is no module 'none'" in watched.problem
    assert await watched.changed() is None
    assert watched.asked is asked
    file.unlink()
    assert await watched.changed() is None
    assert "cannot be read" in watched.problem
    # As Kubernetes does it: a link is turned to another version.
    (tmp_path / "second.yml").write_text("probes: [{name: c, target: http://c/}]")
    file.symlink_to(tmp_path / "second.yml")
    asked = await watched.changed()
    assert asked is not None
    assert ([one.name for one in asked.probes], watched.problem) == (["c"], "")


def test_a_collector_follows_its_changed_file(plain: str, tmp_path: Path) -> None:
    file = tmp_path / "probes.yml"

    def ask_for(*names: str) -> None:
        probes = [{"name": name, "target": f"{plain}/healthz", "interval": "2s", "slow_after": "60s"} for name in names]
        file.write_text(yaml.safe_dump({"probes": probes}))

    ask_for("first", "second")
    with collector(tmp_path, settings={"COLLECTOR_PROBES_FILE": str(file)}) as running:
        answer, states = asking(running)
        eventually(lambda: states() == {"first": "ok", "second": "ok"}, "both endpoints were checked")
        ask_for("second", "third")
        eventually(lambda: states() == {"second": "ok", "third": "ok"}, "the changed file is followed")
        assert 'isolation_probe="first"' not in answer("/metrics")
        file.write_text("probes: []")
        eventually(lambda: "file_problem" in json.loads(answer("/v1/probes")), "the mistake is told")
        assert states() == {"second": "ok", "third": "ok"}
        assert "isolation_probe_config_last_reload_successful 0.0" in answer("/metrics")
        ask_for("second")
        eventually(lambda: "file_problem" not in json.loads(answer("/v1/probes")), "the mended file is followed")
        assert "isolation_probe_config_last_reload_successful 1.0" in answer("/metrics")


def test_a_wrong_file_keeps_the_collector_from_starting(tmp_path: Path, sqlite_url: str) -> None:
    from isolation_monitor.collector.app import create_app
    from isolation_monitor.collector.settings import load_settings

    (tmp_path / "probes.yml").write_text("probes: [{name: a, target: a}]")
    settings = load_settings(database_url=sqlite_url, send_token="s", read_token="r", probes_file=tmp_path / "probes.yml")

    with pytest.raises(SettingsError, match=r"COLLECTOR_PROBES_FILE: .*target 'a' of a TCP probe is host:port"):
        create_app(settings)


def test_the_command_checks_once(plain: str, tmp_path: Path) -> None:
    probes = [{"name": "well", "target": f"{plain}/healthz", "slow_after": "60s"}, {"name": "ill", "target": f"{plain}/broken"}]
    (tmp_path / "probes.yml").write_text(yaml.safe_dump({"probes": probes}))

    both = isomon("probe", "probes.yml", cwd=tmp_path)
    one = isomon("probe", "probes.yml", "--only", "well", "--json", cwd=tmp_path)

    assert both.returncode == 1, both.stderr
    assert "status: the status is 500" in both.stdout
    assert "1 of 2 endpoints failing" in both.stdout
    assert one.returncode == 0
    assert [item["state"] for item in json.loads(one.stdout)["items"]] == ["ok"]


async def test_a_blackbox_exporter_is_asked_where_one_is_named(plain: str, tmp_path: Path) -> None:
    modules = {
        "http_2xx": {"prober": "http", "timeout": "5s", "http": {"preferred_ip_protocol": "ip4"}},
        "body": {"prober": "http", "http": {"fail_if_body_not_matches_regexp": ["nothing like it"], "preferred_ip_protocol": "ip4"}},
    }
    targets = {
        "well": (f"{plain}/healthz", "http_2xx", ""),
        "gone": (f"{plain}/gone", "http_2xx", "status"),
        "body": (f"{plain}/x", "body", "body"),
        "refused": (f"http://127.0.0.1:{free_port()}/", "http_2xx", "unreachable"),
        "slow": (f"{plain}/slow", "http_2xx", "timeout"),
        "unknown": (f"{plain}/x", "nix", "exporter"),
    }
    with blackbox(tmp_path, yaml.safe_dump({"modules": modules})) as url:
        entries = [{"name": name, "target": target, "module": module, "timeout": "1s"} for name, (target, module, _why) in targets.items()]
        asks = read(tmp_path, {"blackbox_url": url, "probes": entries})
        prober = Prober(asks.blackbox_url, utc_now)
        try:
            found = {probe.name: await prober.check(probe) for probe in asks.probes}
        finally:
            await prober.close()
    gone = Prober(asks.blackbox_url, utc_now)
    nobody = await gone.check(asks.probes[0])
    await gone.close()

    assert {name: one.reason for name, one in found.items()} == {name: why for name, (_target, _module, why) in targets.items()}
    assert found["well"].status_code == 200
    assert found["well"].phases_s.keys() >= {"connect", "processing"}
    assert found["gone"].status_code == 404
    assert "nix" in found["unknown"].detail
    assert nobody.reason == "exporter"


def test_the_end_of_a_certificate_is_read_as_others_read_it(tmp_path: Path) -> None:
    """By hand, because `ssl` tells it of verified certificates alone."""
    from cryptography import x509

    from isolation_monitor.collector.probes.connecting import not_after

    certificate, _key = Authority(tmp_path, "authority").certificate("server")
    pem = certificate.read_text()

    assert not_after(ssl.PEM_cert_to_DER_cert(pem)) == x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    assert not_after(ssl.PEM_cert_to_DER_cert(pem)) > datetime.now(UTC)


# --- what must not hold up the collector ------------------------------------------------------------------------------


async def test_an_expression_that_takes_long_holds_nobody_up(prober: Prober, tmp_path: Path) -> None:
    """`.*ok.*` over a line of a mebibyte takes an hour, in which the collector would take no record."""
    with Bare(answer(b"x" * 1_000_000)) as server:
        module = {"fail_if_body_not_matches_regexp": [".*ok.*"]}
        probe = asked(tmp_path, f"http://127.0.0.1:{server.port}/", module, timeout="2s")
        checking = asyncio.create_task(prober.check(probe))
        turns = 0
        while not checking.done():
            await asyncio.sleep(0.01)
            turns += 1

    assert (checking.result().reason, checking.result().status_code) == ("timeout", 200)
    assert "during search" in checking.result().detail
    assert turns > 20


async def test_a_long_body_is_searched_as_a_short_one(prober: Prober, tmp_path: Path) -> None:
    with Bare(answer("é".encode() * 40_000 + b" it is ok")) as server:
        target = f"http://127.0.0.1:{server.port}/"
        found = await prober.check(asked(tmp_path, target, {"fail_if_body_not_matches_regexp": ["is +ok$"]}))
        missing = await prober.check(asked(tmp_path, target, {"fail_if_body_not_matches_regexp": ["is +bad$"]}))

    assert (found.reason, missing.reason) == ("", "body")
    assert found.phases_s.keys() == {"resolve", "connect", "processing", "transfer"}


async def test_a_server_that_does_not_end_tls_is_well_and_holds_nobody_up(prober: Prober, tmp_path: Path) -> None:
    """Asyncio waits 30 s for its goodbye; a check that is cancelled meanwhile must end, or the collector never does."""
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.certificate("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Bare(b"220 ready\r\n", context) as server:
        module = {"tls": True, "tls_config": {"ca_file": str(authority.file)}, "query_response": [{"expect": "^220"}]}
        probe = asked(tmp_path, f"127.0.0.1:{server.port}", module, prober="tcp")
        result = await prober.check(probe)

        async def for_ever() -> None:
            while True:
                await prober.check(probe)

        checking = asyncio.create_task(for_ever())
        await asyncio.sleep(0.4)
        checking.cancel()
        done, _waiting = await asyncio.wait([checking], timeout=10)

    assert result.is_success, result
    assert "close" not in result.phases_s
    assert done


async def test_a_redirect_to_no_address_is_the_endpoints_failure(prober: Prober, tmp_path: Path) -> None:
    with Bare(answer(b"", "302 Found", "Location: http://[::1")) as server:
        result = await prober.check(asked(tmp_path, f"http://127.0.0.1:{server.port}/"))

    assert (result.reason, result.status_code) == ("redirect", 302)


def test_a_certificate_that_an_endpoint_no_longer_has_expires_for_nobody() -> None:
    """A probe whose target went from https to http would else have CertificateExpiresSoon for ever."""
    probe = Probe("it", "it", "http://x/", "http_2xx", HttpModule(), "collector", 30, 5, 1)
    seen, _ = after(None, probe, Result(START, 0.1, certificate_expires_at=START))
    expired, _ = after(seen, probe, Result(START, 0.1, "certificate"))
    plain, _ = after(expired, probe, Result(START, 0.1))

    assert (expired.certificate_expires_at, plain.certificate_expires_at) == (START, None)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({"probes": [{"name": "it", "target": "http://x/", "module": ["http_2xx"]}]}, "write the name of one"),
        ({"modules": {"m": {"prober": "http", "http": {"headers": {"a b": "c"}}}}}, "no name of a header"),
        ({"modules": {"m": {"prober": "http", "http": {"headers": {"X": "é"}}}}}, "one line of ASCII"),
        ({"modules": {"m": {"prober": "http", "http": {"body_size_limit": -1}}}}, "write a number of bytes"),
        ({"modules": {"m": {"prober": "tcp", "tcp": {"source_ip_address": "eth0"}}}}, "write an IP address"),
    ],
)
def test_what_no_check_could_use_is_told_at_the_start(document: Json, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ProbesFileError, match=complaint):
        read(tmp_path, {"probes": [{"name": "it", "target": "http://x/"}]} | document)
