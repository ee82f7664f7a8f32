"""A rollout's YAML file: read it, and say with its line what is wrong in it.

What the file may hold is the collector's word (`collector.rollouts.spec`); here only YAML and lines are known. Nothing
leaves this machine before the whole file is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from isolation_monitor.cli.collector_client import UsageError
from isolation_monitor.collector.rollouts.spec import Place, RolloutSpec, SpecError, parse_spec, written

_MAX_BYTES: Final = 256 * 1024
_MAX_NODES: Final = 20_000
"""Aliases of aliases make a small file large."""


def read_file(path: Path) -> RolloutSpec:
    """Return the checked content of the file at `path`.

    Raises:
        UsageError: the file cannot be read or used; the text names each line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({type(error).__name__})") from None
    if len(content) > _MAX_BYTES:
        raise UsageError(f"{path}: has {len(content)} bytes, and a rollout's file may have {_MAX_BYTES}: is it another file?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text") from None
    try:
        value, lines = _load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise UsageError(f"{path}:{line}: is no YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}:1: is no YAML: {str(error).splitlines()[0]}") from None
    except _Mistake as error:
        raise UsageError(f"{path}:{error.line}: {error}") from None
    try:
        return parse_spec(value)
    except SpecError as error:
        found = sorted((_line(lines, place), written(place), text) for place, text in error.mistakes)
        raise UsageError("\n".join(f"{path}:{line}: {where}: {text}" for line, where, text in found)) from None


class _Mistake(Exception):
    """Valid YAML that nobody can have meant."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


def _load(text: str) -> tuple[object, dict[Place, int]]:
    """Return the file's value and the line, from 1, of each place in it."""
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise _Mistake(1, "the file is empty: it needs at least rollout and service")
        lines: dict[Place, int] = {}
        value = _value(loader, root, (), lines)
        return value, lines
    finally:
        loader.dispose()


def _value(loader: yaml.SafeLoader, node: yaml.Node, place: Place, lines: dict[Place, int]) -> Any:  # Any: YAML
    """Return the plain value of `node`. A key that stands twice would silently win or lose: it is refused."""
    if len(lines) > _MAX_NODES:
        raise _Mistake(1, f"the file has more than {_MAX_NODES} entries")
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*place, position), lines) for position, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    found: dict[str, Any] = {}
    for key_node, item in node.value:
        line = key_node.start_mark.line + 1
        # The word as it was written: YAML 1.1 would read `on` as true.
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        if key is None:
            raise _Mistake(line, "a key is no plain word")
        if key in found:
            raise _Mistake(line, f"{key!r} stands there twice")
        lines[*place, key] = line
        found[key] = _value(loader, item, (*place, key), lines)
    return found


def _line(lines: dict[Place, int], place: Place) -> int:
    """Return the line of a place, or of the nearest one around it: what is missing has none of its own."""
    while place not in lines and place:
        place = place[:-1]
    return lines.get(place, 1)
