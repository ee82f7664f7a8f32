"""asyncio's locks, semaphores and queues under real requests: who is blamed for a wait, and who is not."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from isolation_monitor.telemetry import IsolationMonitor, names
from isolation_monitor.telemetry.lab import Lab

LIMIT_S = 20.0
THRESHOLD_S = 0.2


class Service:
    """An application whose request of `user` does what the test gives; requests run at once and end when told."""

    def __init__(self, monitor: IsolationMonitor, client: Callable[[Any], Any]) -> None:
        self.monitor = monitor
        self._acts: dict[str, Callable[[], Awaitable[Any]]] = {}
        self._client = client(monitor.instrument(self._app))

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await self._acts[scope["path"]]()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def request(self, user: str, act: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        path = f"/{len(self._acts)}"
        self._acts[path] = act
        return asyncio.create_task(self._client.get(path, user=user))

    def found(self) -> list[Any]:
        return [violation for violation in self.monitor.violations() if violation.kind == names.STARVATION]

    def errors(self) -> float:
        return sum(self.monitor.registry.value(names.MONITOR_ERRORS, hook=hook) for hook in names.HOOKS)

    def hash(self, user: str) -> str:
        return self.monitor.principals.named(user).hash

    async def eventually(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, f"never happened: {what}"
            await asyncio.sleep(0.01)


@pytest.fixture
async def service(make_monitor: Callable[..., IsolationMonitor], client: Callable[[Any], Any]) -> AsyncIterator[Service]:
    service = Service(make_monitor(starvation_threshold_ms=THRESHOLD_S * 1000), client)
    yield service
    assert service.errors() == 0
    await asyncio.to_thread(service.monitor.close)


def lock() -> asyncio.Lock:
    return asyncio.Lock()


def semaphore() -> asyncio.Semaphore:
    return asyncio.Semaphore(1)


@pytest.mark.parametrize("make", [lock, semaphore])
async def test_a_request_that_waits_for_another_principals_request_is_starved(service: Service, make: Callable[[], Any]) -> None:
    shared, done = make(), asyncio.Event()

    async def hold_for_long() -> None:
        async with shared:
            await done.wait()

    async def use() -> None:
        async with shared:
            pass

    holding = service.request("ann", hold_for_long)
    await asyncio.sleep(0)
    waiting = service.request("bob", use)
    await service.eventually(service.found, "the report, while both still run")
    done.set()
    await asyncio.gather(holding, waiting)

    (violation,) = service.found()
    assert violation.grade == "hygiene"
    assert (violation.offender.principal, violation.victim.principal) == (service.hash("ann"), service.hash("bob"))
    assert "hold_for_long" in violation.offender.stack[-1]
    assert "use" in violation.victim.stack[-1]
    assert violation.resource.detail["holder_is_over"] is False


async def test_a_lock_that_a_finished_request_never_gave_back_is_blamed_on_it(service: Service) -> None:
    shared = lock()

    async def forget() -> None:
        await shared.acquire()

    await service.request("ann", forget)
    waiting = service.request("bob", shared.acquire)
    await service.eventually(service.found, "the report")
    shared.release()
    await waiting

    assert service.found()[0].resource.detail["holder_is_over"] is True


async def test_short_waits_are_passed_checks(service: Service) -> None:
    shared = lock()

    async def use() -> None:
        async with shared:
            await asyncio.sleep(0)

    await asyncio.gather(*(service.request(user, use) for user in ("ann", "bob", "cid") * 5))

    assert service.found() == []
    assert service.monitor.registry.value(names.CHECKS, detector="starvation", result="pass") > 0


async def _held_and_waited_for(service: Service, shared: Any, holder: str | None, waiter: str) -> None:
    """Let `holder` (nobody: code outside any request) hold until `waiter` has waited three times the threshold."""
    done = asyncio.Event()

    async def hold() -> None:
        async with shared:
            await done.wait()

    async def use() -> None:
        async with shared:
            pass

    holding = service.request(holder, hold) if holder is not None else asyncio.create_task(hold(), context=contextvars.Context())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting = service.request(waiter, use)
    await asyncio.sleep(THRESHOLD_S * 3)
    done.set()
    await asyncio.gather(holding, waiting)


async def test_waiting_for_ones_own_other_request_is_no_violation(service: Service) -> None:
    await _held_and_waited_for(service, lock(), "ann", "ann")

    assert service.found() == []


async def test_waiting_for_work_outside_any_request_is_no_violation(service: Service) -> None:
    await _held_and_waited_for(service, lock(), None, "ann")
    await _held_and_waited_for(service, semaphore(), None, "ann")

    assert service.found() == []


async def test_a_limit_that_several_share_is_a_limit_at_work(service: Service) -> None:
    """Two principals in the two places: the third waits for the service's capacity, not for one user."""
    places, done = asyncio.Semaphore(2), asyncio.Event()

    async def hold() -> None:
        async with places:
            await done.wait()

    holding = [service.request("ann", hold), service.request("bob", hold)]
    await asyncio.sleep(0)
    waiting = service.request("cid", hold)
    await asyncio.sleep(THRESHOLD_S * 3)
    done.set()
    await asyncio.gather(*holding, waiting)

    assert service.found() == []


