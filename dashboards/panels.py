"""One builder for each kind of panel: a tile with one number, a graph, a band of states, a table.

Each takes a unit, a description that says what is good and what to do, and the alerts that speak about it: their names
are added to the description and their runbooks to the panel's links. Sizes are Grafana's: 24 columns wide, rows of 30 px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
GREY: Final = "#8e8e8e"
BLUE: Final = "blue"
PURPLE: Final = "purple"

DATASOURCE: Final = common.DataSourceRef(type_val="prometheus", uid="${datasource}")

Step = tuple[float | None, str]
"""From this value on (None: from below), this colour."""


def good_from(*steps: tuple[float, str], below: str = RED) -> tuple[Step, ...]:
    """Return thresholds of a number that should be high: `below`, then each colour from its value on."""
    return ((None, below), *steps)


def bad_from(*steps: tuple[float, str]) -> tuple[Step, ...]:
    """Return thresholds of a number that should be low: green, then each colour from its value on."""
    return ((None, GREEN), *steps)


def milliseconds(seconds: float) -> float:
    """Return a duration of the alerts' thresholds in milliseconds, free of the noise of binary fractions."""
    return round(seconds * 1000, 6)


NEUTRAL: Final[tuple[Step, ...]] = ((None, BLUE),)
"""For numbers that are neither good nor bad by themselves."""
NONE_ALLOWED: Final[tuple[Step, ...]] = bad_from((1, RED))
"""For counts whose alert fires above zero: the first whole number above it is red."""


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and how its series are called: a text with `{{label}}`."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """Text for a value: shown instead of the number, in this colour."""

    text: str
    color: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of a certain size, without a place yet. `alerts` are the alerts that it names."""

    model: models.Panel
    width: int
    height: int
    alerts: tuple[str, ...]


def tile(
    title: str,
    query: Query,
    *,
    unit: str,
    description: str,
    steps: Sequence[Step],
    alerts: Sequence[str] = (),
    words: Mapping[int, Words] | None = None,
    no_value: str = "no data",
    decimals: int | None = None,
    trend: bool = False,
    width: int = 4,
    height: int = 5,
) -> Panel:
    """A big number. `trend` asks for the whole time range and draws it behind the last value; else only the value now."""
    panel = (
        stat.Panel()
        .color_mode(common.BigValueColorMode.BACKGROUND_SOLID if words else common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA if trend else common.BigValueGraphMode.NONE)
        .text_mode(common.BigValueTextMode.VALUE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False))
        .thresholds(_thresholds(steps))
        .with_target(_target(query, 0, instant=not trend))
    ).build()
    return _finish(panel, title, unit, description, alerts, width, height, decimals=decimals, no_value=no_value, words=words)


def none_allowed(
    title: str, expr: str, *, description: str, alerts: Sequence[str] = (), no_value: str = "no data", width: int = 4, height: int = 5
) -> Panel:
    """A tile for a count of which one is too many: red from 1 on."""
    return tile(
        title,
        Query(expr),
        unit="none",
        decimals=0,
        steps=NONE_ALLOWED,
        no_value=no_value,
        alerts=alerts,
        description=description,
        width=width,
        height=height,
    )


def counts(
    title: str,
    *queries: Query,
    description: str,
    alerts: Sequence[str] = (),
    stacked: bool = True,
    colors: Mapping[str, str] | None = None,
    width: int = 8,
) -> Panel:
    """A graph of whole things that happened or are there, by their number."""
    return graph(
        title, *queries, unit="none", decimals=0, stacked=stacked, alerts=alerts, description=description, colors=colors, width=width
    )


def graph(
    title: str,
    *queries: Query,
    unit: str,
    description: str,
    steps: Sequence[Step] = (),
    alerts: Sequence[str] = (),
    stacked: bool = False,
    decimals: int | None = None,
    maximum: float | None = None,
    minimum: float | None = 0,
    no_value: str = "no data",
    colors: Mapping[str, str] | None = None,
    width: int = 8,
    height: int = 8,
) -> Panel:
    """Lines over time. `steps` are drawn as dashed lines; gaps stay gaps, because no data is not zero.

    `colors` are those of series whose names mean something good or bad; others have the next of the palette, which means nothing.
    """
    builder = (
        timeseries.Panel()
        .draw_style(common.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(25 if stacked else 6)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(False)
        .stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL if stacked else common.StackingMode.NONE).group("A"))
        .thresholds_style(
            common_builders.GraphThresholdsStyleConfig().mode(
                common.GraphThresholdsStyleMode.DASHED if steps else common.GraphThresholdsStyleMode.OFF
            )
        )
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .tooltip(common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
        .thresholds(_thresholds(steps or ((None, GREEN),)))
    )
    if maximum is not None:
        builder = builder.max(maximum)
    if minimum is not None:
        builder = builder.min(minimum)
    for number, query in enumerate(queries):
        builder = builder.with_target(_target(query, number, instant=False))
    for name, color in (colors or {}).items():
        builder = builder.override_by_name(name, [models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})])
    return _finish(builder.build(), title, unit, description, alerts, width, height, decimals=decimals, no_value=no_value)


