"""What a rollout's file asks for: stages, who is internal, minimum evidence, soak time, triggers, holdback.

The same plain structure comes from the YAML file and over HTTP. Every mistake is reported with its place, all at once,
so that the command can name lines. Durations are seconds inside, `30m` in the file; shares are percent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from isolation_monitor.telemetry.names import GATE_BUCKETS

Place = tuple[str | int, ...]
"""Where in the file: keys and positions from the top."""
Kind = Literal["internal", "percent"]
Advance = Literal["auto", "manual"]
InternalUsers = tuple[str, ...] | Mapping[str, Any]
"""Targeting keys, or a rule on a context attribute: `{"attribute": "email_domain", "in": [...]}`."""

ZERO_TOLERANCE: Final = ("isolation", "cascade", "session_leak", "singleton_reuse")
"""One is enough; no statistics. An internal stage has these alone: a handful of users proves nothing else."""
TRIGGERS: Final = (*ZERO_TOLERANCE, "error_rate", "latency", "delivery")

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_MAX_STAGES: Final = 20
_MAX_INTERNAL: Final = 1000
_MAX_TEXT: Final = 200
_HOLDBACK: Final = (1.0, 20.0)
_SLO_ERROR_PERCENT: Final = (0.01, 50.0)
_SLO_P95_S: Final = (GATE_BUCKETS[0], GATE_BUCKETS[-1])
"""Beyond them the gate's histogram cannot tell."""
_PROMISES: Final = {"error_rate": "slo_error_percent", "latency": "slo_p95_s"}
"""By trigger: what it judges by where nobody is left to compare with."""
_LONGEST_WATCH_S: Final = 30 * 86400.0
_DEFAULT_HOLDBACK: Final = 2.0
_UNITS_S: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Minimum:
    """Evidence that a stage needs before its gate may pass."""

    exposed_requests: int = 300
    owed_events: int = 100


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the ladder. `percent` is 0 for the internal one; `soak_s` is the least time seen in order."""

    name: str
    kind: Kind
    percent: float
    soak_s: float
    minimum: Minimum
    triggers: tuple[str, ...]
    advance: Advance


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """A checked file. Stages grow, the last one is 100 %."""

    rollout: str
    service: str
    stages: tuple[Stage, ...]
    internal_users: InternalUsers
    holdback_percent: float
    source: Mapping[str, Any] = field(compare=False)
    """The file's own words."""
    slo_error_percent: float | None = None
    """Percent of the requests that may fail at 100 %, where nobody is held back to compare with; None with a holdback."""
    slo_p95_s: float | None = None
    """Seconds within which 95 % of the requests are answered there."""
    watch_after_completion_s: float = 0.0
    """So long after its end, harm still takes the rollout back."""

    def stage(self, name: str) -> Stage | None:
        return next((stage for stage in self.stages if stage.name == name), None)

    def after(self, name: str) -> Stage | None:
        """Return the stage after the one of this name; None after the last."""
        names = [stage.name for stage in self.stages]
        return self.stages[names.index(name) + 1] if name in names[:-1] else None


class SpecError(ValueError):
    """The file cannot be used; `mistakes` names each place and what to write there."""

    def __init__(self, mistakes: Sequence[tuple[Place, str]]) -> None:
        super().__init__("; ".join(f"{written(place)}: {text}" for place, text in mistakes))
        self.mistakes = tuple(mistakes)


