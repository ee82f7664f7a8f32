"""Containers without an engine: lives put together from events and listings, storms, what settings and metrics say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from isolation_monitor.collector.clock import rfc3339
from isolation_monitor.collector.container_metrics import NAME_CAP, ContainerMetrics, Shown
from isolation_monitor.collector.containers.domain import (
    Action,
    EngineEvent,
    EngineState,
    Rules,
    Seen,
    Volume,
    VolumeEvent,
    after_use,
    expiry_of,
    still_unused,
)
from isolation_monitor.collector.containers.engine import Engine, EngineAway, EngineInfo
from isolation_monitor.collector.containers.follower import Follower
from isolation_monitor.collector.containers.lives import Lives
from isolation_monitor.collector.containers.storms import Storms, who
from isolation_monitor.collector.docker_addresses import DockerAddressError, parse_engines
from isolation_monitor.collector.settings import SettingsError, load_settings
from tests.collector.conftest import READ, SEND, Api, bearer, until

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
ID = "c" * 64


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def event(action: str, seconds: float, **about: Any) -> EngineEvent:
    return EngineEvent(at(seconds), action, about.pop("id", ID), "web", "shop:1", {}, **about)


def seen(status: str = "running", started: float | None = 0, finished: float | None = None, **about: Any) -> Seen:
    values: dict[str, Any] = {
        "id": ID,
        "name": "web",
        "image": "shop:1",
        "image_id": "sha256:1",
        "labels": {},
        "status": status,
        "health": "none",
        "created_at": at(-1),
        "started_at": None if started is None else at(started),
        "oom_killed": False,
        "restart_count": 0,
        "finished_at": None if finished is None else at(finished),
        "exit_code": None if status == "running" else 1,
        "restarts_by_policy": True,
        "auto_remove": False,
        "stop_signal": 15,
        "memory_limit": None,
        "cpu_limit": None,
    }
    return Seen(**values | about)


def followed(first: Seen | None = None) -> Lives:
    """Lives that have looked once, and have seen `first`."""
    lives = Lives("docker", Rules())
    lives.listing([] if first is None else [first], at(0), is_certain=True)
    return lives


def told(lives: Lives, *events: EngineEvent) -> list[str]:
    return [one.kind for event in events for one in lives.event(event)]


class TestDeaths:
    def test_what_had_ended_before_the_first_look_is_not_counted(self) -> None:
        lives = Lives("docker", Rules())

        assert lives.listing([seen("exited", 0, 1, restart_count=3)], at(2), is_certain=True) == []

    @pytest.mark.parametrize(
        ("shown", "deaths"),
        [
            (seen("running", 0), 0),
            (seen("exited", 0, 5), 1),
            # Policy restarts: each one counted by the engine is one life that has ended.
            (seen("running", 9, 8, restart_count=3), 3),
            (seen("restarting", 8, 9, restart_count=3), 3),
            (seen("exited", 8, 9, restart_count=3), 4),
            # Started by hand, which sets the count to zero.
            (seen("running", 9, 8), 1),
            (seen("exited", 8, 9), 2),
        ],
    )
    def test_a_listing_tells_how_many_died_unseen(self, shown: Seen, deaths: int) -> None:
        lives = followed(seen("running", 0))

        found = [one for one in lives.listing([shown], at(10), is_certain=True) if one.kind == "death"]

        assert len(found) == deaths
        assert len({one.id for one in found}) == deaths
        assert lives.listing([shown], at(11), is_certain=True) == []

    def test_an_event_that_comes_after_the_listing_that_told_of_it_is_not_counted_again(self) -> None:
        lives = followed(seen("running", 0))
        lives.listing([seen("running", 5.5, 5, restart_count=1)], at(6), is_certain=False)

        assert told(lives, event("die", 5.01, exit_code=1), event("start", 5.6)) == []
        assert told(lives, event("die", 7, exit_code=1)) == ["death"]

    def test_a_listing_that_is_older_than_an_event_changes_nothing(self) -> None:
        lives = followed(seen("running", 0))

        assert told(lives, event("die", 5, exit_code=1), event("start", 6), event("die", 7, exit_code=1)) == ["death", "death"]

        assert lives.listing([seen("running", 0)], at(7), is_certain=False) == []
        assert lives.listing([seen("exited", 5.99, 6.9, restart_count=1)], at(8), is_certain=False) == []

    def test_one_that_is_gone_with_nobody_looking_has_died_once(self) -> None:
        lives = followed(seen("running", 0))

        found = lives.listing([], at(9), is_certain=True)

        assert [(one.kind, one.reason) for one in found] == [("death", "unknown"), ("removal", None)]
        assert told(lives, event("die", 8, exit_code=1), event("destroy", 8.1)) == []

    def test_one_whose_end_is_on_its_way_may_be_missing_once(self) -> None:
        lives = followed(seen("running", 0))

        assert lives.listing([], at(9), is_certain=False) == []
        assert [one.exit_code for one in lives.event(event("die", 8, exit_code=7))] == [7]
        assert told(lives, event("destroy", 8.1)) == ["removal"]
        assert lives.listing([], at(10), is_certain=False) == []

    def test_two_replicas_give_a_death_the_same_id(self) -> None:
        by_event, by_listing = followed(seen("running", 0)), followed(seen("running", 0))

        (one,) = by_event.event(event("die", 5, exit_code=1))
        (other,) = by_listing.listing([seen("exited", 0, 4.9)], at(6), is_certain=True)

        assert one.id == other.id


class TestHowItEnded:
    def test_a_removal_with_a_sigkill_is_forced_and_one_after_a_stop_is_not(self) -> None:
        killed, stopped = followed(seen("running", 0)), followed(seen("running", 0))

        told(killed, event("kill", 1, signal=9), event("die", 1.1, exit_code=137))
        told(stopped, event("kill", 1, signal=15), event("kill", 11, signal=9), event("die", 11.1, exit_code=137))

        assert [one.forced for one in killed.event(event("destroy", 1.2))] == [True]
        assert [one.forced for one in stopped.event(event("destroy", 11.2))] == [False]

    def test_a_sigkill_says_how_long_the_stop_had_waited(self) -> None:
        lives = followed(seen("running", 0))
        lives.event(event("kill", 1, signal=15))

        (kill,) = lives.event(event("kill", 11, signal=9))

        assert (kill.kind, kill.after_stop_s) == ("stop_sigkill", 10)

    def test_a_stop_signal_of_its_own_is_a_stop(self) -> None:
        lives = followed(seen("running", 0, stop_signal=3))

        assert told(lives, event("kill", 1, signal=3), event("kill", 2, signal=9)) == ["stop", "stop_sigkill"]
        assert told(followed(seen()), event("kill", 1, signal=1)) == ["kill"]

    def test_killed_with_a_stop_before_it_in_another_life_is_forced(self) -> None:
        lives = followed(seen("running", 0))
        told(lives, event("kill", 1, signal=15), event("die", 2, exit_code=0), event("start", 3))

        assert told(lives, event("kill", 4, signal=9)) == ["kill"]

    def test_a_stop_without_time_to_end_is_a_kill(self) -> None:
        """`docker stop -t 0 web && docker rm web` leaves no more of a chance than `docker rm -f web`."""
        lives = followed(seen("running", 0))
        told(lives, event("kill", 1, signal=15), event("kill", 1.01, signal=9), event("die", 1.1, exit_code=137))

        assert [one.forced for one in lives.event(event("destroy", 1.2))] == [True]

    def test_a_worker_that_ran_out_of_memory_yesterday_is_not_why_it_ends_today(self) -> None:
        """Nobody is paged for want of memory when a container is removed by force, or crashes, long after it survived that."""
        crashed, killed, again = (followed(seen("running", 0)) for _ in range(3))
        told(crashed, event("oom", 1))
        told(killed, event("oom", 1), event("kill", 9000, signal=9))
        told(again, event("oom", 1), event("oom", 9000))

        assert [one.reason for one in crashed.event(event("die", 9000, exit_code=1))] == ["error"]
        assert [one.reason for one in killed.event(event("die", 9000.1, exit_code=137))] == ["killed"]
        assert [one.reason for one in again.event(event("die", 9000.1, exit_code=137))] == ["oom_killed"]

    def test_killed_past_the_engine_is_a_crash_and_by_a_command_is_not(self) -> None:
        """`kill -9` on the machine, or its kernel: without a ticket nobody would ever hear of it."""
        outside, command, stopped = (followed(seen("running", 0)) for _ in range(3))
        told(command, event("kill", 1, signal=9))
        told(stopped, event("kill", 1, signal=15), event("kill", 1.5, signal=9))

        deaths = [lives.event(event("die", 2, exit_code=137))[0] for lives in (outside, command, stopped)]

        assert [one.reason for one in deaths] == ["error", "killed", "killed"]

    def test_a_lack_of_memory_is_told_once_however_often_the_kernel_tries(self) -> None:
        lives = followed(seen("running", 0))

        assert told(lives, *(event("oom", n) for n in (1, 1.1, 1.2))) == ["out_of_memory"]
        assert [one.reason for one in lives.event(event("die", 2, exit_code=137))] == ["oom_killed"]
        assert told(lives, event("oom", 2.1), event("start", 3), event("oom", 4)) == ["out_of_memory"]
        assert told(lives, event("oom", 3600), event("oom", 3601)) == ["out_of_memory"]

    def test_a_kill_is_judged_when_it_is_known_to_be_no_removal(self) -> None:
        """`docker rm -f` is one act, with an alert of its own."""
        killed, removed, stopped, at_once = (followed(seen("running", 0)) for _ in range(4))
        told(killed, event("kill", 1, signal=9), event("die", 1.1, exit_code=137))
        told(removed, event("kill", 1, signal=9), event("die", 1.1, exit_code=137), event("destroy", 1.3))
        told(stopped, event("kill", 1, signal=15), event("kill", 11, signal=9), event("die", 11.1, exit_code=137))
        kinds = told(at_once, event("kill", 1, signal=15), event("kill", 1.01, signal=9), event("die", 1.1, exit_code=137))

        assert killed.judged(at(5)) == []
        assert [lives.judged(at(30)) for lives in (killed, removed, stopped, at_once)] == [[("web", "kill")], [], [], [("web", "kill")]]
        assert killed.judged(at(31)) == []
        assert kinds == ["stop", "kill", "death"]

    def test_a_killed_container_that_lives_again_at_once_was_killed_all_the_same(self) -> None:
        lives = followed(seen("running", 0))
        told(lives, event("kill", 1, signal=9), event("die", 1.1, exit_code=137), event("start", 2))

        assert lives.judged(at(13)) == [("web", "kill")]

    def test_a_worker_that_starves_in_a_container_that_lives_on_is_told(self) -> None:
        survives, ends = followed(seen("running", 0)), followed(seen("running", 0))
        told(survives, event("oom", 1), event("oom", 1.2))
        told(ends, event("oom", 1), event("die", 1.5, exit_code=137))

        assert (survives.judged(at(13)), ends.judged(at(13))) == ([("web", "oom_survived")], [])
        told(survives, event("oom", 30))
        assert survives.judged(at(42)) == [("web", "oom_survived")]


class TestSigkillAsStopSignal:
    """`STOPSIGNAL SIGKILL`: the engine stops such a container, kills it and removes it by force with the same signal."""

    @staticmethod
    def killed_at_1() -> Lives:
        lives = followed(seen("running", 0, stop_signal=9))
        assert told(lives, event("kill", 1, signal=9)) == []
        (death,) = lives.event(event("die", 1.1, exit_code=137))
        assert (death.reason, death.forced) == ("clean", None)
        return lives

    def test_a_stop_is_a_stop(self) -> None:
        lives = self.killed_at_1()

        (stop,) = lives.event(event("stop", 1.2))

        assert (stop.kind, stop.time, stop.signal, stop.forced) == ("stop", at(1), "SIGKILL", False)
        assert [one.forced for one in lives.event(event("destroy", 1.5))] == [False]
        assert (lives.judged(at(30)), lives.told_late) == ([], [])

    def test_a_restart_is_a_stop(self) -> None:
        lives = self.killed_at_1()

        assert told(lives, event("stop", 1.2), event("start", 1.3)) == ["stop"]
        assert (lives.judged(at(30)), lives.told_late) == ([], [])

    def test_a_kill_is_a_kill_as_soon_as_no_stop_can_follow(self) -> None:
        lives = self.killed_at_1()

        assert lives.judged(at(30)) == [("web", "kill")]
        assert [(one.kind, one.time, one.forced) for one in lives.told_late] == [("kill", at(1), True)]

    def test_a_removal_by_force_is_one(self) -> None:
        lives = self.killed_at_1()

        kill, removal = lives.event(event("destroy", 1.3))

        assert (kill.kind, removal.kind, removal.forced) == ("kill", "removal", True)
        assert lives.judged(at(30)) == []

    def test_want_of_memory_and_a_kill_past_the_engine_are_no_clean_ends(self) -> None:
        starved, outside = (followed(seen("running", 0, stop_signal=9)) for _ in range(2))
        told(starved, event("oom", 1))

        assert [lives.event(event("die", 2, exit_code=137))[0].reason for lives in (starved, outside)] == ["oom_killed", "error"]


class TestHealth:
    def test_one_that_has_ended_is_not_unhealthy_whatever_the_engine_says(self) -> None:
        """Docker sets the health of each container that ends to unhealthy: an orderly stop would page somebody."""
        lives = followed(seen("running", 0, health="healthy"))
        told(lives, event("kill", 1, signal=15), event("die", 1.1, exit_code=0))
        lives.listing([seen("exited", 0, 1.1, exit_code=0, health="unhealthy")], at(2), is_certain=True)
        assert lives.tracked[ID].shown_health == "none"

        told(lives, event("start", 3))
        assert lives.tracked[ID].shown_health == "starting"


class TestStorms:
    @staticmethod
    def storms_of(*seconds: float, now: float = 60) -> list[dict[str, Any]]:
        lives = Lives("docker", Rules())
        for number, moment in enumerate(seconds):
            identity = f"{number:064x}"
            lives.event(event("start", 0, id=identity))
            lives.event(event("kill", moment, id=identity, signal=9))
        storms = Storms("docker", Rules().cooldown)
        storms.add(lives.commands)
        return [one.detail for one in storms.due(at(now), lambda _: "unknown")]

    def test_half_a_second_is_enough_and_less_is_not(self) -> None:
        assert self.storms_of(1, 1.5, 2) == []
        assert [one["commands"] for one in self.storms_of(1, 1.49)] == [2]

    def test_one_burst_is_one_storm_and_a_pause_makes_two(self) -> None:
        assert [one["commands"] for one in self.storms_of(1, 1.2, 1.4, 5, 5.1)] == [3, 2]

    def test_a_storm_that_goes_on_waits_for_its_end(self) -> None:
        assert self.storms_of(1, 1.2, now=2) == []

    def test_actors_have_a_cooldown_each(self) -> None:
        storms = Storms("docker", Rules().cooldown)
        lives = followed(seen())
        lives.event(event("kill", 1, signal=9))
        storms.add([lives.commands[0], replace(lives.commands[0], at=at(1.1), container_id="d" * 64)])

        assert storms.due(at(60), lambda command: command.container_id[:1]) == []

    def test_a_stop_that_ends_in_sigkill_and_a_forced_removal_are_one_command_each(self) -> None:
        lives = followed(seen())
        told(lives, event("kill", 1, signal=15), event("kill", 1.2, signal=9), event("die", 1.3, exit_code=137))
        assert [one.action for one in lives.commands] == ["stop"]

        forced = followed(seen())
        told(forced, event("kill", 1, signal=9), event("die", 1.1, exit_code=137), event("destroy", 1.2))
        assert [one.action for one in forced.commands] == ["kill"]

    @staticmethod
    def ended_in_a_burst(commands: list[tuple[str, str]], **labels: str) -> list[int]:
        """How many commands the storms have that came of events a tenth of a second apart: (action, container)."""
        lives = Lives("docker", Rules())
        for identity in {container for _, container in commands}:
            lives.event(event("start", 0, id=identity))
            lives.describe(seen(id=identity))
        for number, (action, identity) in enumerate(commands):
            signal = {"stop": 15, "kill": 9}.get(action)
            lives.event(replace(event(action if signal is None else "kill", 1 + number / 10, id=identity, signal=signal), labels=labels))
        storms = Storms("docker", Rules().cooldown)
        storms.add(lives.commands)
        return [one.detail["commands"] for one in storms.due(at(60), lambda _: "unknown")]

    def test_a_deployment_by_compose_is_no_storm(self) -> None:
        """`docker compose up -d` and `down` stop and remove a project's containers at once: each deployment would be a ticket."""
        down = [*(("stop", one) for one in "abc"), *(("die", one) for one in "abc"), *(("destroy", one) for one in "abc")]
        project = {"com.docker.compose.project": "shop"}

        assert self.ended_in_a_burst(down, **project) == []
        assert self.ended_in_a_burst(down) == [3]
        assert self.ended_in_a_burst([("kill", one) for one in "abc"], **project) == [3]

    def test_a_container_that_is_stopped_and_removed_is_one_command(self) -> None:
        assert self.ended_in_a_burst([("stop", "a"), ("die", "a"), ("destroy", "a")]) == []
        assert self.ended_in_a_burst([("stop", "a"), ("stop", "a")]) == [2]

    def test_short_runs_that_remove_themselves_are_no_commands(self) -> None:
        """`docker run --rm` in CI may be over before anybody could look at its settings."""
        lives = Lives("docker", Rules())
        told(lives, event("create", 0), event("start", 0.1), event("die", 0.3, exit_code=0), event("destroy", 0.4))

        assert lives.commands == []

    def test_the_nearest_action_of_the_same_container_tells_who(self) -> None:
        about = ("host", "docker rm", "remove", "web", None, None, None, True)
        near, far = (Action(f"a{n}", at(n), f"actor-{n}", *about, "done", "") for n in (1, 20))
        refused = Action("r", at(0), "nobody", *about, "refused", "cooldown")

        assert who([far, near, refused], ID, "web", at(0)) == near
        assert who([near], ID, "other", at(0)) is None
        assert who([replace(near, container_id=ID[:12])], ID, "renamed", at(0)) is not None
        assert who([near], ID, "web", at(40)) is None


