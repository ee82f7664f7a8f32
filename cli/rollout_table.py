"""Rollouts for a terminal: one, many, and the history of one."""

from __future__ import annotations

from typing import Any, Final

from rich.table import Table
from rich.text import Text

from isolation_monitor.cli.console import stdout_console

Json = dict[str, Any]  # Any: JSON

_COLOURS: Final = {"running": "green", "complete": "green", "held": "yellow", "rolled_back": "red", "ready": "default"}
_PLAN: Final = ("name", "service", "arm", "started_at", "min_exposed_requests", "min_owed_events", "failed_at")


def one(answer: Json) -> None:
    """Print one rollout: what it asks for, and its state where it has one."""
    console = stdout_console()
    for key in _PLAN:
        value = answer.get(key)
        console.print(Text(f"{key:<22}{('all' if key == 'arm' else '-') if value is None else value}"))
    state = answer.get("state")
    if state is None:
        return
    status = state["status"]
    console.print(Text.assemble(f"{'status':<22}", (status, f"bold {_COLOURS.get(status, 'default')}")))
    rows = {
        "stage": f"{state['stage']} ({_share(state)})",
        "soaked": _soak(state),
        "next stage": _following(state),
        "triggers": ", ".join(state["triggers"]) or "-",
        "changed": f"{state['changed_at']} by {state['actor']}",
        "reason": state["reason"],
        "revision": state["revision"],
    }
    if state.get("watched_until"):
        # A collector of an older version says nothing of it.
        rows["watched until"] = f"{state['watched_until']}: harm takes it back"
    for name, value in rows.items():
        # Text, not markup: a reason that somebody wrote must not style the terminal.
        console.print(Text(f"{name:<22}{value}"))


def many(items: list[Json]) -> None:
    """Print rollouts, one a line."""
    if not items:
        print("no rollout yet: isomon rollout apply FILE")
        return
    table = Table("rollout", "service", "status", "stage", "share", "soaked", "changed", "by", "reason", box=None, pad_edge=False)
    for item in items:
        state = item.get("state")
        if state is None:
            row = [item["name"], item["service"], "watched", "-", "-", "-", item["started_at"], "-", "-"]
            table.add_row(*(Text(cell) for cell in row))
            continue
        cells = [Text(item["name"]), Text(item["service"]), Text(state["status"], style=_COLOURS.get(state["status"], "default"))]
        rest = (state["stage"], _share(state), _soak(state), state["changed_at"], state["actor"], state["reason"])
        table.add_row(*cells, *(Text(cell) for cell in rest))
    stdout_console().print(table)


def history(items: list[Json]) -> None:
    """Print changes, newest first."""
    table = Table("when", "revision", "what", "from", "to", "who", "why", box=None, pad_edge=False)
    for item in items:
        ends = [f"{item[f'{end}_status']} {item[f'{end}_stage']}" for end in ("from", "to")]
        cells = (item["at"], str(item["revision"]), item["action"], *ends, item["actor"], item["reason"])
        table.add_row(*(Text(cell) for cell in cells))
    stdout_console().print(table)


def _share(state: Json) -> str:
    if state["stage"] == "off":
        return "nobody"
    if state["percent"] == 0:
        return "internal users"
    held_back = state["holdback_percent"] if state["percent"] > 100 - state["holdback_percent"] else 0
    return f"{state['percent']:g} %" + (f" but {held_back:g} % held back" if held_back else "")


def _soak(state: Json) -> str:
    return "-" if state["soak_s"] is None else f"{state['soaked_s']:.0f} of {state['soak_s']:.0f} s"


def _following(state: Json) -> str:
    if state["next_stage"] is None:
        return "-"
    how = {"auto": "by itself", "manual": "by hand"}.get(state["advance"], "at its start")
    return f"{state['next_stage']} ({how})"
