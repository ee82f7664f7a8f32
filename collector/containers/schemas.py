"""Container actions at the HTTP edge: JSON in, domain values out."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from isolation_monitor.collector.body import parsed
from isolation_monitor.collector.clock import Clock
from isolation_monitor.collector.containers.domain import Action
from isolation_monitor.collector.paging import Moment
from isolation_monitor.collector.problems import Invalid

MAX_ACTIONS: Final = 1000
_MAX_AHEAD: Final = timedelta(hours=24)

Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(max_length=300)]


class ActionIn(BaseModel):
    """One command against containers, carried out, refused or failed. Fields that are not known are left out."""

    model_config = ConfigDict(extra="ignore", strict=False)

    id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_.:-]{1,64}$")]
    time: Moment
    actor: Annotated[str, Field(min_length=1, max_length=200)]
    host: Name = ""
    command: Text = ""
    action: Literal["stop", "kill", "remove", "restart", "prune"]
    container: Name | None = None
    container_id: Annotated[str, Field(pattern=r"^[0-9a-f]{6,64}$")] | None = None
    image: Text | None = None
    signal: Annotated[str, Field(max_length=20)] | None = None
    forced: bool = False
    result: Literal["done", "refused", "failed"]
    reason: Text = ""


class ActionsIn(BaseModel):
    """A batch of actions; sending one again changes nothing."""

    actions: Annotated[list[ActionIn], Field(max_length=MAX_ACTIONS)]


def parse_actions(body: bytes, clock: Clock) -> list[Action]:
    """Return the actions of a body, each id once.

    Raises:
        MalformedBody: not JSON.
        Invalid: not actions; the text names the first place that is not.
    """
    found = {one.id: Action(**one.model_dump()) for one in parsed(body, ActionsIn).actions}
    latest = clock() + _MAX_AHEAD
    for one in found.values():
        if one.time > latest:
            raise Invalid(
                f"actions: {one.id} is of {one.time.isoformat()}, more than a day ahead: set the clock of {one.host or 'its host'}"
            )
    return list(found.values())
