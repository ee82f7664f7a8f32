"""Containers on a real Docker engine: they crash, hang on SIGTERM, run out of memory, restart in a loop, are removed by force."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isolation_monitor.collector.clock import rfc3339, utc_now
from isolation_monitor.collector.containers.engine import Engine, EngineAway
from isolation_monitor.collector.docker_addresses import DockerAddress
from tests.collector.conftest import READ, SEND, Api, bearer, emptied, until
from tests.real_parts.docker_engine import DockerEngine, docker_engine
from tests.real_parts.postgres import Postgres
from tests.real_parts.processes import free_port

HANGS = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
OBEYS = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
EATS = ("sh", "-c", "sleep 0.5; head -c 100000000 /dev/zero | tail")
Followed = Callable[..., AbstractAsyncContextManager["Watch"]]

_numbers = itertools.count(1)


class Watch:
    """A collector that follows one engine."""

    def __init__(self, api: Api, engine: DockerEngine) -> None:
        self.api = api
        self.engine = engine

    async def events(self, **asked: str) -> list[dict[str, Any]]:
        query = "&".join(f"{name}={value}" for name, value in asked.items())
        answer = await self.api.get(f"/v1/container-events?limit=1000&{query}")
        assert answer.status_code == 200, answer.text
        return list(reversed(answer.json()["items"]))

    async def found(self, number: int = 1, **asked: str) -> list[dict[str, Any]]:
        """Wait for so many events and return them, oldest first."""

        async def are_there() -> bool:
            return len(await self.events(**asked)) >= number

        await until(are_there)
        return await self.events(**asked)

    async def container(self, name: str) -> dict[str, Any]:
        items = (await self.api.get("/v1/containers?removed=true")).json()["items"]
        return next((item for item in items if item["name"] == name), {})

    async def shows(self, name: str, **facts: object) -> dict[str, Any]:
        async def does() -> bool:
            shown = await self.container(name)
            return bool(shown) and all(shown[key] == value for key, value in facts.items())

        await until(does)
        return await self.container(name)

    async def metric(self, name: str, **labels: str) -> float | None:
        self.api.app.state.runtime.metrics.render()
        value: float | None = self.api.app.state.runtime.metrics.registry.get_sample_value(name, labels)
        return value

    async def counts(self, value: float, name: str, **labels: str) -> None:
        async def does() -> bool:
            return await self.metric(name, **labels) == value

        await until(does)

    async def do(self, *asked: Any, **more: Any) -> Any:
        """Ask the engine, off the loop."""
        return await asyncio.to_thread(self.engine.ask, *asked, **more)

    async def run(self, *command: str, **about: Any) -> str:
        """Start a container with a name of its own and return the name."""
        name = f"box-{next(_numbers)}"
        await asyncio.to_thread(self.engine.run, name, *command, **about)
        return name


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as running:
        yield running


@pytest.fixture
def followed(make_api: Callable[..., Any], sqlite_url: str) -> Followed:
    @asynccontextmanager
    async def build(engine: DockerEngine, url: str = "", **settings: object) -> AsyncIterator[Watch]:
        about = {"docker_engines": engine.url, "container_interval_s": 1} | settings
        async with make_api(url or sqlite_url, utc_now, **about) as api:
            watch = Watch(api, engine)
            (follower,) = api.app.state.followers
            await until(lambda: follower.rounds > 0)
            yield watch

    return build


@pytest.fixture
async def watch(followed: Followed, engine: DockerEngine) -> AsyncIterator[Watch]:
    async with followed(engine) as running:
        yield running


async def test_a_crash_is_told_with_its_exit_code(watch: Watch) -> None:
    name = await watch.run("sh", "-c", "exit 3", labels={"isolation.owner": "shop"})

    (death,) = await watch.found(kind="death", container=name)

    assert (death["exit_code"], death["reason"], death["owner"], death["found_by"]) == (3, "error", "shop", "event")
    shown = await watch.shows(name, state="exited")
    assert (shown["exit_code"], shown["deaths"], shown["orphan"]) == (3, 1, False)
    await watch.counts(1, "isolation_container_exits_total", container_name=name, isolation_reason="error")
    assert await watch.metric("isolation_container_exits_total", container_name=name, isolation_reason="clean") == 0


async def test_a_stop_that_is_obeyed_is_a_clean_end(watch: Watch) -> None:
    name = await watch.run(*OBEYS)

    await watch.do("POST", f"/containers/{name}/stop?t=10")

    (death,) = await watch.found(kind="death", container=name)
    assert (death["reason"], death["forced"]) == ("clean", None)
    assert [one["kind"] for one in await watch.events(container=name)] == ["stop", "death"]


async def test_a_stop_that_needed_sigkill_says_how_long_it_waited(watch: Watch) -> None:
    name = await watch.run(*HANGS)

    await watch.do("POST", f"/containers/{name}/stop?t=1")

    (killed,) = await watch.found(kind="stop_sigkill", container=name)
    assert killed["signal"] == "SIGKILL"
    assert 0.9 <= killed["after_stop_s"] < 30
    (death,) = await watch.found(kind="death", container=name)
    assert (death["reason"], death["forced"], death["after_stop_s"]) == ("killed", False, killed["after_stop_s"])
    await watch.counts(1, "isolation_container_stop_sigkills_total")


async def test_a_container_that_is_out_of_memory_is_told_apart_from_one_that_was_killed(watch: Watch) -> None:
    hungry = await watch.run(*EATS, Memory=8 << 20, MemorySwap=8 << 20)
    killed = await watch.run("sleep", "600")
    await watch.do("POST", f"/containers/{killed}/kill")

    (starved,) = await watch.found(kind="death", container=hungry)
    (shot,) = await watch.found(kind="death", container=killed)

    assert (starved["exit_code"], starved["reason"]) == (137, "oom_killed")
    assert (shot["exit_code"], shot["reason"], shot["forced"]) == (137, "killed", True)
    assert len(await watch.found(kind="out_of_memory", container=hungry)) == 1


async def test_one_that_is_killed_past_the_engine_has_crashed(watch: Watch) -> None:
    """Nobody asked the engine for it, so nobody knows of it: ContainerCrashed tells."""
    name = await watch.run("sleep", "600")

    os.kill((await asyncio.to_thread(watch.engine.state, name))["Pid"], signal.SIGKILL)

    (death,) = await watch.found(kind="death", container=name)
    assert (death["exit_code"], death["reason"], death["forced"]) == (137, "error", None)
    await watch.counts(1, "isolation_container_exits_total", container_name=name, isolation_reason="error")


@pytest.mark.slow
async def test_memory_and_processors_are_shown_beside_their_limits(watch: Watch) -> None:
    limits = {"Memory": 32 << 20, "CpuPeriod": 100_000, "CpuQuota": 50_000}
    name = await watch.run("sh", "-c", "head -c 6000000 /dev/zero | tail -c 6000000 | sleep 600", **limits)
    free = await watch.run("sleep", "600")

    async def is_measured() -> bool:
        used = await watch.metric("isolation_container_memory_usage_bytes", container_name=name)
        return used is not None and used > 4e6

    await until(is_measured)
    assert await watch.metric("isolation_container_memory_limit_bytes", container_name=name) == 32 << 20
    assert await watch.metric("isolation_container_memory_limit_bytes", container_name=free) is None
    assert await watch.metric("isolation_container_cpu_limit_cores", container_name=name) == 0.5
    assert await watch.metric("isolation_container_cpu_limit_cores", container_name=free) is None
    assert (await watch.metric("isolation_container_cpu_seconds_total", container_name=name) or 0) > 0
    for one in (name, free):
        await watch.do("DELETE", f"/containers/{one}?force=1")


@pytest.mark.slow
async def test_a_restart_loop_counts_each_death_and_each_restart(watch: Watch) -> None:
    name = await watch.run("sh", "-c", "exit 7", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 4})

    deaths = await watch.found(5, kind="death", container=name)

    assert [one["detail"]["death"] for one in deaths] == [1, 2, 3, 4, 5]
    await watch.counts(4, "isolation_container_restarts_total", container_name=name)
    await asyncio.sleep(2.5)  # two more listings, which know of all five as well
    assert len(await watch.events(kind="death", container=name)) == 5


async def test_a_forced_removal_is_recorded_with_who_and_what(watch: Watch) -> None:
    """The engine does not say who: the guard does, and may say so before or after the engine has told."""
    name = await watch.run("sleep", "600", labels={"com.docker.compose.project": "shop"})
    identity = watch.engine.ask("GET", f"/containers/{name}/json")["Id"]
    await watch.do("DELETE", f"/containers/{name}?force=1")
    (removal,) = await watch.found(kind="removal", container=name)
    assert (removal["forced"], removal["signal"], removal["actor"], removal["owner"]) == (True, "SIGKILL", None, "shop")

    about = {"id": f"action-{name}", "time": rfc3339(utc_now()), "actor": "ann", "host": "build-7", "command": "docker rm -f"}
    what = {"action": "remove", "container": name, "container_id": identity[:12], "signal": "SIGKILL", "forced": True}
    action = {**about, **what, "image": None, "result": "done", "reason": ""}
    first, again = [
        await watch.api.client.post("/v1/container-actions", json={"actions": [action]}, headers=bearer(SEND)) for _ in range(2)
    ]

    assert (first.status_code, first.json()["stored"], again.json()["stored"]) == (200, 1, 0)
    (removal,) = await watch.events(kind="removal", container=name)
    assert (removal["actor"], removal["host"]) == ("ann", "build-7")
    await watch.counts(1, "isolation_container_removals_total", isolation_mode="forced")
    assert (await watch.container(name))["state"] == "removed"


async def test_a_kill_by_hand_is_counted_beside_forced_removals_and_obeyed_stops(watch: Watch) -> None:
    """`docker kill` and `docker stop -t 0`; `docker rm -f` is one act with an alert of its own."""
    killed, rushed, removed, stopped = [await watch.run(*OBEYS) for _ in range(4)]
    await watch.do("POST", f"/containers/{killed}/kill")
    await watch.do("POST", f"/containers/{rushed}/stop?t=0")
    await watch.do("DELETE", f"/containers/{removed}?force=1")
    await watch.do("POST", f"/containers/{stopped}/stop?t=10")

    for name in (killed, rushed):
        await watch.counts(1, "isolation_container_kills_total", container_name=name)
    for name in (removed, stopped):
        assert await watch.metric("isolation_container_kills_total", container_name=name) == 0
    (kill,) = await watch.events(kind="kill", container=killed)
    assert (kill["signal"], kill["forced"], kill["after_stop_s"]) == ("SIGKILL", True, None)


async def test_a_worker_that_starves_in_a_container_that_lives_on_is_counted(watch: Watch) -> None:
    """The engine calls such a container well: only its `oom` event tells."""
    name = await watch.run("sh", "-c", "sleep 1; (head -c 100000000 /dev/zero | tail); sleep 600", Memory=8 << 20, MemorySwap=8 << 20)

    await watch.counts(1, "isolation_container_oom_survived_total", container_name=name)

    assert (await watch.container(name))["state"] == "running"
    assert await watch.metric("isolation_container_exits_total", container_name=name, isolation_reason="oom_killed") == 0
    assert len(await watch.events(kind="out_of_memory", container=name)) == 1
    await watch.do("DELETE", f"/containers/{name}?force=1")


async def test_a_removal_after_a_stop_is_graceful(watch: Watch) -> None:
    name = await watch.run(*OBEYS)
    await watch.do("POST", f"/containers/{name}/stop?t=10")
    await watch.do("DELETE", f"/containers/{name}")

    (removal,) = await watch.found(kind="removal", container=name)

    assert (removal["forced"], removal["detail"]["mode"]) == (False, "graceful")


async def test_destructive_commands_without_a_pause_are_one_storm(watch: Watch) -> None:
    names = [await watch.run("sleep", "600") for _ in range(4)]
    await asyncio.gather(*(watch.do("POST", f"/containers/{name}/kill") for name in names))

    (storm,) = await watch.found(kind="command_storm")

    assert (storm["detail"]["commands"], sorted(storm["detail"]["containers"]), storm["actor"]) == (4, sorted(names), "unknown")
    await watch.counts(1, "isolation_container_command_storms_total")


@pytest.mark.slow
async def test_a_container_that_turns_unhealthy_says_so(watch: Watch) -> None:
    check = {"Test": ["CMD", "cat", "/tmp/well"], "Interval": 300_000_000, "Retries": 1, "StartPeriod": 0}
    name = await watch.run("sh", "-c", "touch /tmp/well; sleep 3; rm /tmp/well; sleep 600", Healthcheck=check)

    await watch.shows(name, health="unhealthy")

    told = [one["detail"] for one in await watch.found(2, kind="health", container=name)]
    assert [one["to"] for one in told][-2:] == ["healthy", "unhealthy"]
    assert await watch.metric("isolation_container_health_state", container_name=name, isolation_state="unhealthy") == 1

    await watch.do("POST", f"/containers/{name}/stop?t=1")
    await watch.shows(name, state="exited", health="none")
    assert await watch.metric("isolation_container_health_state", container_name=name, isolation_state="unhealthy") == 0
    await watch.do("DELETE", f"/containers/{name}?force=1")


async def test_what_nobody_owns_and_what_has_expired_is_counted(followed: Followed, engine: DockerEngine) -> None:
    engine.ask("POST", "/volumes/create", {"Name": "left"})
    async with followed(engine, container_orphan_after_s=0) as watch:
        orphan = await watch.run("true")
        late = await watch.run("sleep", "600", labels={"isolation.ttl": "1s", "isolation.owner": "shop"})

        await watch.shows(orphan, orphan=True)
        await watch.shows(late, expired=True, orphan=False)
        await watch.counts(1, "isolation_container_expired", isolation_engine="docker")
        await watch.counts(1, "isolation_container_dangling_volumes", isolation_engine="docker")
        assert (await watch.metric("isolation_container_orphans", isolation_engine="docker") or 0) >= 1
        await watch.counts(1, "isolation_container_orphan_volumes", isolation_engine="docker")
        (told,) = (await watch.api.get("/v1/containers")).json()["engines"]
        assert [one["name"] for one in told["orphan_volumes"]] == ["left"]
    engine.ask("DELETE", f"/containers/{late}?force=1")
    engine.ask("DELETE", "/volumes/left")


async def test_sigkill_as_the_stop_signal_makes_no_kill_of_a_stop(watch: Watch) -> None:
    stopped, again, killed, removed = [await watch.run("sleep", "600", StopSignal="SIGKILL") for _ in range(4)]
    await watch.do("POST", f"/containers/{stopped}/stop?t=10")
    await watch.do("POST", f"/containers/{again}/restart?t=10")
    await watch.do("POST", f"/containers/{killed}/kill")
    await watch.do("DELETE", f"/containers/{removed}?force=1")

    await watch.counts(1, "isolation_container_kills_total", container_name=killed)
    for name, kinds in ((stopped, ["stop"]), (again, ["stop"]), (killed, ["kill"]), (removed, ["kill"])):
        told = [one["kind"] for one in await watch.events(container=name) if one["kind"] in ("stop", "kill", "stop_sigkill")]
        assert (name, told) == (name, kinds)
    for name in (stopped, again, removed):
        assert await watch.metric("isolation_container_kills_total", container_name=name) == 0
    assert (await watch.container(stopped))["reason"] == "clean"
    (removal,) = await watch.events(kind="removal", container=removed)
    assert removal["forced"]
    await watch.do("DELETE", f"/containers/{again}?force=1")


async def test_a_volume_that_a_short_job_uses_is_not_unused(followed: Followed, engine: DockerEngine) -> None:
    """It is in no container at either look around the job."""
    for name in ("nightly", "left"):
        engine.ask("POST", "/volumes/create", {"Name": name})
    async with followed(engine, container_orphan_after_s=0) as watch:

        async def unused_since() -> dict[str, str]:
            (told,) = (await watch.api.get("/v1/containers")).json()["engines"]
            return {one["name"]: one["unused_since"] for one in told["orphan_volumes"]}

        async def both() -> bool:
            return len(await unused_since()) == 2

        await until(both)
        first = await unused_since()
        job = await watch.run("true", AutoRemove=True, Binds=["nightly:/tmp"])

        async def was_used() -> bool:
            return (await unused_since()).get("nightly", "") > first["nightly"]

        await until(was_used)
        assert (await unused_since())["left"] == first["left"]

        async def is_gone() -> bool:
            return [f"/{job}"] not in [one["Names"] for one in await asyncio.to_thread(engine.ask, "GET", "/containers/json?all=1")]

        await until(is_gone)
    for name in ("nightly", "left"):
        engine.ask("DELETE", f"/volumes/{name}")


@pytest.mark.slow
async def test_what_died_while_nobody_followed_is_found_and_counted_once(followed: Followed, engine: DockerEngine) -> None:
    async with followed(engine) as watch:
        stays = await watch.run("sh", "-c", "sleep 2; exit 9")
        loops = await watch.run("sh", "-c", "sleep 1; exit 5", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 2})
        goes = await watch.run("sh", "-c", "sleep 2; exit 1", AutoRemove=True)
        await watch.shows(goes, state="running")
    await asyncio.to_thread(engine.exited, loops)
    await asyncio.to_thread(engine.exited, stays)
    never_seen = f"box-{next(_numbers)}"
    engine.run(never_seen, "sh", "-c", "exit 4")
    engine.exited(never_seen)

    async with followed(engine) as watch:
        seen = Counter(one["container"] for one in await watch.events(kind="death"))

        assert {name: seen[name] for name in (stays, loops, goes, never_seen)} == {stays: 1, loops: 3, goes: 1, never_seen: 1}


@pytest.mark.slow
async def test_an_engine_that_restarts_takes_no_death_with_it(followed: Followed, sqlite_url: str) -> None:
    """It forgets its events, and what died meanwhile is in none of them."""
    with docker_engine(live_restore=True) as engine:
        async with followed(engine) as watch:
            names = [await watch.run("sh", "-c", f"sleep {n / 2}; exit 1") for n in range(1, 13)]
            gone = await watch.run("sh", "-c", "sleep 3; exit 1", AutoRemove=True)
            lives = await watch.run("sleep", "600")
            await asyncio.to_thread(engine.stop)
            await watch.counts(0, "isolation_container_engine_up", isolation_engine="docker")
            assert await watch.metric("isolation_container_state", container_name=lives, isolation_state="running") is None
            await asyncio.to_thread(engine.start)

            await watch.counts(1, "isolation_container_engine_up", isolation_engine="docker")
            deaths = Counter(one["container"] for one in await watch.found(13, kind="death"))

            assert deaths == Counter([*names, gone])
            assert [one["detail"]["to"] for one in await watch.events(kind="engine")] == ["down", "up"]
            await watch.shows(lives, state="running", deaths=0)


@pytest.mark.slow
async def test_one_replica_follows_and_another_goes_on_from_there(
    make_api: Callable[..., Any], engine: DockerEngine, postgres: Postgres
) -> None:
    """Both see the same engine; what one has counted the other does not count again."""
    url = postgres.url("shared")
    await emptied(url)
    settings = {"docker_engines": engine.url, "container_interval_s": 1}
    async with make_api(url, utc_now, **settings) as second_api:
        second = Watch(second_api, engine)
        async with make_api(url, utc_now, **settings) as first_api:
            first = Watch(first_api, engine)

            async def one_leads() -> bool:
                ups = [await one.metric("isolation_container_engine_up", isolation_engine="docker") for one in (first, second)]
                return sorted(up or 0 for up in ups) == [0, 1] and None in ups

            await until(one_leads)
            before = await first.run("sh", "-c", "exit 2")
            assert len(await second.found(kind="death", container=before)) == 1, "both answer, whoever follows"
        across = await second.run("sh", "-c", "exit 3")

        await second.counts(1, "isolation_container_engine_up", isolation_engine="docker")
        assert len(await second.found(kind="death", container=across)) == 1
        assert len(await second.events(kind="death", container=before)) == 1


async def test_answers_need_the_read_token(watch: Watch) -> None:
    for path in ("/v1/containers", "/v1/container-events", "/v1/container-actions"):
        assert (await watch.api.get(path, None)).status_code == 401
        assert (await watch.api.get(path, SEND)).status_code == 403
    assert (await watch.api.post("/v1/container-actions", {"actions": []}, READ)).status_code == 403


@pytest.mark.slow
async def test_an_engine_is_reached_by_tls_with_a_certificate_and_not_without(followed: Followed, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    port = free_port()
    tls = [f"--tls{name}={tmp_path / file}" for name, file in (("cacert", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem"))]
    with docker_engine(hosts=[f"tcp://127.0.0.1:{port}"], flags=["--tlsverify", *tls]) as engine:
        async with followed(engine, docker_engines=f"build=tcp://127.0.0.1:{port}", docker_cert_dir=tmp_path) as watch:
            name = await watch.run("sh", "-c", "exit 3")

            (death,) = await watch.found(kind="death", container=name)
            assert (death["engine"], death["exit_code"]) == ("build", 3)
        plain = Engine(DockerAddress("plain", f"http://127.0.0.1:{port}"))
        try:
            with pytest.raises(EngineAway, match="400"):
                await plain.info()
        finally:
            await plain.close()


def make_certificates(folder: Path) -> None:
    """Write an authority and one certificate of it, good for both sides, as `ca.pem`, `cert.pem` and `key.pem`."""
    now, name = utc_now(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "isomon test")])
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))

    def certificate(subject: x509.Name, its_key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(name).public_key(its_key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(minutes=5))
        builder = builder.not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(its_key.public_key()), critical=False)
        if not is_authority:
            address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
            builder = builder.add_extension(address, critical=False).add_extension(uses, critical=False)
        return builder.sign(authority_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(certificate(name, authority_key, is_authority=True).public_bytes(pem))
    host = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "engine")])
    (folder / "cert.pem").write_bytes(certificate(host, key, is_authority=False).public_bytes(pem))
    form, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, open_))
