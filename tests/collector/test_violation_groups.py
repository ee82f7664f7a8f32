"""Violations by fingerprint: one line for one defect, with how often it happened and to how many users."""

from __future__ import annotations

from tests.collector.conftest import Api


async def test_records_of_one_fingerprint_are_one_group(api: Api) -> None:
    """Sent by two workers, one record of them for many: 3 + 1 violations; users a, b, c, d; the gravest grade; the newest record."""
    await api.send(api.violation(id="v-1", grade="crossed", victim=api.side("a"), offender=api.side("b")))
    api.clock.advance(1)
    many = api.violation(id="v-2", count=3, victim=api.side("c"), offender=api.side("a")) | {
        "affected": {"principals": 3, "runs": 1, "active": 9, "at_least": False, "hashes": ["a", "c", "d"]}
    }
    await api.send(many, instance="host:2:2")
    api.clock.advance(-60)
    await api.send(api.violation(id="v-0", fingerprint="another"))

    answer = (await api.get("/v1/violation-groups")).json()

    first, second = answer["items"]
    assert answer["schema"] == "violation-groups/1"
    assert (first["count"], first["records"], first["grade"], first["latest"]["id"]) == (4, 2, "crossed", "v-2")
    assert first["affected"] == {"principals": 4, "runs": 0, "active": 9, "at_least": False, "estimated": False}
    assert first["first"] < first["last"]
    assert (second["fingerprint"], second["count"]) == ("another", 1)


async def test_services_do_not_share_a_group(api: Api) -> None:
    """Two services built on one library have the same fingerprint: each is told of its own users only."""
    await api.send(api.violation(victim=api.side("a"), offender=None))
    await api.send(api.violation(victim=api.side("b"), offender=None), service="billing")

    items = (await api.get("/v1/violation-groups")).json()["items"]

    assert {(item["service"], item["count"], item["affected"]["principals"]) for item in items} == {("chat", 1, 1), ("billing", 1, 1)}


async def test_groups_are_narrowed_and_limited_like_the_list(api: Api) -> None:
    await api.send(
        api.violation(fingerprint="1", kind="wrong_socket", grade="crossed"),
        api.violation(fingerprint="2", synthetic=True),
        api.violation(fingerprint="3"),
    )

    async def fingerprints(query: str) -> set[str]:
        return {item["fingerprint"] for item in (await api.get(f"/v1/violation-groups?{query}")).json()["items"]}

    assert await fingerprints("kind=wrong_socket") == {"1"}
    assert await fingerprints("grade=reachable&synthetic=false") == {"3"}
    assert await fingerprints("service=other") == set()
    assert await fingerprints("since=2026-01-01T12:00:01Z") == set()
    assert len(await fingerprints("limit=2")) == 2


async def test_retracted_violations_are_in_no_group(api: Api) -> None:
    await api.send(api.violation(id="v"), api.retraction("v"))

    assert (await api.get("/v1/violation-groups")).json()["items"] == []


async def test_evidence_of_any_shape_is_counted_without_an_error(api: Api) -> None:
    """A newer telemetry may send other fields: what cannot be read counts nobody."""
    await api.send(
        api.violation(victim=None, offender=None) | {"affected": ["not", "an", "object"]},
        api.violation() | {"affected": {"hashes": 7, "active": "many", "at_least": "yes"}},
    )

    (group,) = (await api.get("/v1/violation-groups")).json()["items"]

    assert group["affected"] == {"principals": 2, "runs": 0, "active": 2, "at_least": False, "estimated": False}


async def test_groups_ask_for_the_read_token(api: Api) -> None:
    assert (await api.get("/v1/violation-groups", token=None)).status_code == 401
