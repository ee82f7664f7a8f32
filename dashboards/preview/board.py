"""Reads a generated dashboard as Grafana would: panels with their place, queries, thresholds and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["stat", "timeseries", "state-timeline", "table"]


@dataclass(frozen=True, slots=True)
class Target:
    """One query. `legend` is the name of its series, with `{{label}}`."""

    ref: str
    expr: str
    legend: str
    is_instant: bool


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: a label, or the values of the query `ref`."""

    header: str
    label: str | None
    ref: str | None
    unit: str
    decimals: int | None
    steps: tuple[tuple[float | None, str], ...]
    width: float | None


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel on the grid: `x`, `y`, `width`, `height` in grid units of 1/24 of the width and 30 px."""

    kind: Kind
    title: str
    x: int
    y: int
    width: int
    height: int
    targets: tuple[Target, ...]
    unit: str
    decimals: int | None
    no_value: str
    steps: tuple[tuple[float | None, str], ...]
    words: Mapping[float, tuple[str, str]]
    columns: tuple[Column, ...]
    is_stacked: bool
    is_filled: bool
    shows_steps: bool
    minimum: float | None
    maximum: float | None
    colors: Mapping[str, str]
    """Of series by their names, where the dashboard chooses them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row's title and its line on the grid."""

    title: str
    y: int
    is_collapsed: bool


@dataclass(frozen=True, slots=True)
class Board:
    """A whole dashboard."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    panels: tuple[Panel, ...]


def read(tree: Mapping[str, Any]) -> Board:  # Any: JSON
    """Return the board of a dashboard's JSON; panels of collapsed rows are opened."""
    rows, panels = [], []
    for item in tree["panels"]:
        if item["type"] == "row":
            rows.append(Row(item["title"], item["gridPos"]["y"], item["collapsed"]))
            panels += [_panel(inner) for inner in item["panels"]]
        else:
            panels.append(_panel(item))
    return Board(tree["uid"], tree["title"], tree["description"], tuple(rows), tuple(panels))


def _panel(item: Mapping[str, Any]) -> Panel:
    defaults, place = item["fieldConfig"]["defaults"], item["gridPos"]
    custom = defaults.get("custom", {})
    return Panel(
        kind=item["type"],
        title=item["title"],
        x=place["x"],
        y=place["y"],
        width=place["w"],
        height=place["h"],
        targets=tuple(
            Target(target["refId"], target["expr"], target.get("legendFormat", ""), bool(target.get("instant")))
            for target in item["targets"]
        ),
        unit=defaults["unit"],
        decimals=defaults.get("decimals"),
        no_value=defaults.get("noValue", "no data"),
        steps=_steps(defaults.get("thresholds", {})),
        words={
            float(value): (result["text"], result["color"])
            for mapping in defaults.get("mappings", ())
            for value, result in mapping["options"].items()
        },
        columns=_columns(item) if item["type"] == "table" else (),
        is_stacked=custom.get("stacking", {}).get("mode") == "normal",
        is_filled=item.get("options", {}).get("graphMode") == "area",
        shows_steps=custom.get("thresholdsStyle", {}).get("mode", "off") != "off",
        minimum=defaults.get("min"),
        maximum=defaults.get("max"),
        colors={
            override["matcher"]["options"]: entry["value"]["fixedColor"]
            for override in item["fieldConfig"].get("overrides", ())
            for entry in override["properties"]
            if entry["id"] == "color"
        },
    )


def _steps(thresholds: Mapping[str, Any]) -> tuple[tuple[float | None, str], ...]:
    return tuple((step.get("value"), step["color"]) for step in thresholds.get("steps", ()))


def _columns(item: Mapping[str, Any]) -> tuple[Column, ...]:
    order = next(change["options"] for change in item["transformations"] if change["id"] == "organize")
    found = []
    for name in sorted(order["indexByName"], key=order["indexByName"].__getitem__):
        header = order["renameByName"][name]
        properties: dict[str, Any] = {}
        for override in item["fieldConfig"]["overrides"]:
            if override["matcher"]["options"] == header:
                properties |= {entry["id"]: entry["value"] for entry in override["properties"]}
        ref = "A" if name == "Value" else name.removeprefix("Value #") if name.startswith("Value #") else None
        found.append(
            Column(
                header,
                None if ref else name,
                ref,
                properties.get("unit", "none"),
                properties.get("decimals"),
                _steps(properties.get("thresholds", {})),
                properties.get("custom.width"),
            )
        )
    return tuple(found)