async def test_a_place_given_to_one_who_has_not_run_yet_counts_as_held(service: Service) -> None:
    """A wait that begins in between knows one holder too few; it must not blame the only one it knows."""
    shared, go, done = asyncio.Semaphore(2), asyncio.Event(), asyncio.Event()
    arrived: list[str] = []

    async def hold() -> None:
        # What follows takes the place, or queues for it, before anybody else runs.
        arrived.append("hold")
        async with shared:
            await done.wait()

    async def make_way() -> None:
        await shared.acquire()
        arrived.append("make way")
        await go.wait()
        shared.release()

    async def come_in_between() -> None:
        arrived.append("come in between")
        await go.wait()
        await hold()

    held, between = [], []
    # In this order: who comes in between is woken before the one who got the place.
    for tasks, user, act in ((held, "ann", hold), (held, "dan", make_way), (between, "cid", come_in_between), (held, "bob", hold)):
        before = len(arrived)
        tasks.append(service.request(user, act))
        await service.eventually(lambda before=before: len(arrived) > before, f"{user} arrives")
    go.set()
    await asyncio.sleep(THRESHOLD_S * 3)
    done.set()
    await asyncio.gather(*held, *between)

    assert service.found() == []
    assert service.monitor.registry.value(names.CHECKS, detector=names.STARVATION, result="pass") == 2, "both waits were judged"


async def test_who_still_holds_when_another_gives_back_is_not_blamed(service: Service) -> None:
    """The sweep runs in a thread of its own: it may come between a place given back and the waiting request taking it."""
    shared, go, done = asyncio.Semaphore(2), asyncio.Event(), asyncio.Event()
    starvation = service.monitor.detection.starvation

    async def hold() -> None:
        async with shared:
            await done.wait()

    async def give_back() -> None:
        await shared.acquire()
        await go.wait()
        shared.release()
        starvation._sweep()

    requests = [service.request("ann", hold), service.request("bob", give_back)]
    await service.eventually(shared.locked, "both places are taken")
    requests.append(service.request("cid", hold))
    await asyncio.sleep(THRESHOLD_S * 2)
    go.set()
    await asyncio.sleep(THRESHOLD_S / 4)
    done.set()
    await asyncio.gather(*requests)

    assert service.found() == []


async def test_a_queue_of_short_holders_is_nobodys_fault(service: Service) -> None:
    """A convoy: the last of 15 waits long, but no single holder does."""
    shared = lock()

    async def use() -> None:
        async with shared:
            await asyncio.sleep(THRESHOLD_S / 5)

    await asyncio.gather(*(service.request(f"user{n}", use) for n in range(15)))

    assert service.found() == []


class Connection:
    pass


async def _pool(size: int) -> asyncio.Queue[Connection]:
    pool: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(size):
        pool.put_nowait(Connection())
    return pool


async def test_a_connection_taken_from_a_queue_and_never_put_back_starves_the_next(service: Service) -> None:
    pool = await _pool(1)

    async def use() -> None:
        pool.put_nowait(await pool.get())

    async def lose() -> None:
        await pool.get()

    await service.request("ann", use)
    await service.request("ann", lose)
    waiting = service.request("bob", use)
    await service.eventually(service.found, "the report")
    pool.put_nowait(Connection())
    await waiting

    assert service.found()[0].resource.name == "asyncio.queue"
    assert service.found()[0].offender.principal == service.hash("ann")


async def test_what_a_full_pool_has_no_room_for_is_held_by_nobody(service: Service) -> None:
    """Pools with overflow close what comes back to a full queue."""
    pool: asyncio.Queue[Connection] = asyncio.Queue(maxsize=1)
    pool.put_nowait(Connection())

    async def use() -> None:
        taken = await pool.get()
        await asyncio.sleep(0)
        pool.put_nowait(taken)

    async def come_back_too_late() -> None:
        taken = await pool.get()
        pool.put_nowait(Connection())
        with contextlib.suppress(asyncio.QueueFull):
            pool.put_nowait(taken)

    await service.request("ann", use)
    await service.request("ann", come_back_too_late)
    kept = await pool.get()
    waiting = service.request("bob", use)
    await asyncio.sleep(THRESHOLD_S * 3)
    pool.put_nowait(kept)
    await waiting

    assert service.found() == []


