"""The page of containers, as alerts open it: at one container, or at one kind of event."""

from __future__ import annotations

from datetime import timedelta

from isolation_monitor.collector.containers.domain import EngineState, Happening, Tracked
from isolation_monitor.collector.containers.repository import ContainerRepository
from tests.collector.conftest import Api
from tests.collector.test_web_ci import api, shown

__all__ = ["api"]


async def filled(api: Api) -> None:
    """Two engines that both have a container `web`; somebody killed one of them. A volume of nobody is old, another one new."""
    now = api.clock()
    volumes = {"left_by_a_job": now - timedelta(hours=3), "young": now - timedelta(minutes=3)}
    async with api.app.state.runtime.database.writing() as connection:
        repository = ContainerRepository(connection)
        for engine, unused in (("build", volumes), ("shop", {})):
            await repository.save_engine(EngineState(engine, engine, True, now, now, now, "24", "", len(unused), unused))
            await repository.save_containers(engine, [Tracked(engine, "web", f"{engine}-image", status="running", is_open=True)], now)
        kill = Happening("k", "build", now, "kill", "build", "web", "build-image", actor="ann", signal="SIGKILL", forced=True)
        stop = Happening("s", "shop", now, "stop", "shop", "web", "shop-image", signal="SIGTERM", forced=False)
        await repository.add_events([kill, stop], ["laptop-3", None], now)


async def test_an_alert_opens_the_container_of_its_engine_with_who_and_which_signal(api: Api) -> None:
    await filled(api)

    page = await shown(api, "/containers?container=build%2Fweb")

    assert all(text in page for text in ("build-image", "SIGKILL", "ann", "laptop-3"))
    assert "shop-image" not in page


async def test_volumes_of_nobody_are_named_when_they_have_been_unused_for_long(api: Api) -> None:
    await filled(api)

    page = await shown(api, "/containers")

    assert "left_by_a_job" in page
    assert "young" not in page
    assert "shop-image" in page