@pytest.mark.parametrize(
    ("labels", "expires"),
    [
        ({"isolation.ttl": "90s"}, 90.0),
        ({"isolation.ttl": "2h"}, 7200.0),
        ({"isolation.ttl": "1.5m"}, 90.0),
        ({"isolation.expires": "2026-01-01T12:00:10Z"}, 10.0),
        ({"isolation.ttl": "soon"}, None),
        ({"isolation.ttl": "9" * 30 + "d"}, None),
        ({"isolation.expires": "tomorrow"}, None),
        ({}, None),
    ],
)
def test_labels_say_when_a_container_should_be_gone(labels: dict[str, str], expires: float | None) -> None:
    assert expiry_of(labels, T0) == (None if expires is None else at(expires))


def test_volumes_of_nobody_are_orphans_after_the_time_that_stopped_containers_have() -> None:
    """Compose labels its volumes, and `docker compose down` leaves them on purpose."""
    rules = Rules()
    nobodys, composed = Volume("left", {}), Volume("shop_data", {"com.docker.compose.project": "shop"})

    first = still_unused([nobodys, composed], {}, at(0), rules)
    later = still_unused([nobodys, composed, Volume("new", {})], first, at(3600), rules)
    used_meanwhile = still_unused([nobodys], still_unused([], later, at(3700), rules), at(3800), rules)

    assert (first, later) == ({"left": at(0)}, {"left": at(0), "new": at(3600)})
    assert EngineState("docker", "e", True, at(0), at(0), unused_volumes=later).orphan_volumes(at(3600), rules) == ["left"]
    assert used_meanwhile == {"left": at(3800)}