async def test_a_queue_of_events_is_no_pool(service: Service) -> None:
    """Who listens waits for news, however long; what others took before is theirs."""
    events: asyncio.Queue[Connection] = asyncio.Queue()

    async def listen() -> None:
        await events.get()

    for _ in range(3):
        events.put_nowait(Connection())
        await service.request("ann", listen)
    waiting = service.request("bob", listen)
    await asyncio.sleep(THRESHOLD_S * 3)
    events.put_nowait(Connection())
    await waiting

    assert service.found() == []


async def test_a_wait_that_is_given_up_remembers_who_was_in_the_way(service: Service) -> None:
    shared, seen = lock(), []

    async def hold() -> None:
        async with shared:
            await asyncio.sleep(THRESHOLD_S)

    async def give_up() -> None:
        from isolation_monitor.telemetry.context import CURRENT

        try:
            await asyncio.wait_for(shared.acquire(), THRESHOLD_S / 2)
        except TimeoutError:
            request = CURRENT.get()
            assert request is not None
            seen.append(service.monitor.detection.starvation.starved_by(request))

    holding = service.request("ann", hold)
    await asyncio.sleep(0)
    await asyncio.gather(holding, service.request("bob", give_up))

    assert seen[0].principal.id == "ann"


async def test_a_cancelled_waiter_is_forgotten(service: Service) -> None:
    shared = lock()
    await shared.acquire()
    waiting = service.request("ann", shared.acquire)
    await asyncio.sleep(0.01)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    shared.release()
    assert not shared.locked()
    assert service.monitor.detection.starvation._waits == {}


async def test_holders_do_not_pile_up_where_nobody_gives_back(service: Service) -> None:
    """A semaphore that signals is acquired for ever and released by others."""
    signal = asyncio.Semaphore(0)

    async def consume() -> None:
        for _ in range(1000):
            signal.release()
            await signal.acquire()

    await service.request("ann", consume)

    assert len(vars(signal)["_isolation_monitor_holding"].holders) <= 1


def test_uninstrument_restores_asyncio_exactly(make_monitor: Callable[..., IsolationMonitor]) -> None:
    owners = (asyncio.Lock, asyncio.Semaphore, asyncio.Queue, asyncio.TaskGroup)
    before = [dict(vars(owner)) for owner in owners]
    monitor = make_monitor()

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    monitor.instrument(app)
    assert asyncio.Lock.acquire is not before[0]["acquire"]
    assert inspect.iscoroutinefunction(asyncio.Lock.acquire)
    assert inspect.iscoroutinefunction(asyncio.Queue.get)
    monitor.uninstrument()

    assert [dict(vars(owner)) for owner in owners] == before
    assert not any(patch.active for patch in monitor.patches)


async def test_an_error_of_ours_does_not_reach_the_host(
    make_monitor: Callable[..., IsolationMonitor], client: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(make_monitor(starvation_threshold_ms=THRESHOLD_S * 1000), client)
    starvation = service.monitor.detection.starvation

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("planted")

    for hook in ("begun", "ended", "_judge"):
        monkeypatch.setattr(starvation, hook, broken)
    await _held_and_waited_for(service, lock(), "ann", "bob")

    assert service.errors() > 0


def test_a_planted_starvation_is_reported_as_synthetic(monitor: IsolationMonitor) -> None:
    monitor.detection.starvation.plant(Lab(monitor.principals))

    (violation,) = monitor.violations(synthetic=True)
    assert (violation.kind, violation.synthetic) == ("starvation", True)
    assert monitor.detection.starvation._waits == {}


class LookedThrough(set[Any]):
    """A set that knows how often somebody went through it."""

    times = 0

    def __iter__(self) -> Any:
        self.times += 1
        return super().__iter__()


async def test_a_group_is_looked_through_only_when_one_of_its_tasks_has_failed(service: Service) -> None:
    """Else ten thousand tasks of one group would cost a hundred million looks, on the event loop."""

    async def group(fails: bool) -> int:
        gate = asyncio.Event()

        async def waits(number: int) -> None:
            await gate.wait()
            if fails and not number:
                raise LookupError

        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as tasks:
                for number in range(20):
                    tasks.create_task(waits(number))
                tasks._tasks = looked = LookedThrough(tasks._tasks)  # type: ignore[attr-defined]  # seen on its way
                gate.set()
        return looked.times

    assert await group(fails=False) == 0
    assert await group(fails=True) >= 1