def states(
    title: str,
    query: Query,
    *,
    words: Mapping[int, Words],
    description: str,
    alerts: Sequence[str] = (),
    no_value: str = "no data",
    width: int = 8,
    height: int = 8,
) -> Panel:
    """Bands over time, one a series, coloured by what the value means."""
    panel = (
        statetimeline.Panel()
        .show_value(common.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs([])
        )
        .with_target(_target(query, 0, instant=False))
    ).build()
    return _finish(panel, title, "none", description, alerts, width, height, words=words, no_value=no_value)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table: the label of that name or, with an expression, its value. `steps` colour values. `width` is pixels."""

    header: str
    label: str = ""
    expr: str = ""
    unit: str = "none"
    decimals: int | None = None
    steps: Sequence[Step] = ()
    width: int | None = None


def listing(
    title: str,
    *columns: Column,
    rows: str = "",
    description: str,
    alerts: Sequence[str] = (),
    no_value: str = "no data",
    width: int = 12,
    height: int = 8,
) -> Panel:
    """A table of what is now: one line for each series of `rows`, or the columns' own expressions joined by their labels.

    Expressions that are joined must carry the shown labels and no others, or one thing would fill several lines.
    """
    expressions = [rows] if rows else [column.expr for column in columns if column.expr]
    builder = table.Panel().show_header(True).cell_height(common.TableCellHeight.SM)
    for number, expr in enumerate(expressions):
        builder = builder.with_target(_target(Query(expr), number, instant=True, as_table=True))
    # One query gives a column `Value`, several give `Value #A`, `Value #B`, … after joining.
    names = {expr: f"Value #{chr(65 + number)}" if len(expressions) > 1 else "Value" for number, expr in enumerate(expressions)}
    fields = [names[column.expr] if column.expr else column.label for column in columns]
    if len(expressions) > 1:
        builder = builder.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    builder = builder.with_transformation(
        models.DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": fields}})
    ).with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "indexByName": {field: number for number, field in enumerate(fields)},
                "renameByName": {field: column.header for field, column in zip(fields, columns, strict=True)},
            },
        )
    )
    for column in columns:
        builder = builder.override_by_name(column.header, _column_properties(column))
    return _finish(builder.build(), title, "none", description, alerts, width, height, no_value=no_value)


def _column_properties(column: Column) -> list[models.DynamicConfigValue]:
    found = [models.DynamicConfigValue(id_val="unit", value=column.unit if column.expr else "string")]
    if column.decimals is not None:
        found.append(models.DynamicConfigValue(id_val="decimals", value=column.decimals))
    if column.steps:
        found.append(models.DynamicConfigValue(id_val="thresholds", value=_thresholds(column.steps).build()))
        found.append(models.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}))
    if column.width is not None:
        found.append(models.DynamicConfigValue(id_val="custom.width", value=column.width))
    return found


# --- pieces -----------------------------------------------------------------------------------------------------------


def _target(query: Query, number: int, *, instant: bool, as_table: bool = False) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).ref_id(chr(65 + number)).datasource(DATASOURCE)
    target = target.instant() if instant else target.range()
    if as_table:
        target = target.format(PromQueryFormat.TABLE)
    return target.legend_format(query.legend) if query.legend else target


def _thresholds(steps: Sequence[Step]) -> builders.ThresholdsConfig:
    return (
        builders.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=color) for value, color in steps])
    )


def _finish(
    panel: models.Panel,
    title: str,
    unit: str,
    description: str,
    alerts: Sequence[str],
    width: int,
    height: int,
    *,
    no_value: str,
    decimals: int | None = None,
    words: Mapping[int, Words] | None = None,
) -> Panel:
    panel.title = title
    panel.description = description + ("" if not alerts else f"\n\nAlerts: {', '.join(alerts)}.")
    panel.datasource = DATASOURCE
    if panel.field_config is not None:
        defaults = panel.field_config.defaults
        defaults.unit = unit
        defaults.decimals = decimals
        defaults.no_value = no_value
        if words:
            results = {
                str(value): models.ValueMappingResult(text=word.text, color=word.color, index=index)
                for index, (value, word) in enumerate(words.items())
            }
            defaults.mappings = [models.ValueMap(options=results)]
    return Panel(panel, width, height, tuple(alerts))