def test_a_use_between_two_looks_counts_as_one() -> None:
    """A nightly job takes its volume for a second: without its events the volume would be nobody's in the morning."""
    known = {"cache": at(0), "left": at(0)}

    after = after_use(after_use(known, VolumeEvent(at(100), "mount", "cache")), VolumeEvent(at(101), "unmount", "cache"))

    assert after == {"cache": at(101), "left": at(0)}
    assert after_use(after, VolumeEvent(at(50), "unmount", "cache")) == after, "told late"
    assert after_use(after, VolumeEvent(at(200), "mount", "other")) == after
    assert after_use(after, VolumeEvent(at(200), "destroy", "cache")) == {"left": at(0)}


class TestSettings:
    def test_engines_are_named_or_take_the_name_of_their_host(self, tmp_path: Path) -> None:
        found = parse_engines("unix:///var/run/docker.sock, http://proxy:2375  build=http://[::1]")

        assert [(one.name, one.url) for one in found] == [
            ("docker", "unix:///var/run/docker.sock"),
            ("proxy", "http://proxy:2375"),
            ("build", "http://[::1]:2375"),
        ]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("unix://var/run/docker.sock", "three slashes"),
            ("tcp://10.0.0.5:2376", "COLLECTOR_DOCKER_CERT_DIR"),
            ("/var/run/docker.sock", "unix:///PATH"),
            ("http://host:port", "no usable port"),
            ("a=http://x a=http://y", "two engines"),
            ("http://user:pw@host", "is no engine"),
        ],
    )
    def test_an_address_that_is_none_says_what_to_write(self, text: str, says: str) -> None:
        with pytest.raises(DockerAddressError, match=says):
            parse_engines(text)

    def test_the_collector_does_not_start_with_one(self) -> None:
        with pytest.raises(SettingsError, match="COLLECTOR_DOCKER_ENGINES"):
            load_settings(send_token=SEND, read_token=READ, docker_engines="nowhere")

    def test_certificates_that_are_not_there_are_missed_at_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(DockerAddressError, match=r"ca\.pem"):
            parse_engines("tcp://10.0.0.5:2376", tmp_path)


