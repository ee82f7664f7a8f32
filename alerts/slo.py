"""The SLO file: what users are promised, checked key by key when loaded. docs/slo.md explains it; `isomon slo check` reads it.

Words are those of Google's SRE books: an objective promises that a share of events is good over a window; the error
budget is the rest; a burn rate of 1 spends it in exactly that window. Percentages are 0-100 in the file, 0-1 here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args

import yaml

from isolation_monitor.alerts.model import Action
from isolation_monitor.alerts.thresholds import Duration
from isolation_monitor.telemetry import names

SLO_FILE: Final = Path(__file__).parent / "slo.yml"
SOURCES: Final = ("requests", "runs", "handshakes")
"""What availability can be made of."""
LEAST_BAD_EVENTS: Final = 2
LONGEST_WINDOW: Final = Duration("90d")

Indicator = Literal["availability", "answers", "first_event"]
LATENCY_METRICS: Final[Mapping[Indicator, names.Metric]] = {"answers": names.HTTP_DURATION, "first_event": names.RUN_FIRST_EVENT}

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_DURATION: Final = re.compile(r"[1-9][0-9]*(s|m|h|d)")
_KEYS: Final[Mapping[Indicator, tuple[str, ...]]] = {
    "availability": ("of", "routes", "routes_except"),
    "answers": ("within_ms", "routes", "routes_except"),
    "first_event": ("within_ms",),
}
"""Keys of an objective beside those that all have."""
_COMMON_KEYS: Final = ("name", "promise", "indicator", "objective_percent", "services")

_T = TypeVar("_T")


class SloError(ValueError):
    """The SLO file cannot be used; the text says where and what to write."""


@dataclass(frozen=True, slots=True)
class BurnAlert:
    """Tell somebody when `budget_share` (0-1) of the budget goes within the long window, and still goes in the short one."""

    action: Action
    long: Duration
    short: Duration
    budget_share: float

    def burn_rate(self, window: Duration) -> float:
        """Return the burn rate above which it fires.

        >>> BurnAlert("page", Duration("1h"), Duration("5m"), 0.02).burn_rate(Duration("30d"))
        14.4
        """
        return round(self.budget_share * window.seconds / self.long.seconds, 6)


@dataclass(frozen=True, slots=True)
class Objective:
    """One promise. `budget` is the share of events, 0-1, that may be bad."""

    name: str
    promise: str
    indicator: Indicator
    budget: float
    services: str | None = None
    """Regular expression of the services that promise this; None for all."""
    of: tuple[str, ...] = ()
    routes: str | None = None
    routes_except: str | None = None
    within_s: float = 0.0

    @property
    def objective_percent(self) -> float:
        return float(100 - 100 * Decimal(str(self.budget)))


@dataclass(frozen=True, slots=True)
class Slos:
    """Everything in an SLO file."""

    window: Duration
    min_bad_events: int
    burn_alerts: tuple[BurnAlert, ...]
    objectives: tuple[Objective, ...]

    def burns(self, action: Action) -> tuple[BurnAlert, ...]:
        """Return the burn alerts of one action, in the order of the file."""
        return tuple(alert for alert in self.burn_alerts if alert.action == action)


def load(path: Path = SLO_FILE) -> Slos:
    """Return the objectives of a file.

    Raises:
        SloError: the file cannot be read or used.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SloError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SloError(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    try:
        return _slos(tree)
    except SloError as error:
        raise SloError(f"{path}: {error}") from None


def _slos(tree: object) -> Slos:
    root = _mapping(tree, "the file", ("window", "min_bad_events", "burn_alerts", "objectives"))
    window = _duration(root, "window", "")
    if window.seconds > LONGEST_WINDOW.seconds:
        raise SloError(f"window {window} is too long: use {LONGEST_WINDOW} or less, and keep the series as long (retention)")
    least = _need(root, "min_bad_events", "", int)
    if least < LEAST_BAD_EVENTS:
        raise SloError(f"min_bad_events {least} would wake somebody for a single failure: use {LEAST_BAD_EVENTS} or more")
    alerts = tuple(_burn_alert(item, f"burn_alerts[{n}]", window) for n, item in enumerate(_list(root, "burn_alerts")))
    for action in get_args(Action):
        if not any(alert.action == action for alert in alerts):
            raise SloError(f"burn_alerts has none with action {action}: a promise needs at least one page and one ticket")
    objectives = tuple(_objective(item, f"objectives[{n}]") for n, item in enumerate(_list(root, "objectives")))
    known = [objective.name for objective in objectives]
    for name in known:
        if known.count(name) > 1:
            raise SloError(f"objectives: the name {name!r} is there twice: give each its own")
    return Slos(window, least, alerts, objectives)


def _burn_alert(item: object, where: str, window: Duration) -> BurnAlert:
    keys = _mapping(item, where, ("action", "long", "short", "budget_percent"))
    action = _choice(keys, "action", where, get_args(Action))
    long, short = _duration(keys, "long", where), _duration(keys, "short", where)
    if not short.seconds < long.seconds < window.seconds:
        raise SloError(f"{where}: short {short}, long {long} and window {window} must each be longer than the one before")
    share = _percent(keys, "budget_percent", where)
    if share > 1:
        raise SloError(f"{where}: budget_percent is more than the whole budget: use 100 or less")
    return BurnAlert(action, long, short, share)


def _objective(item: object, where: str) -> Objective:
    if isinstance(item, dict) and isinstance(item.get("name"), str):
        where = f"{where} ({item['name']})"
    if not isinstance(item, dict):
        raise SloError(f"{where} is no mapping of keys")
    indicator: Indicator = _choice(item, "indicator", where, get_args(Indicator))
    keys = _mapping(item, where, (*_COMMON_KEYS, *_KEYS[indicator]), optional=("services", "routes", "routes_except"))
    name = _need(keys, "name", where, str)
    if not _NAME.fullmatch(name):
        raise SloError(f"{where}: name {name!r} is no name: use small letters, digits and single hyphens, as in chat-availability")
    promise = _need(keys, "promise", where, str).strip()
    if not promise or "\n" in promise or "{{" in promise:
        raise SloError(f"{where}: promise must be one line of plain text: alerts and dashboards show it")
    return Objective(
        name,
        promise,
        indicator,
        budget=_budget(keys, where),
        services=_pattern(keys, "services", where),
        of=_sources(keys, where) if "of" in _KEYS[indicator] else (),
        routes=_pattern(keys, "routes", where),
        routes_except=_pattern(keys, "routes_except", where),
        within_s=_within_s(keys, where, LATENCY_METRICS[indicator]) if indicator in LATENCY_METRICS else 0.0,
    )


# --- values -----------------------------------------------------------------------------------------------------------


def _budget(keys: Mapping[str, Any], where: str) -> float:
    percent = _need(keys, "objective_percent", where, float)
    if not 0 < percent < 100:
        raise SloError(f"{where}: objective_percent {percent:g} is not between 0 and 100: 100 leaves no budget; write 99.9 for three nines")
    # Decimal: 1 - 0.9999 is 0.00009999999999998899 in binary.
    return float((100 - Decimal(str(keys["objective_percent"]))) / 100)


def _within_s(keys: Mapping[str, Any], where: str, metric: names.Metric) -> float:
    seconds = float(Decimal(str(_need(keys, "within_ms", where, float))) / 1000)
    if seconds not in metric.buckets:
        bounds = ", ".join(f"{float(Decimal(str(bound)) * 1000):g}" for bound in metric.buckets)
        raise SloError(f"{where}: within_ms {keys['within_ms']} is no bound of {metric.name}: use one of {bounds}")
    return seconds


def _sources(keys: Mapping[str, Any], where: str) -> tuple[str, ...]:
    given = keys["of"]
    if not isinstance(given, list) or not given or len(set(map(str, given))) != len(given) or not set(map(str, given)) <= set(SOURCES):
        raise SloError(f"{where}: of must be a list of some of {', '.join(SOURCES)}, each once")
    if "requests" not in given and ("routes" in keys or "routes_except" in keys):
        raise SloError(f"{where}: routes choose requests, which are not in its list `of`")
    return tuple(given)


def _pattern(keys: Mapping[str, Any], key: str, where: str) -> str | None:
    if key not in keys:
        return None
    text = _need(keys, key, where, str)
    try:
        re.compile(text)
    except re.error as error:
        raise SloError(f"{where}: {key} {text!r} is no regular expression: {error}") from None
    if not text or not text.isprintable() or '"' in text or "\\" in text:
        raise SloError(f"{where}: {key} {text!r} holds a quote, a backslash or nothing: write [.] for a dot; it matches the whole name")
    return text


def _percent(keys: Mapping[str, Any], key: str, where: str) -> float:
    percent = _need(keys, key, where, float)
    if percent <= 0:
        raise SloError(f"{where}: {key} {percent:g} is not above 0: write 2 for 2 %")
    return float(Decimal(str(keys[key])) / 100)


def _duration(keys: Mapping[str, Any], key: str, where: str) -> Duration:
    value = _need(keys, key, where, str)
    if not _DURATION.fullmatch(value):
        raise SloError(f"{_at(where)}{key} {value!r} is no duration: write a whole number with s, m, h or d, such as 30d")
    return Duration(value)


def _choice(keys: Mapping[str, Any], key: str, where: str, allowed: Sequence[Any]) -> Any:
    # Any: one of the literals of the caller's type.
    if key not in keys:
        raise SloError(f"{_at(where)}{key} is missing: use one of {', '.join(allowed)}")
    if keys[key] not in allowed:
        raise SloError(f"{_at(where)}{key} {keys[key]!r} does not exist: use one of {', '.join(allowed)}{_meant(keys[key], allowed)}")
    return keys[key]


def _need(keys: Mapping[str, Any], key: str, where: str, kind: type[_T]) -> _T:
    """Return the value of a key in the wanted type; whole numbers do where a number with a fraction is wanted."""
    value = keys[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {int: "a whole number", float: "a number", str: "text in quotes"}[kind]
        raise SloError(f"{_at(where)}{key} is {value!r}: expected {wanted}")
    return value


def _list(keys: Mapping[str, Any], key: str) -> list[object]:
    value = keys[key]
    if not isinstance(value, list) or not value:
        raise SloError(f"{key} must be a list with at least one entry")
    return value


def _mapping(tree: object, where: str, known: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, Any]:
    if not isinstance(tree, dict):
        raise SloError(f"{where} is no mapping of keys: expected {', '.join(known)}")
    for key in tree:
        if key not in known:
            raise SloError(f"{where}: unknown key {key!r}{_meant(key, known)}; known are {', '.join(known)}")
    for key in known:
        if key not in tree and key not in optional:
            raise SloError(f"{where}: {key} is missing")
    return tree


def _meant(word: object, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(str(word), known, 1)
    return f", did you mean {close[0]!r}?" if close else ""


def _at(where: str) -> str:
    return f"{where}: " if where else ""