def written(place: Place) -> str:
    """Return a place as people write it: `stages[1].percent`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".") or "the file"


def default_stages(*, internal: bool) -> list[dict[str, Any]]:
    """Return the ladder of a file without stages; the internal one only where somebody is internal."""
    first = [{"name": "internal", "kind": "internal", "soak": "10m", "minimum": {"exposed_requests": 20, "owed_events": 0}}]
    rest = [{"name": "canary10", "percent": 10}, {"name": "half", "percent": 50}, {"name": "full", "percent": 100}]
    return [*(first if internal else []), *({**stage, "soak": "30m"} for stage in rest)]


def parse_spec(value: object) -> RolloutSpec:
    """Return the checked form of a file's content.

    Raises:
        SpecError: with every mistake that was found.
    """
    reader = _Reader()
    top = reader.mapping(
        value,
        (),
        {
            "rollout", "service", "stages", "internal_users", "holdback_percent", "minimum", "triggers", "advance",
            "slo_error_percent", "slo_p95_s", "watch_after_completion",
        },
    )  # fmt: skip
    name = reader.text(top, "rollout", (), re.compile(NAME), "a name of letters, digits, dots, dashes and underscores, at most 100")
    service = reader.text(
        top, "service", (), re.compile(r"\S(?:.{0,98}\S)?"), "the service's name as in its metrics, at most 100 characters"
    )
    holdback = reader.holdback(top)
    internal = reader.internal_users(top.get("internal_users"), ("internal_users",))
    defaults = _Defaults(
        reader.minimum(top.get("minimum"), ("minimum",), Minimum()),
        reader.triggers(top.get("triggers"), ("triggers",), TRIGGERS),
        reader.choice(top, "advance", (), ("auto", "manual"), "auto"),
    )
    given = top.get("stages", default_stages(internal=bool(internal)))
    stages = reader.stages(given, ("stages",), defaults, internal=bool(internal))
    slo_error_percent = reader.promise(top, "slo_error_percent", *_SLO_ERROR_PERCENT)
    slo_p95_s = reader.promise(top, "slo_p95_s", *_SLO_P95_S)
    reader.promises(top, holdback, stages)
    watch_s = reader.seconds(top, "watch_after_completion", ()) if "watch_after_completion" in top else 0.0
    if watch_s > _LONGEST_WATCH_S:
        reader.wrong(("watch_after_completion",), f"{_shown(top['watch_after_completion'])} is too long: at most 30d")
    if reader.mistakes:
        raise SpecError(reader.mistakes)
    return RolloutSpec(name, service, tuple(stages), internal, holdback, dict(top), slo_error_percent, slo_p95_s, watch_s)


@dataclass(frozen=True, slots=True)
class _Defaults:
    minimum: Minimum
    triggers: tuple[str, ...]
    advance: str


class _Reader:
    """Reads one file and collects its mistakes; after one it goes on with something harmless."""

    def __init__(self) -> None:
        self.mistakes: list[tuple[Place, str]] = []

    def wrong(self, place: Place, text: str) -> None:
        self.mistakes.append((place, text))

    def mapping(self, value: object, place: Place, known: set[str]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.wrong(place, f"{_shown(value)} is no mapping: write its keys ({', '.join(sorted(known))})")
            return {}
        for key in value:
            if key not in known:
                self.wrong((*place, str(key)), f"{_shown(key)} is not known here: use {', '.join(sorted(known))}")
        return value

    def text(self, of: dict[str, Any], key: str, place: Place, pattern: re.Pattern[str], what: str) -> str:
        value = of.get(key)
        if key not in of:
            self.wrong(place, f"{key} is missing: write {what}")
        elif not isinstance(value, str):
            # YAML 1.1 reads off, no and 42 as something else than text.
            self.wrong((*place, key), f"{_shown(value)} is no text: put it in quotes, or write {what}")
        elif not pattern.fullmatch(value) or not value.isprintable():
            self.wrong((*place, key), f"{_shown(value)} does not fit: write {what}")
        else:
            return value
        return ""

    def number(self, of: dict[str, Any], key: str, place: Place, least: float, most: float, default: float | None) -> float:
        value = of.get(key, default)
        if value is None and key not in of:
            self.wrong(place, f"{key} is missing: write a number from {least:g} to {most:g}")
            return least
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.wrong((*place, key), f"{_shown(value)} is no number: write {least:g} to {most:g}, without a sign")
            return least
        if not least <= value <= most:
            self.wrong((*place, key), f"{value:g} is not within {least:g} to {most:g}")
            return least
        if round(value, 1) != value:
            self.wrong((*place, key), f"{value:g} is finer than a tenth: write {round(value, 1):g}")
        return float(value)

    def holdback(self, top: dict[str, Any]) -> float:
        """Return the share that keeps `off` at 100 %; 0 is a rollout without a control at its end."""
        given = top.get("holdback_percent")
        if given == 0 and not isinstance(given, bool):
            return 0.0
        return self.number(top, "holdback_percent", (), *_HOLDBACK, default=_DEFAULT_HOLDBACK)

    def promise(self, top: dict[str, Any], key: str, least: float, most: float) -> float | None:
        value = top.get(key)
        if key not in top:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self.wrong((key,), f"{_shown(value)} is no number: write {least:g} to {most:g}, without a sign")
        elif not least <= value <= most:
            self.wrong((key,), f"{value:g} is not within {least:g} to {most:g}")
        else:
            return float(value)
        return None

    def promises(self, top: dict[str, Any], holdback: float, stages: Sequence[Stage]) -> None:
        """Where nobody is held back, each trigger of the last stage needs its promise; elsewhere nobody would look at one."""
        given = [key for key in _PROMISES.values() if key in top]
        if holdback:
            for key in given:
                self.wrong((key,), "it is judged only where nobody is held back: write holdback_percent: 0, or leave it out")
            return
        used = stages[-1].triggers if stages else ()
        missing = {trigger: key for trigger, key in _PROMISES.items() if trigger in used and key not in top}
        if missing:
            self.wrong(
                ("holdback_percent",),
                f"0 leaves nobody to compare with at 100 %: promise {' and '.join(missing.values())}, "
                f"leave {' and '.join(missing)} out of the last stage's triggers, or hold 1 to 20 percent back",
            )

    def count(self, of: dict[str, Any], key: str, place: Place, least: int, default: int) -> int:
        value = of.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**9:
            self.wrong((*place, key), f"{_shown(value)} is no whole number from {least} to 1000000000")
            return default
        return value

    def choice(self, of: dict[str, Any], key: str, place: Place, known: Sequence[str], default: str) -> str:
        value = of.get(key, default)
        if value not in known:
            self.wrong((*place, key), f"{_shown(value)} is not known: write {' or '.join(known)}")
            return default
        return str(value)

    def seconds(self, of: dict[str, Any], key: str, place: Place) -> float:
        value = of.get(key, "30m")
        found = re.fullmatch(r"(\d{1,6})(s|m|h|d)", value) if isinstance(value, str) else None
        if found is None:
            self.wrong((*place, key), f"{_shown(value)} is no duration: write 90s, 30m, 2h or 1d")
            return 0.0
        return int(found[1]) * _UNITS_S[found[2]]

    def minimum(self, value: object, place: Place, default: Minimum) -> Minimum:
        if value is None:
            return default
        given = self.mapping(value, place, {"exposed_requests", "owed_events"})
        return Minimum(
            self.count(given, "exposed_requests", place, 1, default.exposed_requests),
            self.count(given, "owed_events", place, 0, default.owed_events),
        )

    def triggers(self, value: object, place: Place, default: tuple[str, ...]) -> tuple[str, ...]:
        if value is None:
            return default
        names = self.strings(value, place, "a list of triggers")
        for position, name in enumerate(names):
            if name not in TRIGGERS:
                self.wrong((*place, position), f"{_shown(name)} is no trigger: use {', '.join(TRIGGERS)}")
        if names and "isolation" not in names:
            self.wrong(place, "isolation is missing: a rollout without it would promote what shows users each other's data")
        return tuple(name for name in TRIGGERS if name in names) or default

    def strings(self, value: object, place: Place, what: str) -> list[str]:
        if not isinstance(value, list) or not value:
            self.wrong(place, f"{_shown(value)} is not {what}: write at least one")
            return []
        found = []
        for position, item in enumerate(value[:_MAX_INTERNAL]):
            if not isinstance(item, str) or not 0 < len(item) <= _MAX_TEXT or not item.isprintable():
                self.wrong((*place, position), f"{_shown(item)} is no text of 1 to {_MAX_TEXT} characters: put it in quotes")
            else:
                found.append(item)
        if len(value) > _MAX_INTERNAL:
            self.wrong(place, f"{len(value)} entries are too many: at most {_MAX_INTERNAL}; name an attribute instead")
        if len(set(found)) < len(found):
            self.wrong(place, "an entry stands there twice")
        return found

    def internal_users(self, value: object, place: Place) -> InternalUsers:
        if value is None:
            return ()
        if not isinstance(value, dict):
            return tuple(self.strings(value, place, "a list of users, nor {attribute: ..., in: [...]}"))
        rule = self.mapping(value, place, {"attribute", "in"})
        attribute = self.text(rule, "attribute", place, re.compile(r"[A-Za-z0-9_.-]{1,100}"), "the name of a context attribute")
        if "in" not in rule:
            self.wrong(place, "in is missing: write the list of values that make a user internal")
            return {}
        return {"attribute": attribute, "in": self.strings(rule["in"], (*place, "in"), "a list of values")}

    def stages(self, value: object, place: Place, defaults: _Defaults, *, internal: bool) -> list[Stage]:
        if not isinstance(value, list) or not 0 < len(value) <= _MAX_STAGES:
            self.wrong(place, f"{_shown(value)} is no list of 1 to {_MAX_STAGES} stages")
            return []
        found = [self.stage(item, (*place, position), defaults) for position, item in enumerate(value)]
        before = 0.0
        for position, stage in enumerate(found):
            here = (*place, position)
            if stage.kind == "internal":
                if position:
                    self.wrong((*here, "kind"), "only the first stage can be internal: later ones are judged beside those who have it off")
                elif not internal:
                    self.wrong(here, "an internal stage needs internal_users: say at the top who they are")
                continue
            if stage.percent and stage.percent <= before:
                self.wrong((*here, "percent"), f"{stage.percent:g} does not grow: the stage before has {before:g}")
            before = stage.percent
            if stage.name in [earlier.name for earlier in found[:position]]:
                self.wrong((*here, "name"), f"two stages are called {_shown(stage.name)}")
        if found[-1].percent not in (0.0, 100.0) or found[-1].kind == "internal":
            self.wrong((*place, len(found) - 1), "the last stage is not 100 percent: a rollout ends with everybody but the holdback")
        return found

    def stage(self, value: object, place: Place, defaults: _Defaults) -> Stage:
        given = self.mapping(value, place, {"name", "kind", "percent", "soak", "minimum", "triggers", "advance"})
        what = "a name such as canary10"
        name = self.text(given, "name", place, re.compile(NAME), what) if given else ""
        if name == "off":
            self.wrong((*place, "name"), "'off' is what comes before the first stage: choose another name")
        internal = self.choice(given, "kind", place, ("percent", "internal"), "percent") == "internal"
        kind: Kind = "internal" if internal else "percent"
        percent = 0.0
        if internal and "percent" in given:
            self.wrong((*place, "percent"), "an internal stage has no percent: its users are those of internal_users")
        elif given and not internal:
            percent = self.number(given, "percent", place, 0.1, 100, None)
        triggers = self.triggers(given.get("triggers"), (*place, "triggers"), defaults.triggers)
        if internal:
            statistical = [name for name in given.get("triggers") or () if name in TRIGGERS and name not in ZERO_TOLERANCE]
            if statistical:
                self.wrong(
                    (*place, "triggers"), f"{', '.join(statistical)}: an internal stage has too few users to judge anything by numbers"
                )
            triggers = tuple(name for name in triggers if name in ZERO_TOLERANCE)
        # The few events of a few people say nothing about a share.
        default = Minimum(defaults.minimum.exposed_requests, 0) if internal else defaults.minimum
        minimum = self.minimum(given.get("minimum"), (*place, "minimum"), default)
        advance: Advance = "manual" if self.choice(given, "advance", place, ("auto", "manual"), defaults.advance) == "manual" else "auto"
        return Stage(name, kind, percent, self.seconds(given, "soak", place), minimum, triggers, advance)


def _shown(value: object) -> str:
    """Return a value as short text for a message."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