class TestMetrics:
    @staticmethod
    def samples(metrics: ContainerMetrics, name: str) -> dict[str, float]:
        families = [family for family in metrics.collect() for sample in family.samples[:1] if sample.name == name]
        return {sample.labels.get("container_name", ""): sample.value for family in families for sample in family.samples}

    def test_fifty_names_are_kept_and_the_rest_are_others(self) -> None:
        metrics = ContainerMetrics()
        shown = [Shown(f"box-{n}", "running", "none") for n in range(NAME_CAP + 5)]

        metrics.show("docker", shown, orphans=0, expired=0, dangling_volumes=0)
        for one in shown:
            metrics.restarted(one.name, 1)

        restarts = self.samples(metrics, "isolation_container_restarts_total")
        assert (len(restarts), restarts["other"], sum(restarts.values())) == (NAME_CAP + 1, 5, NAME_CAP + 5)

    def test_names_of_containers_that_are_long_gone_make_room(self) -> None:
        now = [0.0]
        metrics = ContainerMetrics(lambda: now[0])
        for n in range(NAME_CAP):
            metrics.exited(f"job-{n}", "clean")
        now[0] = 601
        metrics.followed("docker", is_up=True)

        metrics.exited("web", "error")

        assert "web" in self.samples(metrics, "isolation_container_exits_total")

    def test_nothing_is_shown_of_an_engine_that_is_away_but_that(self) -> None:
        metrics = ContainerMetrics()
        metrics.show("docker", [Shown("web", "running", "none")], orphans=1, expired=1, dangling_volumes=1)
        metrics.followed("docker", is_up=False)

        shown = {family.name for family in metrics.collect() if family.type == "gauge" and family.samples}
        assert shown == {"isolation_container_engine_up"}
        metrics.left("docker")
        assert not [sample for family in metrics.collect() for sample in family.samples]


ACTION = {"id": "a1", "actor": "ann", "action": "stop", "result": "refused", "reason": "cooldown", "container": "web"}


class TestActions:
    @staticmethod
    async def sent(api: Api, *actions: dict[str, Any], **body: Any) -> httpx2.Response:
        content = body or {"actions": [{"time": rfc3339(api.clock())} | one for one in actions]}
        return await api.client.post("/v1/container-actions", json=content, headers=bearer(SEND))

    async def test_each_is_stored_once_on_either_database_and_listed(self, api: Api) -> None:
        answers = [await self.sent(api, ACTION, ACTION | {"id": "a2", "unknown": "field"}) for _ in range(2)]

        assert [answer.json()["stored"] for answer in answers] == [2, 0]
        first = (await api.get("/v1/container-actions?limit=1")).json()
        second = (await api.get(first["next"])).json()
        assert {first["items"][0]["id"], second["items"][0]["id"]} == {"a1", "a2"}
        assert second["next"] is None

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"action": "burn"}, "action"),
            ({"result": None}, "result"),
            ({"time": "yesterday"}, "time"),
            ({"id": "a b"}, "id"),
            ({"actor": ""}, "actor"),
            ({"time": "2099-01-01T00:00:00Z"}, "ahead"),
            ({"container_id": "xyz"}, "container_id"),
        ],
    )
    async def test_one_that_is_wrong_says_where(
        self, make_api: Callable[..., Any], sqlite_url: str, change: dict[str, Any], says: str
    ) -> None:
        async with make_api(sqlite_url) as api:
            answer = await self.sent(api, ACTION | change)

            assert answer.status_code == 422
            assert says in answer.json()["detail"]

    async def test_wrong_questions_are_answered_in_words(self, api: Api) -> None:
        for question in ("kind=murder", "cursor=x", "limit=0"):
            assert (await api.get(f"/v1/container-events?{question}")).status_code == 422
        assert (await api.get("/v1/container-events?container=100%25_")).json()["items"] == []
        assert (await api.get("/v1/containers")).json()["items"] == []


class DyingEngine:
    """An engine that tells of a death in its last breath, and is away from then on."""

    def __init__(self) -> None:
        self.is_away = False

    async def info(self) -> EngineInfo:
        if self.is_away:
            raise EngineAway("gone")
        return EngineInfo("engine-1", "24", T0)

    async def containers(self) -> list[Seen]:
        return [seen("running", -60)]

    async def stream(self, _since: datetime) -> AsyncIterator[EngineEvent]:
        self.is_away = True
        yield event("kill", 1, signal=9)
        yield event("die", 1.1, exit_code=137)
        raise EngineAway("the stream of events ended")

    async def close(self) -> None:
        return None


async def test_what_an_engine_tells_last_is_stored_while_it_is_away(api: Api) -> None:
    """Its last events are the deaths it causes: nobody may have to wait for its return, nor lose them with this collector."""

    async def leads() -> bool:
        return True

    dying = DyingEngine()
    runtime = api.app.state.runtime
    follower = Follower("docker", lambda: cast(Engine, dying), runtime.database, leads, ContainerMetrics(), lambda: T0, Rules())
    running = asyncio.create_task(follower.run())
    try:

        async def is_told() -> bool:
            return {one["kind"] for one in (await api.get("/v1/container-events")).json()["items"]} >= {"kill", "death", "engine"}

        await until(is_told)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    (engine,) = (await api.get("/v1/containers")).json()["engines"]
    assert engine["state"] == "down"
